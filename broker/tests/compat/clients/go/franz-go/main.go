// franz-go for the client matrix.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"tidemark/compat/lines"
)

type client struct {
	bootstrap []string
	admin     *kadm.Client
	producers map[string]*kgo.Client
}

func main() {
	c := &client{bootstrap: strings.Split(os.Args[1], ","), producers: map[string]*kgo.Client{}}
	own, err := c.connect()
	if err != nil {
		panic(err)
	}
	c.admin = kadm.NewClient(own)
	version := "?"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/twmb/franz-go" {
				version = dep.Version
			}
		}
	}
	lines.Serve(lines.Client{
		Hello: lines.Map{
			"version": version, "idempotent": true, "static": true,
			"compressions": []string{"none", "gzip", "snappy", "lz4", "zstd"},
			"acks":         []string{"all", "1", "0"},
			"assignors":    []string{"range", "roundrobin", "sticky", "cooperative-sticky"},
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
			var code *kerr.Error
			if errors.As(err, &code) {
				return code.Code
			}
			return nil
		},
	})
}

func (c *client) connect(more ...kgo.Opt) (*kgo.Client, error) {
	base := []kgo.Opt{kgo.SeedBrokers(c.bootstrap...), kgo.FetchMaxWait(100 * time.Millisecond), kgo.MetadataMinAge(100 * time.Millisecond), kgo.MetadataMaxAge(time.Second)}
	return kgo.NewClient(append(base, more...)...)
}

func patience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), lines.Patience)
}

func (c *client) create(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	replication := int16(-1)
	if r.Replication != nil {
		replication = int16(*r.Replication)
	}
	configs := map[string]*string{}
	for name, value := range r.Configs {
		configs[name] = kadm.StringPtr(value)
	}
	_, err := c.admin.CreateTopic(ctx, int32(r.Partitions), replication, configs, r.Topic)
	return nil, err
}

func (c *client) delete(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	_, err := c.admin.DeleteTopic(ctx, r.Topic)
	return nil, err
}

func (c *client) partitions(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	done, err := c.admin.UpdatePartitions(ctx, r.Count, r.Topic)
	if err == nil {
		err = done.Error()
	}
	return nil, err
}

func (c *client) producer(r *lines.Request) (*kgo.Client, error) {
	name := fmt.Sprint(r.Compression, r.Acks, r.Idempotent)
	if known := c.producers[name]; known != nil {
		return known, nil
	}
	codec := map[string]kgo.CompressionCodec{
		"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(),
		"zstd": kgo.ZstdCompression(),
	}[r.Compression]
	options := []kgo.Opt{
		kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(5_000_000), kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}),
	}
	switch {
	case r.Idempotent:
	case r.Acks == "0":
		options = append(options, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck()))
	case r.Acks == "1":
		options = append(options, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	default:
		options = append(options, kgo.DisableIdempotentWrite())
	}
	made, err := c.connect(options...)
	if err == nil {
		c.producers[name] = made
	}
	return made, err
}

// partitioner takes the partition a record names, or asks the usual one for records with -1.
type partitioner struct{ usual kgo.Partitioner }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.usual.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

func (p topicPartitioner) RequiresConsistency(*kgo.Record) bool { return true }

func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.TopicPartitioner.Partition(r, n)
}

func (c *client) produce(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	producer, err := c.producer(r)
	if err != nil {
		return nil, err
	}
	records := make([]*kgo.Record, r.Count)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: r.Topic, Key: r.Key(i), Value: r.Value(i), Timestamp: r.Time(i), Partition: -1,
			Headers: []kgo.RecordHeader{{Key: "n", Value: []byte(fmt.Sprint(i))}},
		}
		if r.Partition != nil {
			records[i].Partition = int32(*r.Partition)
		}
	}
	rows := [][]any{}
	for _, result := range producer.ProduceSync(ctx, records...) {
		if result.Err != nil {
			return nil, result.Err
		}
		offset := result.Record.Offset
		if r.Acks == "0" {
			offset = -1
		}
		rows = append(rows, row(result.Record, offset))
	}
	return lines.Map{"records": rows}, nil
}

func row(r *kgo.Record, offset int64) []any {
	return lines.Row(int(r.Partition), offset, r.Key, r.Value, r.Timestamp)
}

// poll reads so many records, or what comes in the time.
func poll(consumer *kgo.Client, count int, wait time.Duration) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var read []*kgo.Record
	for len(read) < count {
		fetches := consumer.PollRecords(ctx, count-len(read))
		read = append(read, fetches.Records()...)
		if ctx.Err() != nil {
			break
		}
		if err := fetches.Err(); err != nil {
			return nil, err
		}
	}
	return read, nil
}

func rows(records []*kgo.Record) [][]any {
	all := [][]any{}
	for _, r := range records {
		all = append(all, row(r, r.Offset))
	}
	return all
}

func (c *client) consume(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	consumer, err := c.connect(kgo.ConsumeTopics(r.Topic), kgo.ConsumerGroup(r.Group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	read, err := poll(consumer, r.Count, lines.Patience)
	if err != nil {
		return nil, err
	}
	if err := consumer.CommitRecords(ctx, read...); err != nil {
		return nil, err
	}
	return lines.Map{"records": rows(read)}, consumer.LeaveGroupContext(ctx)
}

func (c *client) read(r *lines.Request) (lines.Map, error) {
	consumer, err := c.connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		r.Topic: {int32(*r.Partition): kgo.NewOffset().At(r.Offset)},
	}))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	read, err := poll(consumer, r.Count, lines.Patience)
	return lines.Map{"records": rows(read)}, err
}

func (c *client) pause(r *lines.Request) (lines.Map, error) {
	from := map[int32]kgo.Offset{int32(*r.Partition): kgo.NewOffset().AtStart()}
	for _, other := range r.Others {
		from[int32(other)] = kgo.NewOffset().AtStart()
	}
	consumer, err := c.connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Topic: from}))
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	paused := map[string][]int32{r.Topic: {int32(*r.Partition)}}
	consumer.PauseFetchPartitions(paused)
	before, err := poll(consumer, r.Count*len(from), 2*time.Second)
	if err != nil {
		return nil, err
	}
	consumer.ResumeFetchPartitions(paused)
	after, err := poll(consumer, r.Count, lines.Patience)
	return lines.Map{"paused": rows(before), "resumed": rows(after)}, err
}

func (c *client) offsets(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	var found kadm.ListedOffsets
	var err error
	switch at := r.AtOffset(); at {
	case -2:
		found, err = c.admin.ListStartOffsets(ctx, r.Topic)
	case -1:
		found, err = c.admin.ListEndOffsets(ctx, r.Topic)
	default:
		found, err = c.admin.ListOffsetsAfterMilli(ctx, at, r.Topic)
	}
	if err == nil {
		err = found.Error()
	}
	offsets := make([]int64, r.Partitions)
	for p := range offsets {
		one, _ := found.Lookup(r.Topic, int32(p))
		offsets[p] = one.Offset
	}
	return lines.Map{"offsets": offsets}, err
}

func (c *client) committed(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.admin.FetchOffsetsForTopics(ctx, r.Group, r.Topic)
	offsets := make([]int64, r.Partitions)
	for p := range offsets {
		offsets[p] = -1
		if one, ok := found.Lookup(r.Topic, int32(p)); ok {
			offsets[p] = one.At
		}
	}
	return lines.Map{"offsets": offsets}, err
}

func (c *client) commit(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: r.Topic, Partition: int32(*r.Partition), At: r.Offset, LeaderEpoch: -1, Metadata: r.Metadata})
	return nil, c.admin.CommitAllOffsets(ctx, r.Group, offsets)
}

func (c *client) member(r *lines.Request, leave <-chan struct{}, told *lines.Membership) error {
	balancer := map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(),
		"cooperative-sticky": kgo.CooperativeStickyBalancer(),
	}[r.Assignor]
	var lock sync.Mutex
	held := map[int32]bool{}
	change := func(has bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			lock.Lock()
			defer lock.Unlock()
			for _, p := range topics[r.Topic] {
				if has {
					held[p] = true
				} else {
					delete(held, p)
				}
			}
			now := []int32{}
			for p := range held {
				now = append(now, p)
			}
			told.Assigned(now)
		}
	}
	options := []kgo.Opt{
		kgo.ConsumeTopics(r.Topic), kgo.ConsumerGroup(r.Group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(r.Session()),
		kgo.HeartbeatInterval(300 * time.Millisecond), kgo.OnPartitionsAssigned(change(true)),
		kgo.OnPartitionsRevoked(change(false)), kgo.OnPartitionsLost(change(false)),
	}
	if balancer != nil {
		options = append(options, kgo.Balancers(balancer))
	}
	if r.Instance != "" {
		options = append(options, kgo.InstanceID(r.Instance))
	}
	consumer, err := c.connect(options...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-leave
		cancel()
	}()
	for ctx.Err() == nil {
		read := consumer.PollRecords(ctx, 100).Records()
		keys := []string{}
		for _, r := range read {
			keys = append(keys, string(r.Key))
		}
		told.Read(keys...)
		_ = consumer.CommitRecords(ctx, read...) // a rebalance may come between; what is not committed is read again
	}
	bounded, done := patience()
	defer done()
	return consumer.LeaveGroupContext(bounded)
}

func (c *client) alter(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	changes := []kadm.AlterConfig{}
	for name, value := range r.Configs {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: kadm.StringPtr(value)})
	}
	done, err := c.admin.AlterTopicConfigs(ctx, changes, r.Topic)
	for _, one := range done {
		err = errors.Join(err, one.Err)
	}
	return nil, err
}

func (c *client) configs(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	described, err := c.admin.DescribeTopicConfigs(ctx, r.Topic)
	if err != nil {
		return nil, err
	}
	one, err := described.On(r.Topic, nil)
	found := map[string]string{}
	for _, config := range one.Configs {
		found[config.Key] = config.MaybeValue()
	}
	return lines.Map{"configs": found}, err
}

func (c *client) deleteRecords(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: r.Topic, Partition: int32(*r.Partition), At: r.Before})
	done, err := c.admin.DeleteRecords(ctx, offsets)
	if err == nil {
		err = done.Error()
	}
	one, _ := done.Lookup(r.Topic, int32(*r.Partition))
	return lines.Map{"low": one.LowWatermark}, err
}

func (c *client) cluster(*lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.admin.Metadata(ctx)
	return lines.Map{
		"id": found.Cluster, "brokers": found.Brokers.NodeIDs(), "controller": found.Controller,
		"topics": found.Topics.Names(),
	}, err
}

func (c *client) topic(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.admin.ListTopics(ctx, r.Topic)
	if err == nil {
		err = found.Error()
	}
	partitions := []lines.Map{}
	for _, p := range found[r.Topic].Partitions.Sorted() {
		partitions = append(partitions, lines.Map{"leader": p.Leader, "replicas": p.Replicas, "isr": p.ISR})
	}
	return lines.Map{"partitions": partitions}, err
}

func (c *client) groups(*lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.admin.ListGroups(ctx)
	return lines.Map{"groups": found.Groups()}, err
}

func (c *client) group(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	found, err := c.admin.DescribeGroups(ctx, r.Group)
	if err == nil {
		err = found.Error()
	}
	return lines.Map{"state": found[r.Group].State, "members": len(found[r.Group].Members)}, err
}

func (c *client) deleteGroup(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	_, err := c.admin.DeleteGroup(ctx, r.Group)
	return nil, err
}

// describeAll makes each of kadm's describing calls, with what it failed with or null.
func (c *client) describeAll(r *lines.Request) (lines.Map, error) {
	ctx, cancel := patience()
	defer cancel()
	said := lines.Map{}
	note := func(name string, err error) {
		if err != nil {
			said[name] = err.Error()
		}
	}
	_, err := c.admin.BrokerMetadata(ctx)
	note("BrokerMetadata", err)
	brokers, err := c.admin.DescribeBrokerConfigs(ctx, 1)
	note("DescribeBrokerConfigs", err)
	for _, one := range brokers {
		note("DescribeBrokerConfigs", one.Err)
	}
	_, err = c.admin.ApiVersions(ctx)
	note("ApiVersions", err)
	logDirs, err := c.admin.DescribeAllLogDirs(ctx, nil)
	logDirs.Each(func(one kadm.DescribedLogDir) { err = errors.Join(err, one.Err) })
	note("DescribeAllLogDirs", err)
	described, err := c.admin.DescribeGroups(ctx, r.Group)
	note("DescribeGroups", errors.Join(err, described.Error()))
	lag, err := c.admin.Lag(ctx, r.Group)
	note("Lag", errors.Join(err, lag.Error()))
	offsets, err := c.admin.ListMaxTimestampOffsets(ctx, r.Topic)
	note("ListMaxTimestampOffsets", errors.Join(err, offsets.Error()))
	ends, err := c.admin.OffsetForLeaderEpoch(ctx, epochZero(r.Topic))
	note("OffsetForLeaderEpoch", err)
	for _, topic := range ends {
		for _, end := range topic {
			note("OffsetForLeaderEpoch", end.Err)
		}
	}
	_, err = c.admin.ListPartitionReassignments(ctx, nil)
	note("ListPartitionReassignments", err)
	_, err = c.admin.DescribeClientQuotas(ctx, false, nil)
	note("DescribeClientQuotas", err)
	_, err = c.admin.ListTransactions(ctx, nil, nil)
	note("ListTransactions", err)
	_, err = c.admin.DescribeProducers(ctx, nil)
	note("DescribeProducers", err)
	return said, nil
}

func epochZero(topic string) kadm.OffsetForLeaderEpochRequest {
	request := kadm.OffsetForLeaderEpochRequest{}
	request.Add(topic, 0, 0)
	return request
}
