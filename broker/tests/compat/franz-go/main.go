// A small franz-go client for the smoke test: create, produce and consume, each one process.
//
// It speaks the protocol of the driver (see ../README.md): arguments in, one line of text a record out.
package main

import (
	"context"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const patience = 60 * time.Second

type options struct {
	bootstrap, topic, group, compression, prefix string
	partitions, count                            int
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: franz-go create|produce|consume --bootstrap …"))
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.bootstrap, "bootstrap", "", "HOST:PORT,…")
	flags.StringVar(&o.topic, "topic", "", "topic")
	flags.StringVar(&o.group, "group", "", "consumer group")
	flags.StringVar(&o.compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	flags.StringVar(&o.prefix, "prefix", "", "start of every key")
	flags.IntVar(&o.partitions, "partitions", 1, "partitions of a new topic")
	flags.IntVar(&o.count, "count", 0, "records")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run, known := map[string]func(context.Context, options) error{
		"create": create, "produce": produce, "consume": consume,
	}[os.Args[1]]
	if !known {
		fail(fmt.Errorf("no such command: %s", os.Args[1]))
	}
	if err := run(ctx, o); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "franz-go:", err)
	os.Exit(1)
}

func connect(o options, more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(more, kgo.SeedBrokers(strings.Split(o.bootstrap, ",")...))...)
}

func create(ctx context.Context, o options) error {
	client, err := connect(o)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopic(ctx, int32(o.partitions), -1, nil, o.topic)
	return err
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("no such compression: %s", name)
}

func produce(ctx context.Context, o options) error {
	compression, err := codec(o.compression)
	if err != nil {
		return err
	}
	client, err := connect(o, kgo.ProducerBatchCompression(compression), kgo.DefaultProduceTopic(o.topic))
	if err != nil {
		return err
	}
	defer client.Close()
	records := make([]*kgo.Record, o.count)
	for i := range records {
		key := fmt.Sprintf("%s-%d", o.prefix, i)
		value := key + "|" + strings.Repeat("x", i*37%1000)
		header := kgo.RecordHeader{Key: "n", Value: []byte(fmt.Sprint(i))}
		records[i] = &kgo.Record{Key: []byte(key), Value: []byte(value), Headers: []kgo.RecordHeader{header}}
	}
	for _, result := range client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			return result.Err
		}
		r := result.Record
		fmt.Printf("%d %d %s %d\n", r.Partition, r.Offset, r.Key, crc32.ChecksumIEEE(r.Value))
	}
	return nil
}

// consume reads exactly count records in a group and commits what it read, no more.
func consume(ctx context.Context, o options) error {
	client, err := connect(o, kgo.ConsumeTopics(o.topic), kgo.ConsumerGroup(o.group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	var read []*kgo.Record
	for len(read) < o.count {
		fetches := client.PollRecords(ctx, o.count-len(read))
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("after %d of %d records: %w", len(read), o.count, err)
		}
		read = append(read, fetches.Records()...)
	}
	if err := client.CommitRecords(ctx, read...); err != nil {
		return err
	}
	for _, r := range read {
		fmt.Printf("%d %d %s %d\n", r.Partition, r.Offset, r.Key, crc32.ChecksumIEEE(r.Value))
	}
	return client.LeaveGroupContext(ctx)
}
