#!/usr/bin/env python3
"""Reads near the reader (KIP-392): three brokers in three racks over an S3 server; consumers that tell their rack, each in a
group of its own; who served them, and what that cost the bucket. Metrics of the brokers are the evidence.

  near.py --tidemark target/debug/tidemark                       librdkafka (confluent-kafka must be installed)
  near.py --tidemark target/debug/tidemark --java JARS           Kafka's own console consumer too
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from world import HERE, S3, Broker, Bucket, Trouble, metrics, total, wait_for

TOPIC, RECORD = "near", 10_000
SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"


def seen(broker):
    """Of one broker: near reads, their bytes, clients sent away, GETs and their bytes."""
    found = metrics(broker)
    gets = [
        total(found, f"tidemark_bucket_{what}_total", 'verb="get"', f'kind="{kind}"')
        for what in ("requests", "bytes") for kind in ("parcel", "run")
    ]
    names = ("reads", "bytes", "sent", "plans_asked", "plans_unanswered")
    return {**{name: total(found, f"tidemark_near_{name}_total") for name in names},
            "gets": gets[0] + gets[1], "get_bytes": gets[2] + gets[3]}


def produce(address, partitions, mib, batch_bytes=1 << 20):
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "batch.size": batch_bytes,
                         "queue.buffering.max.kbytes": 65536})
    value, count = b"v" * RECORD, mib * (1 << 20) // RECORD
    for n in range(count):
        while True:
            try:
                producer.produce(TOPIC, value, partition=n % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise Trouble("not everything was acknowledged")
    return count


class Reader:
    """A consumer of all partitions, from their start, in a rack."""

    def __init__(self, address, rack, partitions):
        self.consumer = Consumer({"bootstrap.servers": address, "group.id": f"near-{rack}", "client.rack": rack,
                                  "enable.auto.commit": False, "fetch.wait.max.ms": 500})
        self.consumer.assign([TopicPartition(TOPIC, p, 0) for p in range(partitions)])
        self.next = {}

    def read(self, count, patience=120):
        """Until so many records were read since the start, in order; how long it took."""
        begun = time.monotonic()
        while sum(self.next.values()) < count:
            if time.monotonic() - begun > patience:
                raise Trouble(f"{count - sum(self.next.values())} records are missing after {patience} s")
            for message in self.consumer.consume(500, 0.2):
                if message.error():
                    raise Trouble(str(message.error()))
                if message.offset() != self.next.get(message.partition(), 0):
                    raise Trouble(f"offset {message.offset()} of partition {message.partition()} out of its turn")
                self.next[message.partition()] = message.offset() + 1
        return time.monotonic() - begun


def difference(before, after):
    return {name: after[name] - before[name] for name in after}


def told(what, brokers, before):
    for broker, was in zip(brokers, before):
        d = difference(was, seen(broker))
        share = d["gets"] / (d["bytes"] / (4 << 20)) if d["bytes"] else 0
        print(f"  {what:<28} broker {broker.node}: near {d['reads']:.0f} reads, {d['bytes'] / (1 << 20):.1f} MiB; "
              f"GETs {d['gets']:.0f} of {d['get_bytes'] / (1 << 20):.1f} MiB ({share:.2f} per 4 MiB); sent {d['sent']:.0f}; "
              f"asked {d['plans_asked']:.0f}, unanswered {d['plans_unanswered']:.0f}", flush=True)


def leaders(admin):
    rows = admin.list_topics(TOPIC, 10).topics[TOPIC].partitions
    return {p: row.leader for p, row in rows.items()}


def java_reads(jars, address, rack, count):
    command = [HERE / "java" / "kafka-tool", jars, "kafka-console-consumer", "--bootstrap-server",
               address, "--topic", TOPIC, "--from-beginning", "--max-messages", count, "--timeout-ms", 60_000,
               "--command-property", f"client.rack={rack}"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=180)
    if f"Processed a total of {count} messages" not in done.stderr:
        raise Trouble(f"the console consumer: {done.stderr[-800:]}")


def run(args, directory):
    store = S3(directory / "s3")
    more = {"replica.selector.class": SELECTOR, "default.replication.factor": 3, "tidemark.peer.secret": "near",
            "tidemark.bucket.price": "s3", "tidemark.wal.put.rate": 2}
    brokers = [Broker(args.tidemark, n, Bucket.s3(store.endpoint), directory, {**more, "broker.rack": f"zone-{n}"})
               for n in (1, 2, 3)]
    try:
        for broker in brokers:
            broker.start()
        address = brokers[0].address
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic(TOPIC, args.partitions, 3)])[TOPIC].result(30)
        wait_for("the leaders", lambda: len(set(leaders(admin).values())) == 3, 30)
        print("leaders", leaders(admin), flush=True)
        count = produce(address, args.partitions, args.mib)
        time.sleep(1)
        for broker in brokers:
            rack, before = f"zone-{broker.node}", [seen(b) for b in brokers]
            reader = Reader(address, rack, args.partitions)
            took = reader.read(count)
            print(f"{count} records by librdkafka in {rack}: {took:.1f} s", flush=True)
            told("catching up", brokers, before)
            before = [seen(b) for b in brokers]
            more_count = produce(address, args.partitions, args.mib // 4)
            count += more_count
            reader.read(count)
            told("at the tail", brokers, before)
            before = [seen(b) for b in brokers]
            reader.consumer.consume(1, 5.0)
            told("idle for 5 s", brokers, before)
            reader.consumer.close()
        if args.java:
            before = [seen(b) for b in brokers]
            java_reads(args.java, address, "zone-2", count)
            told("Java in zone-2", brokers, before)
        if not any(seen(b)["reads"] for b in brokers):
            raise Trouble("no replica served anything")
        # A replica that dies: its reader goes back to the leaders and misses nothing.
        reader = Reader(address, "zone-3", args.partitions)
        reader.read(count // 2)
        brokers[2].kill()
        reader.read(count)
        print(f"a reader in zone-3 read all {count} records through the death of the broker there", flush=True)
    finally:
        for broker in brokers:
            broker.end()
        store.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True)
    parser.add_argument("--java", help="the folder with Kafka's jars, for its own console consumer")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--mib", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            run(args, Path(directory))
        except Trouble as trouble:
            print(f"near.py: {trouble}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
