#!/usr/bin/env python3
"""aiokafka for the client matrix. Its admin client hands out raw answers; their codes are read here."""
import asyncio
import sys
import time

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import for_code
from aiokafka.structs import OffsetAndMetadata

import lines

PATIENCE_S = 30
ASSIGNORS = {
    "range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor,
}


def need(code, message=""):
    if code:
        raise for_code(code)(message)


def within(seconds, awaitable):
    return asyncio.wait_for(awaitable, seconds)


class AioKafka:
    """The operations, each a coroutine run to its end on one loop."""

    def __init__(self, bootstrap):
        self.bootstrap, self.producers, self.admin = bootstrap, {}, None

    async def _admin(self):
        if self.admin is None:
            self.admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await self.admin.start()
        return self.admin

    async def hello(self):
        return {
            "version": aiokafka.__version__, "ops": lines.operations(self), "idempotent": True, "static": True,
            "compressions": ["none", "gzip", "snappy", "lz4", "zstd"], "acks": ["all", "1", "0"],
            "assignors": list(ASSIGNORS), "nameless": [87],
        }

    async def create(self, topic, partitions, replication=1, configs=None):
        new = NewTopic(topic, partitions, replication, topic_configs=configs or {})
        answer = await (await self._admin()).create_topics([new])
        for row in answer.topic_errors:
            need(row[1], str(row))

    async def delete(self, topic):
        answer = await (await self._admin()).delete_topics([topic])
        for row in answer.topic_error_codes:
            need(row[1], str(row))

    async def partitions(self, topic, count):
        await (await self._admin()).create_partitions({topic: NewPartitions(count)})

    async def _producer(self, compression, acks, idempotent):
        name = (compression, acks, idempotent)
        if name not in self.producers:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap, acks=acks if acks == "all" else int(acks), enable_idempotence=idempotent,
                compression_type=None if compression == "none" else compression, max_request_size=5_000_000, linger_ms=5,
                metadata_max_age_ms=1000,
            )
            await producer.start()
            self.producers[name] = producer
        return self.producers[name]

    async def produce(self, topic, count, prefix="r", compression="none", acks="all", idempotent=False, partition=None,
                      timestamp=None, size=None, keyless=False):
        producer, sent = await self._producer(compression, acks, idempotent), []
        for i in range(count):
            key = f"{prefix}-{i}".encode()
            value = lines.value_of(key.decode(), i, size)
            at = None if timestamp is None else timestamp + 1000 * i
            future = await producer.send(
                topic, key=None if keyless else key, value=value, partition=partition, timestamp_ms=at,
                headers=[("n", str(i).encode())],
            )
            sent.append((key, value, future))
        rows = []
        for key, value, future in sent:
            at = await within(PATIENCE_S, future)
            # With acks=0 nothing is told, not even the partition.
            rows.append(lines.row(at.partition if at else -1, at.offset if at and acks != "0" else -1, key, value))
        return {"records": rows}

    def _consumer(self, *topics, group=None, **more):
        return AIOKafkaConsumer(
            *topics, bootstrap_servers=self.bootstrap, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, fetch_max_wait_ms=100, **more,
        )

    async def _poll(self, consumer, count, seconds=PATIENCE_S):
        read, deadline = [], time.monotonic() + seconds
        while len(read) < count and time.monotonic() < deadline:
            polled = await consumer.getmany(timeout_ms=100, max_records=count - len(read))
            for records in polled.values():
                read += [lines.row(r.partition, r.offset, r.key, r.value, r.timestamp) for r in records]
        return read

    async def consume(self, topic, group, count):
        async with self._consumer(topic, group=group) as consumer:
            records = await self._poll(consumer, count)
            await consumer.commit({TopicPartition(topic, record[0]): record[1] + 1 for record in records})
        return {"records": records}

    async def read(self, topic, partition, offset, count):
        async with self._consumer() as consumer:
            at = TopicPartition(topic, partition)
            consumer.assign([at])
            consumer.seek(at, offset)
            return {"records": await self._poll(consumer, count)}

    async def pause(self, topic, partition, others, count):
        async with self._consumer() as consumer:
            wanted = [TopicPartition(topic, p) for p in (partition, *others)]
            consumer.assign(wanted)
            consumer.pause(wanted[0])
            paused = await self._poll(consumer, count * len(wanted), seconds=2)
            consumer.resume(wanted[0])
            return {"paused": paused, "resumed": await self._poll(consumer, count)}

    async def offsets(self, topic, partitions, at):
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        async with self._consumer() as consumer:
            if at == "earliest":
                found = await consumer.beginning_offsets(wanted)
            elif at == "latest":
                found = await consumer.end_offsets(wanted)
            else:
                at_time = await consumer.offsets_for_times({tp: at for tp in wanted})
                found = {tp: one.offset if one else -1 for tp, one in at_time.items()}
        return {"offsets": [found[tp] for tp in wanted]}

    async def committed(self, topic, group, partitions):
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        found = await (await self._admin()).list_consumer_group_offsets(group, partitions=wanted)
        return {"offsets": [found[tp].offset if tp in found else -1 for tp in wanted]}

    async def commit(self, topic, group, partition, offset, metadata=""):
        async with self._consumer(group=group) as consumer:
            consumer.assign([TopicPartition(topic, partition)])
            await consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, metadata)})

    async def member(self, topic, group, assignor=None, instance=None, session_ms=3000):
        more = {"partition_assignment_strategy": [ASSIGNORS[assignor]]} if assignor else {}
        more |= {"group_instance_id": instance} if instance else {}
        consumer = self._consumer(
            topic, group=group, session_timeout_ms=session_ms, heartbeat_interval_ms=300, metadata_max_age_ms=1000, **more
        )
        told = lines.Membership()
        async with consumer:
            while not self.requests.leaving():
                polled = await consumer.getmany(timeout_ms=50)
                told.assigned(tp.partition for tp in consumer.assignment())
                told.read([record.key.decode() for records in polled.values() for record in records])
                if polled:
                    try:
                        await consumer.commit()
                    except aiokafka.errors.CommitFailedError:
                        pass  # a rebalance came between; what is not committed is read again
        sys.exit(0)

    async def alter(self, topic, configs):
        answers = await (await self._admin()).alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        for answer in answers:
            for row in answer.resources:
                need(row[0], str(row))

    async def configs(self, topic):
        (answer,) = await (await self._admin()).describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        (row,) = answer.resources
        need(row[0], row[1])
        return {"configs": {config[0]: config[1] for config in row[4]}}

    async def delete_records(self, topic, partition, before):
        at = TopicPartition(topic, partition)
        return {"low": (await (await self._admin()).delete_records({at: RecordsToDelete(before)}))[at]}

    async def cluster(self):
        found = await (await self._admin()).describe_cluster()
        return {
            "id": found.get("cluster_id"), "brokers": [broker["node_id"] for broker in found["brokers"]],
            "controller": found["controller_id"], "topics": await self.admin.list_topics(),
        }

    async def topic(self, topic):
        (found,) = await (await self._admin()).describe_topics([topic])
        return {"partitions": [
            {"leader": p["leader"], "replicas": p["replicas"], "isr": p["isr"]} for p in found["partitions"]
        ]}

    async def groups(self):
        return {"groups": [group[0] for group in await (await self._admin()).list_consumer_groups()]}

    async def group(self, group):
        (answer,) = await (await self._admin()).describe_consumer_groups([group])
        (row,) = answer.groups
        need(row[0])
        return {"state": row[2], "members": len(row[5])}


class OneLoop:
    """Runs the coroutines as plain calls."""

    def __init__(self, client):
        self.client, self.loop = client, asyncio.new_event_loop()

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda **arguments: self.loop.run_until_complete(method(**arguments))

    def __setattr__(self, name, value):
        if name == "requests":
            self.client.requests = value
        else:
            super().__setattr__(name, value)


def code_of(error):
    code = getattr(error, "errno", None)
    return code if isinstance(code, int) and code > 0 else None


if __name__ == "__main__":
    lines.serve(OneLoop(AioKafka(sys.argv[1])), code_of)
