#!/usr/bin/env python3
"""kafka-python for the client matrix."""
import re
import sys
import time

import kafka
import kafka.errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import codec
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import for_code

import lines

PATIENCE_S = 30
CODECS = ["gzip", "snappy", "lz4", "zstd"]  # each needs a library of its own
ASSIGNORS = {
    "range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}


def need(said):
    """An error that an answer carries as text, by its number or its name, as the exception that it is."""
    if said and said != "OK":
        number = re.match(r"\[Error (\d+)\]", str(said))
        raise (for_code(int(number[1])) if number else getattr(kafka.errors, str(said)))(str(said))


class KafkaPython:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self.producers = {}

    def hello(self):
        return {
            "version": kafka.__version__, "ops": lines.operations(self), "idempotent": True, "static": True,
            "compressions": ["none", *(name for name in CODECS if getattr(codec, f"has_{name}")())],
            "acks": ["all", "1", "0"], "assignors": list(ASSIGNORS),
            # 3.0.12 may stop its heartbeats for good right after a join, when it takes the group for unstable.
            "tries": 4,
        }

    def create(self, topic, partitions, replication=-1, configs=None):
        options = {"num_partitions": partitions, "replication_factor": replication, "configs": configs or {}}
        self.admin.create_topics({topic: options})

    def delete(self, topic):
        self.admin.delete_topics([topic])

    def partitions(self, topic, count):
        self.admin.create_partitions({topic: count})

    def _producer(self, compression, acks, idempotent):
        name = (compression, acks, idempotent)
        if name not in self.producers:
            self.producers[name] = KafkaProducer(
                bootstrap_servers=self.bootstrap, acks=acks if acks == "all" else int(acks), enable_idempotence=idempotent,
                compression_type=None if compression == "none" else compression, max_request_size=5_000_000, linger_ms=5,
            )
        return self.producers[name]

    def produce(self, topic, count, prefix="r", compression="none", acks="all", idempotent=False, partition=None,
                timestamp=None, size=None, keyless=False):
        producer, sent = self._producer(compression, acks, idempotent), []
        for i in range(count):
            key = f"{prefix}-{i}".encode()
            value = lines.value_of(key.decode(), i, size)
            at = None if timestamp is None else timestamp + 1000 * i
            future = producer.send(
                topic, key=None if keyless else key, value=value, partition=partition, timestamp_ms=at,
                headers=[("n", str(i).encode())],
            )
            sent.append((key, value, future))
        producer.flush()
        answers = [(key, value, future.get(PATIENCE_S)) for key, value, future in sent]
        return {"records": [
            lines.row(at.partition, -1 if acks == "0" else at.offset, key, value) for key, value, at in answers
        ]}

    def _consumer(self, *topics, group=None, **more):
        return KafkaConsumer(
            *topics, bootstrap_servers=self.bootstrap, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, fetch_max_wait_ms=100, **more,
        )

    def _poll(self, consumer, count, seconds=PATIENCE_S):
        read, deadline = [], time.monotonic() + seconds
        while len(read) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=100, max_records=count - len(read)).values():
                read += [lines.row(r.partition, r.offset, r.key, r.value, r.timestamp) for r in records]
        return read

    def consume(self, topic, group, count):
        consumer = self._consumer(topic, group=group)
        try:
            records = self._poll(consumer, count)
            upto = {TopicPartition(topic, record[0]): OffsetAndMetadata(record[1] + 1, "", -1) for record in records}
            consumer.commit(upto)
        finally:
            consumer.close(autocommit=False)
        return {"records": records}

    def read(self, topic, partition, offset, count):
        consumer, at = self._consumer(), TopicPartition(topic, partition)
        try:
            consumer.assign([at])
            consumer.seek(at, offset)
            return {"records": self._poll(consumer, count)}
        finally:
            consumer.close()

    def pause(self, topic, partition, others, count):
        consumer = self._consumer()
        try:
            wanted = [TopicPartition(topic, p) for p in (partition, *others)]
            consumer.assign(wanted)
            consumer.seek_to_beginning(*wanted)
            consumer.pause(wanted[0])
            paused = self._poll(consumer, count * len(wanted), seconds=2)
            consumer.resume(wanted[0])
            return {"paused": paused, "resumed": self._poll(consumer, count)}
        finally:
            consumer.close()

    def offsets(self, topic, partitions, at):
        spec = {"earliest": -2, "latest": -1}.get(at, at)
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        found = self.admin.list_partition_offsets({tp: spec for tp in wanted})
        return {"offsets": [found[tp].offset for tp in wanted]}

    def committed(self, topic, group, partitions):
        wanted = [TopicPartition(topic, p) for p in range(partitions)]
        found = self.admin.list_group_offsets({group: wanted})[group]
        return {"offsets": [found[tp].offset if tp in found else -1 for tp in wanted]}

    def commit(self, topic, group, partition, offset, metadata=""):
        consumer = self._consumer(group=group)
        try:
            consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, metadata, -1)})
        finally:
            consumer.close()

    def member(self, topic, group, assignor=None, instance=None, session_ms=3000):
        more = {"partition_assignment_strategy": [ASSIGNORS[assignor]]} if assignor else {}
        more |= {"group_instance_id": instance} if instance else {}
        consumer = self._consumer(
            topic, group=group, session_timeout_ms=session_ms, heartbeat_interval_ms=300, metadata_max_age_ms=1000, **more
        )
        told = lines.Membership()
        while not self.requests.leaving():
            polled = consumer.poll(timeout_ms=50)
            told.assigned(tp.partition for tp in consumer.assignment())
            told.read([record.key.decode() for records in polled.values() for record in records])
            if polled:
                consumer.commit_async()
        consumer.close()
        sys.exit(0)

    def alter(self, topic, configs):
        answer = self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
        said = answer["topic"][topic]
        need(None if said in (None, "OK") else said)

    def configs(self, topic):
        found = self.admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        return {"configs": {name: config["value"] for name, config in found["topic"][topic].items()}}

    def delete_records(self, topic, partition, before):
        at = TopicPartition(topic, partition)
        return {"low": self.admin.delete_records({at: before})[at]["low_watermark"]}

    def cluster(self):
        found = self.admin.describe_cluster()
        return {
            "id": found["cluster_id"], "brokers": [broker["broker_id"] for broker in found["brokers"]],
            "controller": found["controller_id"], "topics": self.admin.list_topics(),
        }

    def topic(self, topic):
        (found,) = self.admin.describe_topics([topic])
        return {"partitions": [
            {"leader": p["leader_id"], "replicas": p["replica_nodes"], "isr": p["isr_nodes"]} for p in found["partitions"]
        ]}

    def groups(self):
        return {"groups": [group["group_id"] for group in self.admin.list_groups()]}

    def group(self, group):
        found = self.admin.describe_groups([group])[group]
        need(found["error"])
        return {"state": found["group_state"], "members": len(found["members"])}

    def delete_group(self, group):
        deadline = time.monotonic() + 10
        while True:
            try:
                return need(self.admin.delete_groups([group])[group])
            except kafka.errors.NodeNotReadyError:  # the admin client leaves connecting again to its user
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def describe_all(self, topic, group):
        admin = self.admin
        calls = {
            "describe_cluster": admin.describe_cluster,
            "describe_log_dirs": admin.describe_log_dirs,
            "describe_features": admin.describe_features,
            "api_versions": admin.api_versions,
            "describe_metadata_quorum": admin.describe_metadata_quorum,
            "describe_topic_partitions": lambda: admin.describe_topic_partitions([topic]),
            "list_partition_reassignments": admin.list_partition_reassignments,
            "describe_configs": lambda: admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")]),
            "list_config_resources": admin.list_config_resources,
            "list_groups": admin.list_groups,
            "describe_groups": lambda: admin.describe_groups([group]),
            "list_group_offsets": lambda: admin.list_group_offsets({group: None}),
            "list_transactions": admin.list_transactions,
            "describe_producers": lambda: admin.describe_producers([TopicPartition(topic, 0)]),
        }
        said = {}
        for name, call in calls.items():
            try:
                call()
            except Exception as error:  # each call is judged by itself
                said[name] = f"{type(error).__name__}: {error}"
        return said


def code_of(error):
    code = getattr(error, "errno", None)
    if isinstance(code, int) and code > 0 and for_code(code) is type(error):
        return code
    return None


if __name__ == "__main__":
    lines.serve(KafkaPython(sys.argv[1]), code_of)
