#!/usr/bin/env python3
"""confluent-kafka (librdkafka) for the client matrix."""
import sys
import time

import confluent_kafka
from confluent_kafka import (
    OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

import lines

PATIENCE_S = 30


def done(futures):
    return [future.result(PATIENCE_S) for future in futures.values()]


class Confluent:
    def __init__(self, bootstrap):
        self.base = {"bootstrap.servers": bootstrap, "log_level": 2, "reconnect.backoff.max.ms": 500}
        self.admin = AdminClient(self.base)
        self.producers = {}

    def hello(self):
        return {
            "version": f"{confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}",
            "ops": lines.operations(self),
            "compressions": ["none", "gzip", "snappy", "lz4", "zstd"],
            "acks": ["all", "1", "0"],
            "assignors": ["range", "roundrobin", "cooperative-sticky"],
            "idempotent": True,
            "static": True,
        }

    def create(self, topic, partitions, replication=-1, configs=None):
        done(self.admin.create_topics([NewTopic(topic, partitions, replication, config=configs or {})]))

    def delete(self, topic):
        done(self.admin.delete_topics([topic]))

    def partitions(self, topic, count):
        done(self.admin.create_partitions([NewPartitions(topic, count)]))

    def _producer(self, compression, acks, idempotent):
        name = (compression, acks, idempotent)
        if name not in self.producers:
            self.producers[name] = Producer({
                **self.base, "compression.type": compression, "acks": acks, "enable.idempotence": idempotent,
                "message.max.bytes": 5_000_000, "linger.ms": 5,
            })
        return self.producers[name]

    def produce(self, topic, count, prefix="r", compression="none", acks="all", idempotent=False, partition=-1,
                timestamp=None, size=None, keyless=False):
        producer = self._producer(compression, acks, idempotent)
        delivered = []
        for i in range(count):
            key = f"{prefix}-{i}"
            value = lines.value_of(key, i, size)
            more = {} if timestamp is None else {"timestamp": timestamp + 1000 * i}
            producer.produce(
                topic, key=None if keyless else key, value=value, partition=partition, headers={"n": str(i)},
                on_delivery=lambda error, message: delivered.append((error, message)), **more,
            )
            producer.poll(0)
        if left := producer.flush(PATIENCE_S):
            raise TimeoutError(f"{left} of {count} records were not delivered")
        for error, _ in delivered:
            if error is not None:
                raise KafkaException(error)
        return {"records": [
            lines.row(m.partition(), m.offset() if acks != "0" else -1, m.key(), m.value()) for _, m in delivered
        ]}

    def _consumer(self, group="unused", **more):
        return Consumer({
            **self.base, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "fetch.wait.max.ms": 100, **more,
        })

    def _poll(self, consumer, count, seconds=PATIENCE_S):
        read, deadline = [], time.monotonic() + seconds
        while len(read) < count and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            read.append(lines.row(
                message.partition(), message.offset(), message.key(), message.value(), message.timestamp()[1]
            ))
        return read

    def consume(self, topic, group, count):
        consumer = self._consumer(group)
        try:
            consumer.subscribe([topic])
            records = self._poll(consumer, count)
            upto = {record[0]: record[1] + 1 for record in records}
            for committed in consumer.commit(
                offsets=[TopicPartition(topic, p, offset) for p, offset in upto.items()], asynchronous=False
            ):
                if committed.error:
                    raise KafkaException(committed.error)
        finally:
            consumer.close()
        return {"records": records}

    def read(self, topic, partition, offset, count):
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(topic, partition, offset)])
            return {"records": self._poll(consumer, count)}
        finally:
            consumer.close()

    def pause(self, topic, partition, others, count):
        consumer = self._consumer()
        try:
            wanted = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in (partition, *others)]
            consumer.assign(wanted)
            consumer.pause([TopicPartition(topic, partition)])
            paused = self._poll(consumer, count * (len(others) + 1), seconds=2)
            consumer.resume([TopicPartition(topic, partition)])
            return {"paused": paused, "resumed": self._poll(consumer, count)}
        finally:
            consumer.close()

    def offsets(self, topic, partitions, at):
        spec = {"earliest": OffsetSpec.earliest, "latest": OffsetSpec.latest}.get(at)
        spec = spec() if spec else OffsetSpec.for_timestamp(at)
        wanted = {TopicPartition(topic, p): spec for p in range(partitions)}
        found = {tp.partition: f.result(PATIENCE_S).offset for tp, f in self.admin.list_offsets(wanted).items()}
        return {"offsets": [found[p] for p in range(partitions)]}

    def committed(self, topic, group, partitions):
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p) for p in range(partitions)])
        (result,) = done(self.admin.list_consumer_group_offsets([wanted]))
        found = {tp.partition: max(tp.offset, -1) for tp in result.topic_partitions}
        return {"offsets": [found.get(p, -1) for p in range(partitions)]}

    def commit(self, topic, group, partition, offset, metadata=""):
        consumer = self._consumer(group)
        try:
            answer = consumer.commit(
                offsets=[TopicPartition(topic, partition, offset, metadata)], asynchronous=False
            )
            if answer[0].error:
                raise KafkaException(answer[0].error)
        finally:
            consumer.close()

    def member(self, topic, group, assignor=None, instance=None, session_ms=3000):
        more = {"partition.assignment.strategy": assignor} if assignor else {}
        more |= {"group.instance.id": instance} if instance else {}
        consumer = self._consumer(group, **more, **{
            "session.timeout.ms": session_ms, "heartbeat.interval.ms": 300, "topic.metadata.refresh.interval.ms": 1000,
        })
        told = lines.Membership()
        consumer.subscribe([topic])
        while not self.requests.leaving():
            messages = [m for m in consumer.consume(500, 0.05) if not m.error()]
            told.assigned(tp.partition for tp in consumer.assignment())
            told.read([m.key().decode() for m in messages])
            self._commit(consumer, {(m.topic(), m.partition()): m.offset() + 1 for m in messages})
        consumer.close()
        sys.exit(0)

    def _commit(self, consumer, upto):
        """One commit at a time: librdkafka asks again with those that were refused for now, in no order among them."""
        if not upto:
            return
        try:
            consumer.commit(offsets=[TopicPartition(*at, offset) for at, offset in upto.items()], asynchronous=False)
        except KafkaException:
            pass  # a rebalance came between; what is not committed is read again

    def alter(self, topic, configs):
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()
        ]
        done(self.admin.incremental_alter_configs(
            [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)]
        ))

    def configs(self, topic):
        (found,) = done(self.admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
        return {"configs": {name: entry.value for name, entry in found.items()}}

    def delete_records(self, topic, partition, before):
        (result,) = done(self.admin.delete_records([TopicPartition(topic, partition, before)]))
        return {"low": result.low_watermark}

    def cluster(self):
        found = self.admin.describe_cluster().result(PATIENCE_S)
        topics = self.admin.list_topics(timeout=PATIENCE_S).topics
        return {
            "id": found.cluster_id, "brokers": [node.id for node in found.nodes], "controller": found.controller.id,
            "topics": list(topics),
        }

    def topic(self, topic):
        (found,) = done(self.admin.describe_topics(confluent_kafka.TopicCollection([topic])))
        return {"partitions": [
            {"leader": p.leader.id, "replicas": [n.id for n in p.replicas], "isr": [n.id for n in p.isr]}
            for p in found.partitions
        ]}

    def groups(self):
        found = self.admin.list_consumer_groups().result(PATIENCE_S)
        if found.errors:
            raise found.errors[0]
        return {"groups": [group.group_id for group in found.valid]}

    def group(self, group):
        (found,) = done(self.admin.describe_consumer_groups([group]))
        return {"state": found.state.name, "members": len(found.members)}

    def delete_group(self, group):
        # A new one: a request of the old one may hang when its coordinator was restarted meanwhile, Apache Kafka's too.
        self.admin = AdminClient(self.base)
        done(self.admin.delete_consumer_groups([group]))


def code_of(error):
    if isinstance(error, KafkaException) and isinstance(error.args[0], KafkaError):
        return error.args[0].code()
    return None


if __name__ == "__main__":
    lines.serve(Confluent(sys.argv[1]), code_of)
