#!/usr/bin/env python3
"""confluent-kafka (librdkafka) for the smoke test: create, produce and consume, each one process.

It speaks the protocol of the driver (see README.md): arguments in, one line of text a record out.
"""
import argparse
import sys
import time
import zlib

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE_S = 60


def show(partition, offset, key, value):
    print(partition, offset, key.decode(), zlib.crc32(value))


def create(args):
    admin = AdminClient({"bootstrap.servers": args.bootstrap})
    made = admin.create_topics([NewTopic(args.topic, args.partitions)])
    made[args.topic].result(PATIENCE_S)


def produce(args):
    producer = Producer({"bootstrap.servers": args.bootstrap, "compression.type": args.compression})
    delivered = []
    for i in range(args.count):
        key = f"{args.prefix}-{i}"
        value = key + "|" + "x" * (i * 37 % 1000)
        producer.produce(
            args.topic,
            key=key,
            value=value,
            headers={"n": str(i)},
            on_delivery=lambda error, message: delivered.append((error, message)),
        )
        producer.poll(0)
    left = producer.flush(PATIENCE_S)
    if left:
        sys.exit(f"confluent-kafka: {left} records were not delivered in {PATIENCE_S} s")
    for error, message in delivered:
        if error is not None:
            sys.exit(f"confluent-kafka: {error}")
        show(message.partition(), message.offset(), message.key(), message.value())


def consume(args):
    """Reads exactly `count` records in a group and commits what it read, no more."""
    consumer = Consumer(
        {
            "bootstrap.servers": args.bootstrap,
            "group.id": args.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([args.topic])
    read, upto, deadline = 0, {}, time.monotonic() + PATIENCE_S
    while read < args.count:
        if time.monotonic() > deadline:
            sys.exit(f"confluent-kafka: read {read} of {args.count} records in {PATIENCE_S} s")
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        show(message.partition(), message.offset(), message.key(), message.value())
        upto[message.partition()] = message.offset() + 1
        read += 1
    offsets = [TopicPartition(args.topic, partition, offset) for partition, offset in upto.items()]
    for committed in consumer.commit(offsets=offsets, asynchronous=False):
        if committed.error:
            raise KafkaException(committed.error)
    consumer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["create", "produce", "consume"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group")
    parser.add_argument("--compression", default="none")
    parser.add_argument("--prefix", default="")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--count", type=int, default=0)
    args = parser.parse_args()
    {"create": create, "produce": produce, "consume": consume}[args.command](args)


if __name__ == "__main__":
    main()
