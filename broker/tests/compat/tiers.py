#!/usr/bin/env python3
"""A tiered topic from its first record to its last object: produced by a real client, offloaded to segments, read from offset 0 by a broker with an empty disk, exported, shortened by retention, deleted.
What is read is compared by hash, record by record, with what was acknowledged; the bucket is scrubbed beside the broker and, if it is a directory, looked into.

  tiers.py --tidemark target/debug/tidemark                       librdkafka (confluent-kafka must be installed; Parquet is read back if pyarrow is)
  tiers.py --tidemark target/debug/tidemark --jars DIR            Kafka's tools on the segments and on what is exported, too
  tiers.py --tidemark target/debug/tidemark --bucket s3           in a real S3 server
  tiers.py --tidemark target/debug/tidemark --transactions        with transactions in between, one of them aborted; Tidemark cannot yet
"""
import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

try:
    import pyarrow.parquet
except ImportError:
    pyarrow = None

from near import metrics, total
from world import HERE, S3, S3_KEY, S3_SECRET, Broker, Bucket, Score, Trouble, wait_for

PARTS, TOPIC, MIB, SEGMENT, GRACE_MS = 6, "tiered", 1 << 20, 1 << 20, 1500
BEGUN = int(time.time() * 1000) - 100_000
SETTINGS = {
    "tidemark.cut.ms": 1000,
    "tidemark.offload.check.ms": 500,
    "log.retention.check.interval.ms": 1000,
    "log.segment.delete.delay.ms": GRACE_MS,
    "tidemark.delete.grace.ms": GRACE_MS,
    "tidemark.hot.memory.bytes": 4 * MIB,
}
CONFIGS = {"remote.storage.enable": "true", "segment.bytes": str(SEGMENT), "local.retention.bytes": str(SEGMENT)}


def digest(key, value):
    return hashlib.sha256(key + b"|" + value).digest()


class Told:
    """What was acknowledged: by partition and offset the hash of a record, and whether a transaction took it back."""

    def __init__(self, partitions):
        self.rows = [{} for _ in range(partitions)]
        self.errors = []

    def keep(self, aborted):
        def delivered(error, message):
            if error:
                self.errors.append(str(error))
            else:
                row = digest(message.key(), message.value()), aborted
                self.rows[message.partition()][message.offset()] = row
        return delivered

    def visible(self, partition, committed, start=0):
        rows = sorted(self.rows[partition].items())
        return [(offset, row) for offset, (row, aborted) in rows if offset >= start and not (committed and aborted)]


def send(producer, told, seed, count, aborted=False):
    rng = random.Random(seed)
    partitions = len(told.rows)
    for n in range(count):
        value = rng.randbytes(512) * rng.randint(1, 16)
        # Time goes on by a hundredth of a second with each record, from before now.
        arguments = dict(key=b"%d-%d" % (seed, n), value=value, partition=n % partitions, timestamp=BEGUN + 10 * n)
        while True:
            try:
                producer.produce(TOPIC, on_delivery=told.keep(aborted), **arguments)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120) or told.errors:
        raise Trouble(f"not everything was acknowledged: {told.errors[:3]}")


def consumer(address, committed):
    return Consumer({"bootstrap.servers": address, "group.id": "tiers", "enable.auto.commit": False,
                     "enable.partition.eof": True, "auto.offset.reset": "error",
                     "isolation.level": "read_committed" if committed else "read_uncommitted"})


def read(address, partitions, committed, starts, patience=180):
    """All there is from `starts` on, as (offset, hash) by partition."""
    reader, found, ended = consumer(address, committed), [[] for _ in range(partitions)], set()
    reader.assign([TopicPartition(TOPIC, p, starts[p]) for p in range(partitions)])
    deadline = time.monotonic() + patience
    while len(ended) < partitions:
        if time.monotonic() > deadline:
            raise Trouble(f"not all was read in {patience} s: {[len(rows) for rows in found]}")
        for message in reader.consume(1000, 0.5):
            if message.error() and message.error().name() == "_PARTITION_EOF":
                ended.add(message.partition())
            elif message.error():
                raise Trouble(str(message.error()))
            else:
                found[message.partition()].append((message.offset(), digest(message.key(), message.value())))
    reader.close()
    return found


def same(address, told, starts):
    """Compares, for both isolation levels; how much it was."""
    count, begun = 0, time.monotonic()
    for committed in (False, True):
        for partition, rows in enumerate(read(address, len(told.rows), committed, starts)):
            expected = told.visible(partition, committed, starts[partition])
            if rows != expected:
                at = next((a[0] for a, b in zip(expected, rows) if a != b), "the end")
                raise Trouble(f"partition {partition} differs at {at}: {len(rows)} records for {len(expected)}")
            count += len(rows)
    return f"{count} records in {time.monotonic() - begun:.1f} s"


def times(address, partitions):
    """Where some times fall."""
    reader = consumer(address, False)
    asked = [TopicPartition(TOPIC, p, BEGUN + at) for p in range(partitions) for at in (0, 5_000, 20_000, 10**9)]
    found = [[(row.partition, row.offset) for row in reader.offsets_for_times([ask], 30)] for ask in asked]
    reader.close()
    return found


def starts_of(address, partitions):
    reader = consumer(address, False)
    starts = [reader.get_watermark_offsets(TopicPartition(TOPIC, p), 30)[0] for p in range(partitions)]
    reader.close()
    return starts


class Tiers:
    def __init__(self, args, directory):
        self.args, self.directory, self.score = args, directory, Score()
        self.folder = directory / "bucket" if args.bucket == "dir" else None
        self.store = S3(directory / "s3") if args.bucket == "s3" else None
        self.bucket = Bucket.directory(self.folder) if self.folder else Bucket.s3(self.store.endpoint)
        self.broker = Broker(args.tidemark, 1, self.bucket, directory, SETTINGS)
        self.told = Told(args.partitions)

    def objects(self, kind):
        """Objects of a kind, with their sizes."""
        found = {}
        for path in (self.folder / kind).rglob("*"):
            try:
                if path.is_file() and not path.name.startswith("."):
                    found[str(path)] = path.stat().st_size
            except FileNotFoundError:
                pass
        return found

    def bytes(self, kind):
        if not self.folder:
            return self.reported()[{"segment": "segments", "run": "runs", "wal": "parcels"}[kind]]
        return sum(self.objects(kind).values())

    def aside(self, *words):
        """A command that looks at the bucket and asks no broker."""
        sets = [part for name, value in self.bucket.settings.items() for part in ("--set", f"{name}={value}")]
        env = {**os.environ, "AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
        command = [self.args.tidemark, *words, *sets, "--json"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, env=env)
        if done.returncode:
            raise Trouble(done.stdout[-1000:] + done.stderr[-1000:])
        return done.stdout

    def reported(self):
        """Where the topic's bytes are, as the metadata names them."""
        (row,) = [row for row in json.loads(self.aside("tier", "report", TOPIC)) if row["topic"] == TOPIC]
        return row

    def scrubbed(self):
        said = json.loads(self.aside("scrub", TOPIC))
        return f"{said['offsets']} offsets in {said['objects']} objects, {said['bytes_read'] / MIB:.1f} MiB read"

    def set(self, **configs):
        entries = [ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
                   for name, value in configs.items()]
        resource = ConfigResource(ConfigResource.Type.TOPIC, TOPIC, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(30)

    def restart(self):
        self.broker.kill(wipe=True)
        shutil.rmtree(self.broker.directory / "nvme", ignore_errors=True)
        self.broker.start()

    def produce(self):
        topic = NewTopic(TOPIC, self.args.partitions, 1, config=CONFIGS)
        self.admin.create_topics([topic])[TOPIC].result(30)
        count, common = self.args.mib * MIB // 4352 // PARTS, {"bootstrap.servers": self.broker.address, "linger.ms": 20}
        plain = Producer(common)
        for seed in range(PARTS):
            send(plain, self.told, 10 + seed, count)
            time.sleep(1.5)  # a cut for each
        if self.args.transactions:
            writer = Producer({**common, "transactional.id": "tiers"})
            writer.init_transactions(30)
            for seed, aborted in ((2, False), (3, True), (4, False)):
                writer.begin_transaction()
                send(writer, self.told, seed, 300, aborted)
                writer.abort_transaction(30) if aborted else writer.commit_transaction(30)
        return f"{sum(map(len, self.told.rows))} records"

    def offloaded(self):
        def lag():
            found = metrics(self.broker)
            name = "kafka_server_brokertopicmetrics_remotecopylagbytes"
            segments = total(found, "kafka_server_brokertopicmetrics_remotelogmetadatacount", TOPIC)
            return segments and total(found, name, TOPIC) < SEGMENT * self.args.partitions
        wait_for("offload", lag, 120, self.broker.child.alive)
        # What segments hold leaves parcels and runs, but for a run that holds something above them, too.
        room = self.args.mib * MIB // 2
        wait_for("runs to go", lambda: self.bytes("run") + self.bytes("wal") < room, 60, self.broker.child.alive)
        sizes = {kind: round(self.bytes(kind) / MIB, 1) for kind in ("segment", "run", "wal")}
        return f"MiB: {sizes}, {self.segments()} segments"

    def segments(self):
        return int(total(metrics(self.broker), "kafka_server_brokertopicmetrics_remotelogmetadatacount", TOPIC))

    def cold(self):
        self.restart()
        note = same(self.broker.address, self.told, [0] * self.args.partitions)
        found = times(self.broker.address, self.args.partitions)
        if found != self.before:
            raise Trouble(f"times fall elsewhere: {found}, were {self.before}")
        return note

    def dumped(self, folder):
        """By Kafka's own tool: the first segment, the last, and one in between."""
        logs, some = sorted(folder.rglob("*.log")), self.directory / f"some-of-{folder.name}"
        for number, log in enumerate([logs[0], logs[len(logs) // 2], logs[-1]]):
            (some / str(number)).mkdir(parents=True)
            for part in log.parent.glob(f"{log.stem}.*"):
                shutil.copy(part, some / str(number))
        command = [sys.executable, HERE / "segments.py", some, "--built", self.args.jars]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise Trouble(done.stdout[-2000:] + done.stderr[-500:])
        return done.stdout.splitlines()[-1]

    def asked(self):
        """Kafka's own tool on earliest-local, latest-tiered and earliest-pending-upload."""
        said = {}
        for at in (-2, -4, -5, -6, -1):
            command = [HERE / "java" / "kafka-tool", self.args.jars + "/java", "kafka-get-offsets", "--bootstrap-server",
                       self.broker.address, "--topic", TOPIC, "--time", at]
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
            said[at] = {int(p): int(o) for p, o in re.findall(rf"{TOPIC}:(\d+):(-?\d+)", done.stdout)}
            if done.returncode or len(said[at]) != self.args.partitions:
                raise Trouble(f"{at}: {done.stdout} {done.stderr[-500:]}")
        for p in range(self.args.partitions):
            first, local, tiered, pending, last = (said[at][p] for at in (-2, -4, -5, -6, -1))
            if not (first == 0 < local <= tiered + 1 == pending <= last):
                raise Trouble(f"partition {p}: {[first, local, tiered, pending, last]}")
        return str({at: list(rows.values()) for at, rows in said.items()})

    def export(self, form):
        into = self.directory / f"export-{form}"
        command = [self.args.tidemark, "export", TOPIC, "--dir", into, "--format", form, "--bootstrap", self.broker.address]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Trouble(done.stderr[-1000:])
        if form == "json":
            lines = sum(len(file.read_text().splitlines()) for file in into.glob("*.jsonl"))
            if lines != sum(map(len, self.told.rows)):
                raise Trouble(f"{lines} lines")
            return f"{lines} lines"
        if form == "parquet":
            return self.tables(into)
        logs = sum(file.stat().st_size for file in into.rglob("*.log"))
        return self.dumped(into) if self.args.jars else f"{logs / MIB:.1f} MiB"

    def tables(self, folder):
        """Read by pyarrow, record by record."""
        count = 0
        for partition, rows in enumerate(self.told.rows):
            table = pyarrow.parquet.read_table(folder / f"{TOPIC}-{partition}.parquet")
            found = [(row["offset"], digest(row["key"], row["value"])) for row in table.to_pylist()]
            if found != [(offset, row) for offset, (row, _) in sorted(rows.items())]:
                raise Trouble(f"partition {partition} differs: {table.num_rows} rows for {len(rows)}")
            count += table.num_rows
        return f"{count} rows; {table.schema.names}"

    def retained(self):
        before, keep = self.segments(), 4 * SEGMENT
        self.set(retention_bytes=keep)
        most = (keep + 3 * SEGMENT) * self.args.partitions
        wait_for("retention", lambda: self.bytes("segment") < most, 120, self.broker.child.alive)
        starts = starts_of(self.broker.address, self.args.partitions)
        if not all(starts):
            raise Trouble(f"the log starts at {starts}")
        after = self.segments()
        note = same(self.broker.address, self.told, starts)
        return f"{before} segments, then {after}; the log starts at {starts}; {note}"

    def deleted(self):
        self.admin.delete_topics([TOPIC])[TOPIC].result(30)
        if not self.folder:
            return "not looked into"
        gone = lambda: not self.objects("segment") and self.bytes("run") + self.bytes("wal") < MIB
        try:
            wait_for("the bucket to be free", gone, 90, self.broker.child.alive)
        except Trouble as trouble:
            left = {kind: self.bytes(kind) for kind in ("segment", "run", "wal")}
            raise Trouble(f"{trouble}: {left} bytes are left") from None
        return f"{self.bytes('run') + self.bytes('wal')} bytes of runs and parcels are left"

    def run(self):
        check, partitions = self.score.check, self.args.partitions
        self.broker.start()
        self.admin = AdminClient({"bootstrap.servers": self.broker.address})
        try:
            if not check("produced", self.produce):
                return
            check("read while it is hot", lambda: same(self.broker.address, self.told, [0] * partitions))
            self.before = times(self.broker.address, partitions)
            check("offloaded; runs and parcels let go", self.offloaded)
            check("read from segments, by a broker with an empty disk", self.cold)
            check("every byte in the bucket is true, every offset there", self.scrubbed)
            if self.args.jars:
                check("kafka-get-offsets: -4, -5, -6", self.asked)
            if self.args.jars and self.folder:
                check("kafka-dump-log on the bucket's segments", lambda: self.dumped(self.folder / "segment"))
            check("export as Kafka's files", lambda: self.export("kafka"))
            check("export as JSON", lambda: self.export("json"))
            if pyarrow:
                check("export as Parquet", lambda: self.export("parquet"))
            check("retention.bytes takes the oldest segments", self.retained)
            check("every byte that is left is true", self.scrubbed)
            check("the rest, by an empty disk again", lambda: (self.restart(), same(
                self.broker.address, self.told, starts_of(self.broker.address, partitions)))[1])
            check("a deleted topic leaves the bucket", self.deleted)
        finally:
            if self.score.failed:
                kept = Path(tempfile.gettempdir()) / "tiers-broker.log"
                shutil.copy(self.broker.log, kept)
                print(f"the broker's log is {kept}")
            self.broker.end()
            if self.store:
                self.store.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True)
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--jars", help="where Kafka's jars are kept (see segments.py --built)")
    parser.add_argument("--transactions", action="store_true")
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--mib", type=int, default=48)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        tiers = Tiers(args, Path(directory))
        tiers.run()
        return tiers.score.close()


if __name__ == "__main__":
    sys.exit(main())
