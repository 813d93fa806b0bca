// sarama for the client matrix; its second argument is the protocol version it is told to speak.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"tidemark/compat/lines"
)

type client struct {
	bootstrap []string
	version   sarama.KafkaVersion
	admin     sarama.ClusterAdmin
	plain     sarama.Client
	producers map[string]sarama.SyncProducer
}

func main() {
	version, err := sarama.ParseKafkaVersion(os.Args[2])
	if err != nil {
		panic(err)
	}
	c := &client{bootstrap: strings.Split(os.Args[1], ","), version: version, producers: map[string]sarama.SyncProducer{}}
	if c.admin, err = sarama.NewClusterAdmin(c.bootstrap, c.config()); err != nil {
		panic(err)
	}
	if c.plain, err = sarama.NewClient(c.bootstrap, c.config()); err != nil {
		panic(err)
	}
	lines.Serve(lines.Client{
		Hello: lines.Map{
			"version": "v1.61.1 as " + os.Args[2], "idempotent": true, "static": version.IsAtLeast(sarama.V2_3_0_0),
			"compressions": []string{"none", "gzip", "snappy", "lz4", "zstd"},
			"acks":         []string{"all", "1", "0"},
			"assignors":    []string{"range", "roundrobin", "sticky"},
		},
		Operations: map[string]lines.Operation{
			"create": c.create, "delete": c.delete, "partitions": c.partitions, "produce": c.produce,
			"consume": c.consume, "read": c.read, "pause": c.pause, "offsets": c.offsets, "committed": c.committed,
			"commit": c.commit, "alter": c.alter, "configs": c.configs, "delete_records": c.deleteRecords,
			"cluster": c.cluster, "topic": c.topic, "groups": c.groups, "group": c.group,
			"delete_group": c.deleteGroup, "describe_all": c.describeAll,
		},
		Member: c.member,
		Code: func(err error) any {
			var code sarama.KError
			if errors.As(err, &code) {
				return int16(code)
			}
			return nil
		},
	})
}

func (c *client) config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = c.version
	config.Consumer.MaxWaitTime = 100 * time.Millisecond
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Producer.Return.Successes = true
	config.Producer.MaxMessageBytes = 5_000_000
	config.Metadata.RefreshFrequency = time.Second
	return config
}

func (c *client) create(r *lines.Request) (lines.Map, error) {
	detail := sarama.TopicDetail{NumPartitions: int32(r.Partitions), ReplicationFactor: 1, ConfigEntries: map[string]*string{}}
	if r.Replication != nil {
		detail.ReplicationFactor = int16(*r.Replication)
	}
	for name, value := range r.Configs {
		detail.ConfigEntries[name] = &value
	}
	return nil, c.admin.CreateTopic(r.Topic, &detail, false)
}

func (c *client) delete(r *lines.Request) (lines.Map, error) {
	return nil, c.admin.DeleteTopic(r.Topic)
}

func (c *client) partitions(r *lines.Request) (lines.Map, error) {
	return nil, c.admin.CreatePartitions(r.Topic, int32(r.Count), nil, false)
}

// partitioner takes the partition a record names, or asks the usual one.
type partitioner struct{ sarama.Partitioner }

func (p partitioner) Partition(m *sarama.ProducerMessage, n int32) (int32, error) {
	if m.Metadata == "chosen" {
		return m.Partition, nil
	}
	return p.Partitioner.Partition(m, n)
}

func (c *client) producer(r *lines.Request) (sarama.SyncProducer, error) {
	name := fmt.Sprint(r.Compression, r.Acks, r.Idempotent)
	if known := c.producers[name]; known != nil {
		return known, nil
	}
	config := c.config()
	config.Producer.Compression = map[string]sarama.CompressionCodec{
		"gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4,
		"zstd": sarama.CompressionZSTD,
	}[r.Compression]
	config.Producer.RequiredAcks = map[string]sarama.RequiredAcks{"0": sarama.NoResponse, "1": sarama.WaitForLocal}[r.Acks]
	if r.Acks == "all" || r.Acks == "" {
		config.Producer.RequiredAcks = sarama.WaitForAll
	}
	config.Producer.Partitioner = func(topic string) sarama.Partitioner {
		return partitioner{sarama.NewHashPartitioner(topic)}
	}
	if r.Idempotent {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
	}
	made, err := sarama.NewSyncProducer(c.bootstrap, config)
	if err == nil {
		c.producers[name] = made
	}
	return made, err
}

func (c *client) produce(r *lines.Request) (lines.Map, error) {
	producer, err := c.producer(r)
	if err != nil {
		return nil, err
	}
	messages := make([]*sarama.ProducerMessage, r.Count)
	for i := range messages {
		messages[i] = &sarama.ProducerMessage{
			Topic: r.Topic, Value: sarama.ByteEncoder(r.Value(i)), Timestamp: r.Time(i),
			Headers: []sarama.RecordHeader{{Key: []byte("n"), Value: fmt.Append(nil, i)}},
		}
		if !r.Keyless {
			messages[i].Key = sarama.ByteEncoder(r.Key(i))
		}
		if r.Partition != nil {
			messages[i].Partition, messages[i].Metadata = int32(*r.Partition), "chosen"
		}
	}
	if err := producer.SendMessages(messages); err != nil {
		var all sarama.ProducerErrors
		if errors.As(err, &all) {
			return nil, all[0].Err
		}
		return nil, err
	}
	rows := [][]any{}
	for i, m := range messages {
		offset := m.Offset
		if r.Acks == "0" {
			offset = -1
		}
		rows = append(rows, lines.Row(int(m.Partition), offset, r.Key(i), r.Value(i), m.Timestamp))
	}
	return lines.Map{"records": rows}, nil
}

func row(m *sarama.ConsumerMessage) []any {
	return lines.Row(int(m.Partition), m.Offset, m.Key, m.Value, m.Timestamp)
}

// handler is a group's member: every record read goes to `took`, which says whether to mark it.
type handler struct {
	joined func(sarama.ConsumerGroupSession)
	took   func(sarama.ConsumerGroupSession, *sarama.ConsumerMessage) bool
}

func (h handler) Setup(s sarama.ConsumerGroupSession) error {
	h.joined(s)
	return nil
}

func (h handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		if h.took(s, m) {
			s.MarkMessage(m, "")
		}
	}
	return nil
}

func (c *client) consume(r *lines.Request) (lines.Map, error) {
	group, err := sarama.NewConsumerGroup(c.bootstrap, r.Group, c.config())
	if err != nil {
		return nil, err
	}
	defer group.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lines.Patience)
	defer cancel()
	var lock sync.Mutex
	rows := [][]any{}
	took := func(s sarama.ConsumerGroupSession, m *sarama.ConsumerMessage) bool {
		lock.Lock()
		defer lock.Unlock()
		if len(rows) == r.Count {
			return false
		}
		rows = append(rows, row(m))
		s.MarkMessage(m, "")
		if len(rows) == r.Count {
			s.Commit()
			cancel()
		}
		return false
	}
	err = group.Consume(ctx, []string{r.Topic}, handler{func(sarama.ConsumerGroupSession) {}, took})
	return lines.Map{"records": rows}, err
}

// read takes records of one partition from an offset on.
func (c *client) read(r *lines.Request) (lines.Map, error) {
	consumer, err := sarama.NewConsumer(c.bootstrap, c.config())
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(r.Topic, int32(*r.Partition), r.Offset)
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	rows, err := take(partition.Messages(), r.Count, lines.Patience)
	return lines.Map{"records": rows}, err
}

func take(from <-chan *sarama.ConsumerMessage, count int, wait time.Duration) ([][]any, error) {
	rows, late := [][]any{}, time.After(wait)
	for len(rows) < count {
		select {
		case m := <-from:
			rows = append(rows, row(m))
		case <-late:
			return rows, nil
		}
	}
	return rows, nil
}

func (c *client) pause(r *lines.Request) (lines.Map, error) {
	consumer, err := sarama.NewConsumer(c.bootstrap, c.config())
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	all := make(chan *sarama.ConsumerMessage)
	done := make(chan struct{})
	defer close(done)
	for _, p := range append(r.Others, *r.Partition) {
		partition, err := consumer.ConsumePartition(r.Topic, int32(p), sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		defer partition.Close()
		if p == *r.Partition {
			consumer.Pause(map[string][]int32{r.Topic: {int32(p)}})
		}
		go func() {
			for m := range partition.Messages() {
				select {
				case all <- m:
				case <-done:
				}
			}
		}()
	}
	before, err := take(all, r.Count*(len(r.Others)+1), 2*time.Second)
	if err != nil {
		return nil, err
	}
	consumer.Resume(map[string][]int32{r.Topic: {int32(*r.Partition)}})
	after, err := take(all, r.Count, lines.Patience)
	return lines.Map{"paused": before, "resumed": after}, err
}

func (c *client) offsets(r *lines.Request) (lines.Map, error) {
	offsets := make([]int64, r.Partitions)
	for p := range offsets {
		var err error
		if offsets[p], err = c.plain.GetOffset(r.Topic, int32(p), r.AtOffset()); err != nil {
			return nil, err
		}
	}
	return lines.Map{"offsets": offsets}, nil
}

func (c *client) committed(r *lines.Request) (lines.Map, error) {
	wanted := make([]int32, r.Partitions)
	for p := range wanted {
		wanted[p] = int32(p)
	}
	found, err := c.admin.ListConsumerGroupOffsets(r.Group, map[string][]int32{r.Topic: wanted})
	if err != nil {
		return nil, err
	}
	offsets := make([]int64, r.Partitions)
	for p := range offsets {
		offsets[p] = -1
		if block := found.GetBlock(r.Topic, int32(p)); block != nil {
			offsets[p] = block.Offset
		}
	}
	return lines.Map{"offsets": offsets}, nil
}

func (c *client) commit(r *lines.Request) (lines.Map, error) {
	done, err := c.admin.AlterConsumerGroupOffsets(r.Group, map[string]map[int32]sarama.OffsetAndMetadata{
		r.Topic: {int32(*r.Partition): {Offset: r.Offset, LeaderEpoch: -1, Metadata: r.Metadata}},
	}, nil)
	if err != nil {
		return nil, err
	}
	if code := done.Errors[r.Topic][int32(*r.Partition)]; code != sarama.ErrNoError {
		return nil, code
	}
	return nil, nil
}

func (c *client) member(r *lines.Request, leave <-chan struct{}, told *lines.Membership) error {
	config := c.config()
	config.Consumer.Group.Session.Timeout = r.Session()
	config.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	config.Consumer.Group.InstanceId = r.Instance
	config.Consumer.Offsets.AutoCommit.Enable = true
	if r.Assignor != "" {
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{map[string]sarama.BalanceStrategy{
			"range": sarama.NewBalanceStrategyRange(), "roundrobin": sarama.NewBalanceStrategyRoundRobin(),
			"sticky": sarama.NewBalanceStrategySticky(),
		}[r.Assignor]}
	}
	group, err := sarama.NewConsumerGroup(c.bootstrap, r.Group, config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-leave
		cancel()
	}()
	joined := func(s sarama.ConsumerGroupSession) { told.Assigned(s.Claims()[r.Topic]) }
	took := func(_ sarama.ConsumerGroupSession, m *sarama.ConsumerMessage) bool {
		told.Read(string(m.Key))
		return true
	}
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{r.Topic}, handler{joined, took}); err != nil {
			return err
		}
	}
	return group.Close()
}

func (c *client) alter(r *lines.Request) (lines.Map, error) {
	if !c.version.IsAtLeast(sarama.V2_3_0_0) {
		entries := map[string]*string{}
		for name, value := range r.Configs {
			entries[name] = &value
		}
		return nil, c.admin.AlterConfig(sarama.TopicResource, r.Topic, entries, false)
	}
	entries := map[string]sarama.IncrementalAlterConfigsEntry{}
	for name, value := range r.Configs {
		entries[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	}
	return nil, c.admin.IncrementalAlterConfig(sarama.TopicResource, r.Topic, entries, false)
}

func (c *client) configs(r *lines.Request) (lines.Map, error) {
	entries, err := c.admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: r.Topic})
	found := map[string]string{}
	for _, entry := range entries {
		found[entry.Name] = entry.Value
	}
	return lines.Map{"configs": found}, err
}

func (c *client) deleteRecords(r *lines.Request) (lines.Map, error) {
	return nil, c.admin.DeleteRecords(r.Topic, map[int32]int64{int32(*r.Partition): r.Before})
}

func (c *client) cluster(*lines.Request) (lines.Map, error) {
	brokers, controller, err := c.admin.DescribeCluster()
	if err != nil {
		return nil, err
	}
	ids, names := []int32{}, []string{}
	for _, broker := range brokers {
		ids = append(ids, broker.ID())
	}
	topics, err := c.admin.ListTopics()
	for name := range topics {
		names = append(names, name)
	}
	return lines.Map{"brokers": ids, "controller": controller, "topics": names}, err
}

func (c *client) topic(r *lines.Request) (lines.Map, error) {
	found, err := c.admin.DescribeTopics([]string{r.Topic})
	if err != nil {
		return nil, err
	}
	if found[0].Err != sarama.ErrNoError {
		return nil, found[0].Err
	}
	partitions := []lines.Map{}
	for _, p := range found[0].Partitions {
		partitions = append(partitions, lines.Map{"leader": p.Leader, "replicas": p.Replicas, "isr": p.Isr})
	}
	return lines.Map{"partitions": partitions}, nil
}

func (c *client) groups(*lines.Request) (lines.Map, error) {
	found, err := c.admin.ListConsumerGroups()
	names := []string{}
	for name := range found {
		names = append(names, name)
	}
	return lines.Map{"groups": names}, err
}

func (c *client) group(r *lines.Request) (lines.Map, error) {
	found, err := c.admin.DescribeConsumerGroups([]string{r.Group})
	if err != nil {
		return nil, err
	}
	if found[0].Err != sarama.ErrNoError {
		return nil, found[0].Err
	}
	return lines.Map{"state": found[0].State, "members": len(found[0].Members)}, nil
}

func (c *client) deleteGroup(r *lines.Request) (lines.Map, error) {
	return nil, c.admin.DeleteConsumerGroup(r.Group)
}

// describeAll makes each of the admin's describing calls, with what it failed with or null.
func (c *client) describeAll(r *lines.Request) (lines.Map, error) {
	said := lines.Map{}
	note := func(name string, err error) {
		if err != nil {
			said[name] = err.Error()
		}
	}
	_, err := c.admin.DescribeConfig(sarama.ConfigResource{Type: sarama.BrokerResource, Name: "1"})
	note("DescribeConfig of a broker", err)
	_, err = c.admin.DescribeLogDirs([]int32{1})
	note("DescribeLogDirs", err)
	_, err = c.admin.Coordinator(r.Group)
	note("Coordinator", err)
	if c.version.IsAtLeast(sarama.V2_4_0_0) {
		_, err = c.admin.ListPartitionReassignments(r.Topic, []int32{0})
		note("ListPartitionReassignments", err)
	}
	if c.version.IsAtLeast(sarama.V2_6_0_0) {
		_, err = c.admin.DescribeClientQuotas(nil, false)
		note("DescribeClientQuotas", err)
	}
	return said, nil
}
