#!/usr/bin/env python3
"""The same records to a compacted topic of Apache Kafka and of Tidemark; when both have compacted, what a consumer of
librdkafka reads is compared record by record: offsets, keys, values, times, and what look-ups by offset and time give.

  compaction.py --tidemark target/debug/tidemark [--built DIR]

Records that only close a segment, for Kafka's sake, are left out of the comparison.
"""
import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from roster import java
from world import HERE, ApacheKafka, Broker, Bucket, Trouble

TOPIC = "latest"
CONFIG = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "1500",
    "segment.ms": "1000",
    "message.timestamp.type": "CreateTime",
}
KAFKA = {"log.cleaner.backoff.ms": 300, "log.retention.check.interval.ms": 500}
OURS = {**KAFKA, "tidemark.cut.ms": 400, "offsets.topic.num.partitions": 2}
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
KEYS, ROUNDS = 60, 5
PATIENCE_S = 60


class Peer:
    def __init__(self, address):
        self.address, self.closes = address, 0
        admin = AdminClient({"bootstrap.servers": address})
        for future in admin.create_topics([NewTopic(TOPIC, 1, 1, config=CONFIG)]).values():
            future.result(30)

    def produce(self, records, **settings):
        """Each with key, value or None, and time, in batches of their own kind."""
        failed = []
        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 20, **settings})
        for key, value, at in records:
            producer.produce(
                TOPIC, key=key, value=value, timestamp=at, partition=0,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
        producer.flush(30)
        if failed:
            raise Trouble(f"a record was refused: {failed[0]}")

    def close(self, at):
        """Has Kafka close its segment: by a record whose time is segment.ms after that of the segment's first."""
        for _ in range(2):
            self.closes += 1
            self.produce([(f"close-{self.closes}", "x", at + 2_000 * self.closes)])

    def consumer(self):
        return Consumer({"bootstrap.servers": self.address, "group.id": "none", "enable.auto.commit": False,
                         "enable.partition.eof": True, "fetch.wait.max.ms": 50})

    def read(self, offset=0, count=None):
        """From there to the end."""
        consumer, found = self.consumer(), []
        consumer.assign([TopicPartition(TOPIC, 0, offset)])
        until = time.monotonic() + 30
        while time.monotonic() < until and (count is None or len(found) < count):
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                break
            found.append((message.offset(), message.key().decode(), message.value(), message.timestamp()[1]))
        consumer.close()
        return found

    def at_time(self, at):
        consumer = self.consumer()
        found = consumer.offsets_for_times([TopicPartition(TOPIC, 0, at)], timeout=30)[0].offset
        consumer.close()
        return found

    def ends(self):
        consumer = self.consumer()
        found = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=30)
        consumer.close()
        return found

    def compacted(self, expected):
        """What is there once there is nothing more of these records than the `expected` ones."""
        until = time.monotonic() + PATIENCE_S
        while True:
            found = [record for record in self.read() if not record[1].startswith("close-")]
            if [(key, value) for _, key, value, _ in found] == expected:
                return found
            if time.monotonic() > until:
                had = {(key, value) for _, key, value, _ in found}
                raise Trouble(f"not compacted: {len(found)} records instead of {len(expected)}; too many: "
                              f"{[f for f in found if (f[1], f[2]) not in expected][:3]}, too few: "
                              f"{[e for e in expected if e not in had][:3]}")
            time.sleep(0.5)


def newest(records):
    """Of each key the last, in order."""
    last = {key: place for place, (key, _, _) in enumerate(records)}
    kept = [record for place, record in enumerate(records) if last[record[0]] == place]
    return [(key, value.encode() if value is not None else None) for key, value, _ in kept]


def converse(address, began):
    """What one peer answers, by what it was asked."""
    peer, said, written = Peer(address), {}, []
    at = began
    for number in range(ROUNDS):
        records = []
        for key in range(KEYS):
            at += 7
            deletes = number == ROUNDS - 1 and key % 10 == 3
            value = None if deletes else f"{number}-{key}-" + "v" * (key * 37 % 400)
            # The last round leaves out some keys: theirs from the round before is the newest.
            if number < ROUNDS - 1 or key % 4 != 1:
                records.append((f"key-{key}", value, at))
        idempotent = {"enable.idempotence": True} if number % 2 else {}
        peer.produce(records, **{"compression.type": CODECS[number], "batch.num.messages": 17, **idempotent})
        written += records
    peer.close(at)
    said["after the first pass"] = peer.compacted(newest(written))
    said["from each offset"] = [peer.read(offset, 1)[:1] for offset in range(0, 200, 23)]
    said["by time"] = [peer.at_time(began + step) for step in range(0, 7 * KEYS * ROUNDS, 101)]
    time.sleep(2)  # past the horizon
    more = [(f"key-{key}", "again", at + key) for key in range(0, KEYS, 7)]
    peer.produce(more)
    written += more
    peer.close(at + KEYS)
    left = [(key, value) for key, value in newest(written) if value is not None]
    said["after the horizon"] = peer.compacted(left)
    said["ends"] = peer.ends()
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    parser.add_argument("--tidemark", default=target / "debug" / "tidemark", help="the broker's binary")
    parser.add_argument("--built", type=Path, default=target / "compat", help="where Kafka's jars are kept")
    args = parser.parse_args()
    java(args.built.absolute())
    answers, failed, passed = [], 0, 0
    began = int(time.time() * 1000) - 60_000
    with tempfile.TemporaryDirectory(prefix="tidemark-compaction-") as directory:
        theirs = ApacheKafka(args.built.absolute() / "java", directory, KAFKA)
        ours = Broker(args.tidemark, 1, Bucket.directory(Path(directory) / "bucket"), directory, OURS)
        for name, broker in (("Apache Kafka", theirs), ("Tidemark", ours)):
            try:
                broker.start()
                answers.append(converse(broker.address, began))
            except Trouble as trouble:
                sys.exit(f"compaction: {name}: {trouble}")
            finally:
                broker.end()
    for what, kafka in answers[0].items():
        same = kafka == answers[1][what]
        passed, failed = passed + same, failed + (not same)
        print(f"{'ok  ' if same else 'FAIL'} {what}", flush=True)
        if not same:
            print(f"     Apache Kafka {kafka}\n     Tidemark     {answers[1][what]}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
