// kafka-go (segmentio) for the client matrix.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"tidemark/compat/lines"
)

type client struct {
	bootstrap []string
	raw       *kafka.Client
	kept      *kafka.Transport
	writers   map[string]*kafka.Writer
	lock      sync.Mutex
	acked     [][]any
}

func main() {
	c := &client{bootstrap: strings.Split(os.Args[1], ","), writers: map[string]*kafka.Writer{}}
	c.kept = &kafka.Transport{}
	c.raw = &kafka.Client{Addr: kafka.TCP(c.bootstrap...), Timeout: lines.Patience, Transport: c.kept}
	lines.Serve(lines.Client{
		Hello: lines.Map{
			"version": "v0.4.51", "idempotent": false, "static": false,
			"compressions": []string{"none", "gzip", "snappy", "lz4", "zstd"},
			"acks":         []string{"all", "1", "0"},
			"assignors":    []string{"range", "roundrobin"},
		},
		Operations: map[string]lines.Operation{
			"create": c.create, "delete": c.delete, "partitions": c.partitions, "produce": known(c.produce),
			"consume": c.consume, "read": c.read, "offsets": known(c.offsets), "committed": c.committed,
			"commit": c.commit, "alter": c.alter, "configs": c.configs, "cluster": c.cluster, "topic": c.topic,
			"groups": c.groups, "group": c.group, "delete_group": c.deleteGroup, "describe_all": c.describeAll,
		},
		Member: c.member,
		Code: func(err error) any {
			var many kafka.WriteErrors
			if errors.As(err, &many) {
				for _, one := range many {
					if one != nil {
						err = one
						break
					}
				}
			}
			var large kafka.MessageTooLargeError
			if errors.As(err, &large) {
				return int(kafka.MessageSizeTooLarge)
			}
			var code kafka.Error
			if errors.As(err, &code) {
				return int(code)
			}
			return nil
		},
	})
}

func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), lines.Patience)
}

func (c *client) create(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	topic := kafka.TopicConfig{Topic: r.Topic, NumPartitions: r.Partitions, ReplicationFactor: 1}
	if r.Replication != nil {
		topic.ReplicationFactor = *r.Replication
	}
	for name, value := range r.Configs {
		topic.ConfigEntries = append(topic.ConfigEntries, kafka.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	done, err := c.raw.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{topic}})
	if err == nil {
		err = done.Errors[r.Topic]
	}
	return nil, err
}

func (c *client) delete(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	done, err := c.raw.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{r.Topic}})
	if err == nil {
		err = done.Errors[r.Topic]
	}
	return nil, err
}

func (c *client) partitions(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	done, err := c.raw.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{
		Topics: []kafka.TopicPartitionsConfig{{Name: r.Topic, Count: int32(r.Count)}},
	})
	if err == nil {
		err = done.Errors[r.Topic]
	}
	return nil, err
}

// balancer takes the partition a record names, or hashes its key. Writers have no other way to choose one.
type balancer struct{ hash kafka.Hash }

func (b *balancer) Balance(m kafka.Message, partitions ...int) int {
	if chosen, ok := m.WriterData.(int); ok {
		return chosen
	}
	return b.hash.Balance(m, partitions...)
}

func (c *client) writer(r *lines.Request) *kafka.Writer {
	name := fmt.Sprint(r.Compression, r.Acks)
	if known := c.writers[name]; known != nil {
		return known
	}
	acks := map[string]kafka.RequiredAcks{"0": kafka.RequireNone, "1": kafka.RequireOne}
	writer := &kafka.Writer{
		Addr: kafka.TCP(c.bootstrap...), Balancer: &balancer{}, BatchBytes: 5_000_000, BatchTimeout: 5 * time.Millisecond,
		RequiredAcks: kafka.RequireAll, MaxAttempts: 20,
		Compression: map[string]kafka.Compression{
			"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
		}[r.Compression],
		Completion: func(messages []kafka.Message, err error) {
			c.lock.Lock()
			defer c.lock.Unlock()
			for _, m := range messages {
				offset := m.Offset
				if r.Acks == "0" {
					offset = -1
				}
				c.acked = append(c.acked, lines.Row(m.Partition, offset, m.Key, m.Value, m.Time))
			}
		},
		Transport: &kafka.Transport{MetadataTTL: 500 * time.Millisecond},
	}
	if chosen, known := acks[r.Acks]; known {
		writer.RequiredAcks = chosen
	}
	c.writers[name] = writer
	return writer
}

// known runs a request again while the client's own metadata does not know a new topic yet.
func known(run lines.Operation) lines.Operation {
	return func(r *lines.Request) (lines.Map, error) {
		for tries := 1; ; tries++ {
			done, err := run(r)
			if !errors.Is(err, kafka.UnknownTopicOrPartition) || tries == 30 {
				return done, err
			}
			time.Sleep(300 * time.Millisecond)
		}
	}
}

func (c *client) produce(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	messages := make([]kafka.Message, r.Count)
	for i := range messages {
		messages[i] = kafka.Message{
			Topic: r.Topic, Key: r.Key(i), Value: r.Value(i), Time: r.Time(i),
			Headers: []kafka.Header{{Key: "n", Value: fmt.Append(nil, i)}},
		}
		if r.Partition != nil {
			messages[i].WriterData = *r.Partition
		}
	}
	c.lock.Lock()
	c.acked = [][]any{}
	c.lock.Unlock()
	if err := c.writer(r).WriteMessages(ctx, messages...); err != nil {
		return nil, err
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	return lines.Map{"records": c.acked}, nil
}

func row(m kafka.Message) []any {
	return lines.Row(m.Partition, m.Offset, m.Key, m.Value, m.Time)
}

func (c *client) consume(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.bootstrap, GroupID: r.Group, Topic: r.Topic, StartOffset: kafka.FirstOffset,
		MaxWait: 100 * time.Millisecond, MaxBytes: 10_000_000,
	})
	defer reader.Close()
	rows := [][]any{}
	for len(rows) < r.Count {
		m, err := reader.FetchMessage(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row(m))
		if err := reader.CommitMessages(ctx, m); err != nil {
			return nil, err
		}
	}
	return lines.Map{"records": rows}, nil
}

func (c *client) read(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.bootstrap, Topic: r.Topic, Partition: *r.Partition, MaxWait: 100 * time.Millisecond,
		MaxBytes: 10_000_000,
	})
	defer reader.Close()
	if err := reader.SetOffset(r.Offset); err != nil {
		return nil, err
	}
	rows := [][]any{}
	for len(rows) < r.Count {
		m, err := reader.FetchMessage(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row(m))
	}
	return lines.Map{"records": rows}, nil
}

func (c *client) offsets(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	wanted := []kafka.OffsetRequest{}
	for p := range r.Partitions {
		wanted = append(wanted, kafka.OffsetRequest{Partition: p, Timestamp: r.AtOffset()})
	}
	found, err := c.raw.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{r.Topic: wanted}})
	if err != nil {
		return nil, err
	}
	offsets := make([]int64, r.Partitions)
	for _, one := range found.Topics[r.Topic] {
		if one.Error != nil {
			return nil, one.Error
		}
		switch r.AtOffset() {
		case -2:
			offsets[one.Partition] = one.FirstOffset
		case -1:
			offsets[one.Partition] = one.LastOffset
		default:
			offsets[one.Partition] = -1
			for offset := range one.Offsets {
				offsets[one.Partition] = offset
			}
		}
	}
	return lines.Map{"offsets": offsets}, nil
}

func (c *client) committed(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	wanted := []int{}
	for p := range r.Partitions {
		wanted = append(wanted, p)
	}
	found, err := c.raw.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: r.Group, Topics: map[string][]int{r.Topic: wanted}})
	if err != nil {
		return nil, err
	}
	offsets := make([]int64, r.Partitions)
	for _, one := range found.Topics[r.Topic] {
		offsets[one.Partition] = one.CommittedOffset
	}
	return lines.Map{"offsets": offsets}, found.Error
}

func (c *client) commit(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	done, err := c.raw.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: r.Group, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{r.Topic: {{Partition: *r.Partition, Offset: r.Offset, Metadata: r.Metadata}}},
	})
	if err != nil {
		return nil, err
	}
	return nil, done.Topics[r.Topic][0].Error
}

func (c *client) member(r *lines.Request, leave <-chan struct{}, told *lines.Membership) error {
	config := kafka.ConsumerGroupConfig{
		ID: r.Group, Brokers: c.bootstrap, Topics: []string{r.Topic}, StartOffset: kafka.FirstOffset,
		HeartbeatInterval: 300 * time.Millisecond, SessionTimeout: r.Session(), RebalanceTimeout: 10 * time.Second,
	}
	if r.Assignor != "" {
		config.GroupBalancers = []kafka.GroupBalancer{map[string]kafka.GroupBalancer{
			"range": kafka.RangeGroupBalancer{}, "roundrobin": kafka.RoundRobinGroupBalancer{},
		}[r.Assignor]}
	}
	group, err := kafka.NewConsumerGroup(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-leave
		cancel()
	}()
	for ctx.Err() == nil {
		generation, err := group.Next(ctx)
		if err != nil {
			continue // a rebalance that failed is tried again
		}
		held := []int32{}
		for _, one := range generation.Assignments[r.Topic] {
			held = append(held, int32(one.ID))
			generation.Start(func(ctx context.Context) { c.follow(ctx, r.Topic, one, generation, told) })
		}
		told.Assigned(held)
	}
	return group.Close()
}

// follow reads a partition until the generation ends.
func (c *client) follow(ctx context.Context, topic string, from kafka.PartitionAssignment, generation *kafka.Generation, told *lines.Membership) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: c.bootstrap, Topic: topic, Partition: from.ID, MaxWait: 100 * time.Millisecond, MaxBytes: 10_000_000,
	})
	defer reader.Close()
	if err := reader.SetOffset(from.Offset); err != nil {
		return
	}
	for {
		m, err := reader.FetchMessage(ctx)
		if err != nil {
			return
		}
		c.lock.Lock()
		told.Read(string(m.Key))
		c.lock.Unlock()
		_ = generation.CommitOffsets(map[string]map[int]int64{topic: {from.ID: m.Offset + 1}}) // else it is read again
	}
}

func (c *client) alter(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	configs := []kafka.IncrementalAlterConfigsRequestConfig{}
	for name, value := range r.Configs {
		configs = append(configs, kafka.IncrementalAlterConfigsRequestConfig{
			Name: name, Value: value, ConfigOperation: kafka.ConfigOperationSet,
		})
	}
	done, err := c.raw.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{
		Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: r.Topic, Configs: configs,
		}},
	})
	if err != nil {
		return nil, err
	}
	return nil, done.Resources[0].Error
}

func (c *client) describe(kind kafka.ResourceType, name string) (*kafka.DescribeConfigsResponse, error) {
	ctx, cancel := patience()
	defer cancel()
	return c.raw.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{
		Resources: []kafka.DescribeConfigRequestResource{{ResourceType: kind, ResourceName: name}},
	})
}

func (c *client) configs(r *lines.Request) (lines.Map, error) {
	done, err := c.describe(kafka.ResourceTypeTopic, r.Topic)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, entry := range done.Resources[0].ConfigEntries {
		found[entry.ConfigName] = entry.ConfigValue
	}
	return lines.Map{"configs": found}, done.Resources[0].Error
}

func (c *client) cluster(*lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.raw.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	brokers, topics := []int{}, []string{}
	for _, broker := range found.Brokers {
		brokers = append(brokers, broker.ID)
	}
	for _, topic := range found.Topics {
		topics = append(topics, topic.Name)
	}
	return lines.Map{"id": found.ClusterID, "brokers": brokers, "controller": found.Controller.ID, "topics": topics}, nil
}

func ids(brokers []kafka.Broker) []int {
	all := []int{}
	for _, broker := range brokers {
		all = append(all, broker.ID)
	}
	return all
}

func (c *client) topic(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.raw.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{r.Topic}})
	if err != nil {
		return nil, err
	}
	partitions := []lines.Map{}
	for _, p := range found.Topics[0].Partitions {
		partitions = append(partitions, lines.Map{"leader": p.Leader.ID, "replicas": ids(p.Replicas), "isr": ids(p.Isr)})
	}
	return lines.Map{"partitions": partitions}, found.Topics[0].Error
}

func (c *client) groups(*lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.raw.ListGroups(ctx, &kafka.ListGroupsRequest{})
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, group := range found.Groups {
		names = append(names, group.GroupID)
	}
	return lines.Map{"groups": names}, found.Error
}

func (c *client) group(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.raw.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{r.Group}})
	if err != nil {
		return nil, err
	}
	group := found.Groups[0]
	return lines.Map{"state": group.GroupState, "members": len(group.Members)}, group.Error
}

func (c *client) deleteGroup(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	// The broker was restarted: kafka-go learns that a connection it kept is closed only by using it, and then gives up.
	c.kept.CloseIdleConnections()
	done, err := c.raw.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{r.Group}})
	if err == nil {
		err = done.Errors[r.Group]
	}
	return nil, err
}

// describeAll makes each of the client's describing calls, with what it failed with or null.
func (c *client) describeAll(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	said := lines.Map{}
	note := func(name string, err error) {
		if err != nil {
			said[name] = err.Error()
		}
	}
	_, err := c.raw.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	note("ApiVersions", err)
	broker, err := c.describe(kafka.ResourceTypeBroker, "1")
	note("DescribeConfigs of a broker", err)
	if err == nil {
		note("DescribeConfigs of a broker", broker.Resources[0].Error)
	}
	_, err = c.raw.ListPartitionReassignments(ctx, &kafka.ListPartitionReassignmentsRequest{})
	note("ListPartitionReassignments", err)
	_, err = c.raw.DescribeClientQuotas(ctx, &kafka.DescribeClientQuotasRequest{})
	note("DescribeClientQuotas", err)
	_, err = c.raw.FindCoordinator(ctx, &kafka.FindCoordinatorRequest{Key: r.Group, KeyType: kafka.CoordinatorKeyTypeConsumer})
	note("FindCoordinator", err)
	return said, nil
}
