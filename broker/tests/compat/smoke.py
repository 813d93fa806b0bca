#!/usr/bin/env python3
"""Real clients, unmodified, against a broker: create a topic, produce with every compression, consume in a group,
commit, restart the broker, resume; every record's content is checked.

  smoke.py --tidemark target/debug/tidemark --bucket dir
  smoke.py --tidemark target/debug/tidemark --bucket s3 [--endpoint http://HOST:PORT]
  smoke.py --bootstrap HOST:PORT            any running Kafka broker, without the restart
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from world import HERE, S3, Broker, Bucket, Score, Trouble

COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]
CLIENTS = ["confluent", "franz-go", "java"]
PER_BATCH = 200
PARTITIONS = 3
PATIENCE_S = 120


def tool(command, stdin=None):
    """A child's standard output; what it says on failure is the error."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Trouble(f"{Path(str(command[0])).name} ended with {done.returncode}: {' / '.join(said[-4:])}")
    return done.stdout


class Records:
    """What a client says it produced or read: {(partition, offset): key}, each value checked."""

    def __init__(self, text):
        self.at, self.order = {}, []
        for line in text.splitlines():
            partition, offset, key, crc = line.split(" ")
            index = int(key.rpartition("-")[2])
            value = key + "|" + "x" * (index * 37 % 1000)
            if zlib.crc32(value.encode()) != int(crc):
                raise Trouble(f"the value of {key} at {partition}/{offset} is not what was produced")
            place = (int(partition), int(offset))
            if place in self.at:
                raise Trouble(f"{partition}/{offset} came twice")
            self.at[place] = key
            self.order.append(place)

    def expect_ordered(self):
        last = {}
        for partition, offset in self.order:
            if offset != last.get(partition, offset - 1) + 1:
                raise Trouble(f"partition {partition}: offset {offset} follows {last[partition]}")
            last[partition] = offset


def client_command(name, built):
    if name == "confluent":
        return [sys.executable, HERE / "confluent_client.py"]
    if name == "franz-go":
        return [built / "franz-go"]
    return [HERE / "java" / "kafka-tool", built / "java", "SmokeClient"]


def build_client(name, built):
    if name == "franz-go":
        tool_in(HERE / "franz-go", ["go", "build", "-o", built / "franz-go", "."])
    if name in ("java", "tools"):
        tool([HERE / "java" / "kafka-jars", built / "java"])
    if name == "confluent":
        return "librdkafka " + tool(
            [sys.executable, "-c", "import confluent_kafka; print(confluent_kafka.libversion()[0])"]
        )
    return ""


def tool_in(directory, command):
    done = subprocess.run([str(part) for part in command], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{command[0]}: {done.stderr.strip()}")


class Scenario:
    """One client's way through the broker's life. The steps before and after the restart share what was produced."""

    def __init__(self, name, bootstrap, built, run_id):
        self.name, self.bootstrap = name, bootstrap
        self.command = client_command(name, built)
        self.topic, self.group = f"smoke-{name}-{run_id}", f"group-{name}-{run_id}"
        self.produced, self.consumed = {}, {}

    def run(self, command, **options):
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        return tool([*self.command, command, "--bootstrap", self.bootstrap, "--topic", self.topic, *arguments])

    def create(self):
        self.run("create", partitions=PARTITIONS)

    def produce(self, compression, when):
        text = self.run("produce", compression=compression, prefix=f"{when}-{compression}", count=PER_BATCH)
        records = Records(text)
        keys = {f"{when}-{compression}-{i}" for i in range(PER_BATCH)}
        if set(records.at.values()) != keys or len(records.at) != PER_BATCH:
            raise Trouble(f"{len(records.at)} records were acked, {PER_BATCH} were sent")
        overlap = records.at.keys() & self.produced.keys()
        if overlap:
            raise Trouble(f"offsets {sorted(overlap)[:3]} were acked twice")
        self.produced |= records.at
        return f"{PER_BATCH} records"

    def consume(self, count):
        records = Records(self.run("consume", group=self.group, count=count))
        records.expect_ordered()
        for place, key in records.at.items():
            if self.produced.get(place) != key:
                raise Trouble(f"{key} was read at {place}, where {self.produced.get(place)} was acked")
            if place in self.consumed:
                raise Trouble(f"{place} was read again after it was committed")
        self.consumed |= records.at
        return f"{len(records.at)} records"

    def consume_half(self):
        return self.consume(len(self.produced) // 2)

    def consume_rest(self):
        note = self.consume(len(self.produced) - len(self.consumed))
        if self.consumed != self.produced:
            raise Trouble("what was read is not what was acked")
        return note


class Tools:
    """Apache Kafka's own command-line tools."""

    def __init__(self, bootstrap, built, run_id):
        self.bootstrap, self.jars = bootstrap, built / "java"
        self.topic, self.group = f"smoke-tools-{run_id}", f"group-tools-{run_id}"
        self.lines = [f"line {i}" for i in range(100)]

    def kafka(self, name, *arguments, stdin=None, bootstrap=True):
        server = ["--bootstrap-server", self.bootstrap] if bootstrap else []
        return tool([HERE / "java" / "kafka-tool", self.jars, name, *server, *arguments], stdin)

    def topics(self):
        self.kafka("kafka-topics", "--create", "--topic", self.topic, "--partitions", "2")
        if self.topic not in self.kafka("kafka-topics", "--list").split():
            raise Trouble("the new topic is not in the list")
        described = self.kafka("kafka-topics", "--describe", "--topic", self.topic)
        if described.count("Leader: ") != 2 or "Leader: none" in described:
            raise Trouble(f"two partitions with leaders were expected: {described}")

    def console_producer(self):
        text = "".join(line + "\n" for line in self.lines)
        self.kafka("kafka-console-producer", "--topic", self.topic, stdin=text)

    def console_consumer(self, wanted=None):
        wanted = wanted or self.lines
        read = self.kafka(
            "kafka-console-consumer", "--topic", self.topic, "--group", self.group, "--from-beginning",
            "--max-messages", str(len(wanted)), "--timeout-ms", "30000",
        ).splitlines()
        if sorted(read) != sorted(wanted):
            raise Trouble(f"{len(read)} lines were read, {len(wanted)} expected, or others")

    def resume(self):
        more = [f"more {i}" for i in range(50)]
        self.kafka("kafka-console-producer", "--topic", self.topic, stdin="".join(line + "\n" for line in more))
        self.console_consumer(more)

    def offsets(self):
        text = self.kafka("kafka-get-offsets", "--topic", self.topic)
        total = sum(int(line.rpartition(":")[2]) for line in text.split())
        if total != len(self.lines):
            raise Trouble(f"the end offsets add up to {total}, not {len(self.lines)}: {text}")

    def perf(self):
        topic = ["--topic", f"{self.topic}-perf"]
        self.kafka("kafka-topics", "--create", *topic, "--partitions", "2")
        said = self.kafka(
            "kafka-producer-perf-test", *topic, "--num-records", "20000", "--record-size", "512", "--throughput", "-1"
        ).splitlines()
        if not said or not said[-1].startswith("20000 records sent"):
            raise Trouble(f"20000 records were to be sent: {said[-3:]}")
        read = self.kafka(
            "kafka-consumer-perf-test", *topic, "--num-records", "20000", "--timeout", "30000", "--hide-header"
        )
        if int(read.split(", ")[4]) != 20000:
            raise Trouble(f"20000 records were to be read: {read}")
        return said[-1].split(" (")[0]


def build(score, names, built):
    built.mkdir(parents=True, exist_ok=True)
    return [name for name in names if score.check(f"{name}: build", lambda n=name: build_client(n, built))]


def run_smoke(score, names, bootstrap, built, restart):
    run_id = f"{int(time.time()):x}"
    usable = build(score, names, built)
    scenarios = [Scenario(name, bootstrap, built, run_id) for name in usable if name != "tools"]
    tools = Tools(bootstrap, built, run_id) if "tools" in usable else None
    for one in scenarios:
        score.check(f"{one.name}: create a topic", one.create)
        for compression in COMPRESSIONS:
            score.check(f"{one.name}: produce {compression}", lambda o=one, c=compression: o.produce(c, "before"))
        score.check(f"{one.name}: consume half in a group, commit", one.consume_half)
    if tools:
        score.check("tools: kafka-topics create, list, describe", tools.topics)
        score.check("tools: kafka-console-producer", tools.console_producer)
        score.check("tools: kafka-get-offsets", tools.offsets)
        score.check("tools: kafka-console-consumer in a group", tools.console_consumer)
        score.check("tools: perf tests", tools.perf)
    if restart:
        score.check("restart the broker", restart)
    for one in scenarios:
        score.check(f"{one.name}: produce again", lambda o=one: o.produce("lz4", "after"))
        score.check(f"{one.name}: resume where it committed", one.consume_rest)
    if tools:
        score.check("tools: the console consumer resumes", tools.resume)


def against_tidemark(score, args, names, built):
    with tempfile.TemporaryDirectory(prefix="tidemark-smoke-") as directory:
        store = None
        broker = None
        try:
            if args.bucket == "dir":
                bucket = Bucket.directory(Path(directory) / "bucket")
            else:
                store = None if args.endpoint else S3(Path(directory) / "s3")
                bucket = Bucket.s3(args.endpoint or store.endpoint, f"smoke-{int(time.time()):x}")
            broker = Broker(args.tidemark, 1, bucket, directory)

            def restart():
                broker.stop()
                broker.start()

            if score.check("start the broker", broker.start):
                run_smoke(score, names, broker.address, built, restart)
                score.check("drain the broker", broker.stop)
        finally:
            if broker:
                broker.end()
            if store:
                store.end()
            if score.failed and broker and broker.child:
                print(f"--- the end of the broker's log\n{broker.child.tail(60)}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", help="the broker's binary")
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--endpoint", help="an S3 server with a bucket `tidemark`; by default one is started")
    parser.add_argument("--bootstrap", help="a running broker instead of one of ours")
    parser.add_argument("--clients", default=",".join([*CLIENTS, "tools"]), help="which of %(default)s")
    target = os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target")
    parser.add_argument("--built", type=Path, default=Path(target) / "compat", help="where built clients are kept")
    args = parser.parse_args()
    if bool(args.tidemark) == bool(args.bootstrap):
        parser.error("give either --tidemark or --bootstrap")
    names = args.clients.split(",")
    unknown = set(names) - {*CLIENTS, "tools"}
    if unknown:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    score, built = Score(), args.built.absolute()
    if args.bootstrap:
        run_smoke(score, names, args.bootstrap, built, None)
    else:
        against_tidemark(score, args, names, built)
    return score.close()


if __name__ == "__main__":
    sys.exit(main())
