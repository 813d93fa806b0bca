"""Apache Kafka's own command-line tools as checks of the matrix, each a call or two as an admin would make them."""
import json
import re
import subprocess
import tempfile
from pathlib import Path

from world import HERE, Trouble

PATIENCE_S = 180
LINES = [f"line {i}" for i in range(100)]


class Tools:
    """The tools against one broker, on a topic and a group of their own."""

    def __init__(self, bootstrap, built, run_id):
        self.bootstrap, self.jars = bootstrap, built / "java"
        self.topic, self.group = f"tools-{run_id}", f"tools-group-{run_id}"
        self.files = tempfile.TemporaryDirectory(prefix="tidemark-tools-")

    def call(self, name, *arguments, stdin=None, server="--bootstrap-server", fails=False, any_code=False):
        """What the tool prints; on standard error too if it is to fail, or is a tool that fails with exit code 0."""
        command = [HERE / "java" / "kafka-tool", self.jars, name, *([server, self.bootstrap] if server else []), *arguments]
        try:
            done = subprocess.run(
                [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as slow:
            said = ((slow.stdout or b"") + (slow.stderr or b"")).decode(errors="replace").strip().splitlines()
            raise Trouble(f"{name} did not end within {PATIENCE_S} s: {' / '.join(said[-3:])}") from None
        said = done.stdout + done.stderr
        if any_code:
            return said
        if fails and done.returncode == 0:
            raise Trouble(f"{name} should have failed, but said: {brief(said)}")
        if not fails and (done.returncode != 0 or "Exception" in done.stderr):
            raise Trouble(f"{name} ended with {done.returncode}: {brief(said)}")
        return said if fails else done.stdout

    def expect(self, pattern, name, *arguments, **how):
        """The tool's output must hold the pattern."""
        said = self.call(name, *arguments, **how)
        if not re.search(pattern, said, re.MULTILINE):
            raise Trouble(f"{name} should have said {pattern!r}, but said: {brief(said)}")
        return said

    def file(self, name, content):
        path = Path(self.files.name) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def partition(self, **more):
        return {"topic": self.topic, "partition": 0, **more}


def brief(said):
    return " / ".join(said.strip().splitlines()[:4])[:600] or "nothing"


# --- kafka-topics


def create_topic(t):
    t.expect(f"Created topic {t.topic}", "kafka-topics", "--create", "--topic", t.topic, "--partitions", "2",
             "--config", "retention.ms=3600000")


def list_topics(t):
    t.expect(f"^{t.topic}$", "kafka-topics", "--list")


def describe_topic(t):
    said = t.expect(r"PartitionCount: 2.*Configs: .*retention\.ms=3600000", "kafka-topics", "--describe", "--topic", t.topic)
    if len(re.findall(r"Leader: \d+\tReplicas: \d+\tIsr: \d+", said)) != 2:
        raise Trouble(f"two partitions with leaders were expected: {brief(said)}")


def create_again(t):
    t.expect(f"Topic '{t.topic}' already exists", "kafka-topics", "--create", "--topic", t.topic, fails=True)
    t.call("kafka-topics", "--create", "--topic", t.topic, "--if-not-exists")


def nothing_wrong(t):
    for which in ("--under-replicated-partitions", "--unavailable-partitions", "--under-min-isr-partitions"):
        said = t.call("kafka-topics", "--describe", which)
        if said.strip():
            raise Trouble(f"{which}: {brief(said)}")


def overrides(t):
    t.expect(f"Topic: {t.topic}", "kafka-topics", "--describe", "--topics-with-overrides")


def add_partition(t):
    t.call("kafka-topics", "--alter", "--topic", t.topic, "--partitions", "3")
    t.expect("PartitionCount: 3", "kafka-topics", "--describe", "--topic", t.topic)
    t.expect("InvalidPartitionsException", "kafka-topics", "--alter", "--topic", t.topic, "--partitions", "1", fails=True)


def delete_topic(t):
    name = f"{t.topic}-gone"
    t.call("kafka-topics", "--create", "--topic", name)
    t.call("kafka-topics", "--delete", "--topic", name)
    t.expect(f"Topic '{name}' does not exist", "kafka-topics", "--delete", "--topic", name, fails=True)


# --- producing and consuming


def console_producer(t):
    t.call("kafka-console-producer", "--topic", t.topic, "--compression-codec", "lz4",
           stdin="".join(line + "\n" for line in LINES))


def console_consumer(t, wanted=None):
    wanted = wanted or LINES
    read = t.call("kafka-console-consumer", "--topic", t.topic, "--group", t.group, "--from-beginning",
                  "--max-messages", len(wanted), "--timeout-ms", "60000").splitlines()
    if sorted(read) != sorted(wanted):
        raise Trouble(f"{len(read)} lines were read, {len(wanted)} expected, or others")


def keys_and_times(t):
    name = f"{t.topic}-keyed"
    t.call("kafka-topics", "--create", "--topic", name)
    t.call("kafka-console-producer", "--topic", name, "--reader-property", "parse.key=true",
           "--reader-property", "key.separator=:", "--producer-property", "acks=1", stdin="a:1\nb:2\nc:3\n")
    t.expect(r"^CreateTime:\d+\tPartition:0\tOffset:1\tb\t2$", "kafka-console-consumer", "--topic", name, "--partition", "0",
             "--offset", "1", "--max-messages", "2", "--timeout-ms", "60000", "--formatter-property", "print.key=true",
             "--formatter-property", "print.timestamp=true", "--formatter-property", "print.offset=true",
             "--formatter-property", "print.partition=true")


def get_offsets(t):
    total = sum(int(line.rpartition(":")[2]) for line in t.call("kafka-get-offsets", "--topic", t.topic).split())
    if total != len(LINES):
        raise Trouble(f"the end offsets add up to {total}, not {len(LINES)}")
    t.expect(f"^{t.topic}:0:0$", "kafka-get-offsets", "--topic", t.topic, "--time", "earliest")
    t.expect(rf"^{t.topic}-keyed:0:\d$", "kafka-get-offsets", "--topic", f"{t.topic}-keyed", "--time", "max-timestamp")


def console_resumes(t):
    more = [f"more {i}" for i in range(20)]
    t.call("kafka-console-producer", "--topic", t.topic, stdin="".join(line + "\n" for line in more))
    console_consumer(t, more)


def perf(t):
    name = f"{t.topic}-perf"
    t.call("kafka-topics", "--create", "--topic", name, "--partitions", "2")
    t.expect("^20000 records sent", "kafka-producer-perf-test", "--topic", name, "--num-records", "20000", "--record-size",
             "512", "--throughput", "-1", "--print-metrics")
    read = t.call("kafka-consumer-perf-test", "--topic", name, "--num-records", "20000", "--timeout", "60000",
                  "--hide-header")
    if int(read.splitlines()[-1].split(", ")[4]) != 20000:
        raise Trouble(f"20000 records were to be read: {brief(read)}")


def e2e(t):
    t.expect("Percentiles", "kafka-e2e-latency", "--topic", f"{t.topic}-e2e", "--num-records", "100", "--producer-acks", "all",
             "--record-size", "100")


def verifiable(t):
    name = f"{t.topic}-verified"
    t.call("kafka-topics", "--create", "--topic", name)
    t.expect('"acked":50', "kafka-verifiable-producer", "--topic", name, "--max-messages", "50", "--acks", "-1")
    said = t.call("kafka-verifiable-consumer", "--topic", name, "--group-id", f"{name}-group", "--max-messages", "50",
                  "--reset-policy", "earliest")
    if '"success":true' not in said or sum(json.loads(line).get("count", 0) for line in said.splitlines()
                                           if '"records_consumed"' in line) != 50:
        raise Trouble(f"50 records were to be read and committed: {brief(said)}")


# --- kafka-consumer-groups, kafka-groups


def list_groups(t):
    t.expect(f"^{t.group}$", "kafka-consumer-groups", "--list")
    t.expect(rf"^{t.group}\s+Empty", "kafka-consumer-groups", "--list", "--state")
    t.expect(rf"^{t.group}\s+Classic\s+consumer", "kafka-groups", "--list")


def describe_group(t):
    t.expect(rf"^{t.group}\s+{t.topic}\s+0\s+\d+\s+\d+\s+0", "kafka-consumer-groups", "--describe", "--group", t.group)
    t.expect(rf"^{t.group}\s+.*Empty\s+0", "kafka-consumer-groups", "--describe", "--group", t.group, "--state")
    t.call("kafka-consumer-groups", "--describe", "--group", t.group, "--members", "--verbose")
    t.expect("Group no-such-group not found", "kafka-consumer-groups", "--describe", "--group", "no-such-group", any_code=True)


def reset_offsets(t):
    reset = ["kafka-consumer-groups", "--reset-offsets", "--group", t.group, "--topic", t.topic]
    t.expect(rf"^{t.group}\s+{t.topic}\s+0\s+0", *reset, "--to-earliest", "--execute")
    t.expect(rf"^{t.group}\s+{t.topic}\s+\d\s+2", *reset, "--shift-by", "2", "--dry-run")
    t.expect(rf"^{t.group}\s+{t.topic}\s+0\s+0", *reset, "--to-datetime", "2020-01-01T00:00:00.000", "--execute")
    t.expect(rf"^{t.group}\s+{t.topic}\s+0\s+\d+", *reset, "--to-latest", "--execute")


def delete_offsets(t):
    t.expect(r"Successful", "kafka-consumer-groups", "--delete-offsets", "--group", t.group, "--topic", f"{t.topic}:2")


def delete_group(t):
    t.expect("successful", "kafka-consumer-groups", "--delete", "--group", t.group)
    t.expect("GroupIdNotFoundException|could not be found|not found", "kafka-consumer-groups", "--delete", "--group", t.group,
             any_code=True)


# --- kafka-configs


def topic_configs(t):
    configs = ["kafka-configs", "--entity-type", "topics", "--entity-name", t.topic]
    t.call(*configs, "--alter", "--add-config", "max.message.bytes=200000,cleanup.policy=[compact,delete]")
    t.expect("max.message.bytes=200000 sensitive=false synonyms=", *configs, "--describe")
    t.expect("cleanup.policy=compact,delete", *configs, "--describe")
    t.call(*configs, "--alter", "--delete-config", "max.message.bytes,cleanup.policy")
    if "max.message.bytes" in t.call(*configs, "--describe"):
        raise Trouble("the config is still there after it was deleted")
    t.expect("segment.bytes=1073741824.*DEFAULT_CONFIG", *configs, "--describe", "--all")


def bad_topic_configs(t):
    configs = ["kafka-configs", "--entity-type", "topics", "--entity-name", t.topic, "--alter", "--add-config"]
    t.expect("InvalidConfigurationException", *configs, "retention.ms=soon", fails=True)
    t.expect("InvalidConfigurationException", *configs, "no.such.key=1", fails=True)


def broker_configs(t):
    one = ["kafka-configs", "--entity-type", "brokers", "--entity-name", "1"]
    every = ["kafka-configs", "--entity-type", "brokers", "--entity-default"]
    t.expect("log.retention.ms", *one, "--describe", "--all")
    t.call(*every, "--alter", "--add-config", "log.retention.ms=7200000")
    t.expect(r"log.retention.ms=7200000.*DYNAMIC_DEFAULT_BROKER_CONFIG", *every, "--describe")
    t.call(*one, "--alter", "--add-config", "log.retention.ms=9000000")
    t.expect(r"log.retention.ms=9000000.*DYNAMIC_BROKER_CONFIG", *one, "--describe")
    t.call(*one, "--alter", "--delete-config", "log.retention.ms")
    t.call(*every, "--alter", "--delete-config", "log.retention.ms")
    t.expect("InvalidRequestException|InvalidConfigurationException", *one, "--alter", "--add-config", "node.id=7", fails=True)


def client_quotas(t):
    who = ["kafka-configs", "--entity-type", "clients", "--entity-name", "quota-client"]
    t.call(*who, "--alter", "--add-config", "producer_byte_rate=1048576")
    t.expect("producer_byte_rate=1048576", *who, "--describe")
    t.call(*who, "--alter", "--delete-config", "producer_byte_rate")
    both = ["kafka-configs", "--entity-type", "users", "--entity-default", "--entity-type", "clients", "--entity-default"]
    t.call(*both, "--alter", "--add-config", "consumer_byte_rate=2097152")
    t.expect("consumer_byte_rate=2097152", *both, "--describe")
    t.call(*both, "--alter", "--delete-config", "consumer_byte_rate")


def group_configs(t):
    who = ["kafka-configs", "--entity-type", "groups", "--entity-name", t.group]
    t.call(*who, "--alter", "--add-config", "consumer.session.timeout.ms=50000")
    t.expect("consumer.session.timeout.ms=50000", *who, "--describe")
    t.call(*who, "--alter", "--delete-config", "consumer.session.timeout.ms")


def broker_loggers(t):
    t.expect("=(INFO|DEBUG|WARN|ERROR|TRACE)", "kafka-configs", "--entity-type", "broker-loggers", "--entity-name", "1",
             "--describe")


def client_metrics(t):
    t.call("kafka-client-metrics", "--alter", "--name", "m1", "--metrics", "org.apache.kafka.producer.", "--interval",
           "60000")
    t.expect("interval.ms=60000", "kafka-client-metrics", "--describe", "--name", "m1")
    t.expect("^m1$", "kafka-client-metrics", "--list")
    t.call("kafka-client-metrics", "--delete", "--name", "m1")


# --- the rest of an admin's day


def delete_records(t):
    name = f"{t.topic}-keyed"
    offsets = {"partitions": [{"topic": name, "partition": 0, "offset": 2}], "version": 1}
    t.expect(r"low_watermark: 2", "kafka-delete-records", "--offset-json-file", t.file("delete.json", offsets))
    t.expect(f"^{name}:0:2$", "kafka-get-offsets", "--topic", name, "--time", "earliest")


def log_dirs(t):
    said = t.call("kafka-log-dirs", "--describe", "--topic-list", t.topic)
    found = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    sizes = [p["size"] for b in found["brokers"] for d in b["logDirs"] for p in d["partitions"]]
    if len(sizes) != 3 or sum(sizes) <= 0:
        raise Trouble(f"three partitions with bytes were expected: {brief(said)}")


def leader_election(t):
    wanted = {"partitions": [t.partition()]}
    t.expect("Valid replica already elected|Successfully completed leader election", "kafka-leader-election",
             "--election-type", "preferred", "--path-to-json-file", t.file("elect.json", wanted))


def reassignments(t):
    plan = {"version": 1, "partitions": [t.partition(replicas=[1], log_dirs=["any"])]}
    topics = {"version": 1, "topics": [{"topic": t.topic}]}
    reassign = "kafka-reassign-partitions"
    t.expect("No partition reassignments found", reassign, "--list")
    t.expect("Proposed partition reassignment", reassign, "--generate", "--broker-list", "1", "--topics-to-move-json-file",
             t.file("topics.json", topics))
    t.expect("Successfully started partition reassignment", reassign, "--execute", "--reassignment-json-file",
             t.file("plan.json", plan))
    t.expect(f"Reassignment of partition {t.topic}-0 is completed", reassign, "--verify", "--reassignment-json-file",
             t.file("plan.json", plan))


def features(t):
    t.expect(r"Feature: metadata.version\s+SupportedMinVersion: \S+\s+SupportedMaxVersion: 4\.3", "kafka-features", "describe")
    t.expect("Could not|not supported|fail", "kafka-features", "upgrade", "--feature", "no.such.feature=1", fails=True)


def metadata_quorum(t):
    t.expect(r"LeaderId:\s+\d+", "kafka-metadata-quorum", "describe", "--status")
    t.expect(r"^NodeId\s+.*LogEndOffset", "kafka-metadata-quorum", "describe", "--replication")


def broker_api_versions(t):
    said = t.expect(r"id: 1 .*isFenced: false|id: 1 ", "kafka-broker-api-versions")
    t.expect(r"Produce\(0\): \d+ to \d+", "kafka-broker-api-versions")
    if "UNSUPPORTED" in said.split("Fetch(1)")[0]:
        raise Trouble(brief(said))


def cluster(t):
    server = ["--bootstrap-server", t.bootstrap]
    t.expect(r"Cluster ID: \S+", "kafka-cluster", "cluster-id", *server, server=None)
    t.expect(r"^1\s+127\.0\.0\.1", "kafka-cluster", "list-endpoints", *server, server=None)
    t.expect("BrokerIdNotRegisteredException", "kafka-cluster", "unregister", "--id", "99", *server, server=None, fails=True)


def transactions(t):
    t.expect("TransactionalId", "kafka-transactions", "list")
    t.expect("ProducerId", "kafka-transactions", "describe-producers", "--topic", t.topic, "--partition", "0")


# Row, check, and whether it is one of the fast ones.
BEFORE = [
    ("kafka-topics: create", create_topic, True),
    ("kafka-topics: list", list_topics, False),
    ("kafka-topics: describe", describe_topic, True),
    ("kafka-topics: create again", create_again, False),
    ("kafka-topics: nothing wrong", nothing_wrong, False),
    ("kafka-topics: overrides", overrides, False),
    ("kafka-topics: add a partition", add_partition, False),
    ("kafka-topics: delete", delete_topic, False),
    ("kafka-console-producer", console_producer, True),
    ("kafka-console-consumer: group", console_consumer, True),
    ("kafka-console-consumer: offset, keys, times", keys_and_times, False),
    ("kafka-get-offsets", get_offsets, False),
    ("kafka-producer-perf-test, -consumer-perf-test", perf, False),
    ("kafka-e2e-latency", e2e, False),
    ("kafka-verifiable-producer, -consumer", verifiable, False),
    ("kafka-consumer-groups, kafka-groups: list", list_groups, False),
    ("kafka-consumer-groups: describe", describe_group, True),
    ("kafka-consumer-groups: delete offsets", delete_offsets, False),
    ("kafka-consumer-groups: reset offsets", reset_offsets, False),
    ("kafka-configs: topics", topic_configs, False),
    ("kafka-configs: topics, bad input", bad_topic_configs, False),
    ("kafka-configs: brokers", broker_configs, False),
    ("kafka-configs: client quotas", client_quotas, False),
    ("kafka-configs: groups", group_configs, False),
    ("kafka-configs: broker loggers", broker_loggers, False),
    ("kafka-client-metrics", client_metrics, False),
    ("kafka-delete-records", delete_records, False),
    ("kafka-log-dirs", log_dirs, False),
    ("kafka-leader-election", leader_election, False),
    ("kafka-reassign-partitions", reassignments, False),
    ("kafka-features", features, False),
    ("kafka-metadata-quorum", metadata_quorum, False),
    ("kafka-broker-api-versions", broker_api_versions, False),
    ("kafka-cluster", cluster, False),
    ("kafka-transactions", transactions, False),
]
AFTER = [
    ("kafka-console-consumer: resumes after a restart", console_resumes, False),
    ("kafka-consumer-groups: delete", delete_group, False),
]
