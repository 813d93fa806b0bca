#!/usr/bin/env python3
"""Three brokers on a real S3 server, each on a host of its own, under load from real clients, blow after blow.

librdkafka produces without a pause (idempotent), Java and franz-go in batches; each of --groups reads in a group of two
members and commits; a reader follows every partition; end offsets and committed offsets are asked all the time, topics
are made. All that clients did and saw goes into a history (history.py), which is judged at the end, before and after a
cold start with empty disks.

  storm.py --tidemark target/release/tidemark --bench target/release/tidemark-bench --blows kill --rounds 50
  storm.py --tidemark … --bench … --blows kill,freeze,drain,apart,alone,gust,away --rounds 14

kill: kill -9, empty disk · freeze: SIGSTOP for --frozen seconds · drain: SIGTERM, and a start · apart: two brokers that
reach the bucket but not each other · alone: a broker that reaches nobody · gust: bucket errors for 10 s · away: no bucket
for 10 s. Needs root, for network namespaces.
"""
import argparse
import datetime
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from chaos import FAULTS, PATIENCE_S
from client import Client
from history import History
from hosts import BUCKET, Hosts
from roster import command_of
from world import S3, Broker, Bucket, Proxy, Trouble, scored, wait_for

TOPIC = "storm"
GUST_S = 10.0
QUIET = {"log_level": 0, "reconnect.backoff.max.ms": 500, "topic.metadata.refresh.interval.ms": 5_000}
BLOWS = ["kill", "freeze", "drain", "apart", "alone", "gust", "away"]
TAKEN = re.compile(r"^(\S+Z)\s.*taking over a broker's lanes", re.MULTILINE)


def value_of(key):
    """A record's key says which producer sent it, to which partition, and its number there."""
    start, _, i = key.rpartition("-")
    producer, partition, base = start.rsplit(".", 2)
    return (producer, int(partition), int(base) + int(i))


class Task(threading.Thread):
    """A thread that runs until it is told to end; what it dies of is trouble."""

    def __init__(self, name, history):
        super().__init__(name=name, daemon=True)
        self.history, self.ending, self.trouble = history, threading.Event(), None

    def run(self):
        try:
            while not self.ending.is_set():
                self.step()
        except Exception as error:
            self.trouble = f"{self.name}: {error!r}"
        self.close()

    def step(self):
        raise NotImplementedError

    def close(self):
        pass

    def finish(self, patience=PATIENCE_S):
        self.ending.set()
        self.join(patience)
        if self.is_alive():
            raise Trouble(f"{self.name} did not end within {patience} s")
        if self.trouble:
            raise Trouble(self.trouble)


class Steady(Task):
    """librdkafka, idempotent, never idle: the clock of how long partitions take no record."""

    def __init__(self, bootstrap, partitions, rate, history):
        super().__init__("rdkafka", history)
        self.producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, "delivery.timeout.ms": 300_000,
            "request.timeout.ms": 10_000, "socket.timeout.ms": 10_000, "retry.backoff.max.ms": 500,
            "socket.connection.setup.timeout.ms": 3_000, **QUIET,
        })
        self.rate, self.sent, self.produced = rate, [0] * partitions, 0
        self.last, self.failures, self.began = [0.0] * partitions, [], time.monotonic()

    def step(self):
        due = int((time.monotonic() - self.began) * self.rate)
        while self.produced < due:
            partition = self.produced % len(self.sent)
            key = f"rdkafka.{partition}.{self.sent[partition]}-0"
            self.producer.produce(TOPIC, key=key, value="x" * (self.produced % 300), partition=partition,
                                  on_delivery=self.delivered)
            self.sent[partition] += 1
            self.produced += 1
        self.producer.poll(0.005)

    def delivered(self, error, message):
        value = value_of(message.key().decode())
        if error is None:
            self.history.ack(value, message.offset())
            self.last[message.partition()] = time.monotonic()
        else:
            self.history.lost_sight(value)
            self.failures.append(f"{value}: {error}")

    def close(self):
        if left := self.producer.flush(PATIENCE_S):
            self.trouble = f"{left} records were neither acknowledged nor given up {PATIENCE_S} s after the last blow"

    def flowing(self, since):
        def flows():
            if self.trouble or self.failures:
                raise Trouble(self.trouble or self.failures[0])
            return all(at > since for at in self.last)

        wait_for("an ack of every partition", flows, PATIENCE_S)


class Batches(Task):
    """A client of the matrix that produces batch after batch. After a failure it is another producer."""

    def __init__(self, name, client, partitions, history):
        super().__init__(name, history)
        self.client, self.partitions = client, partitions
        self.next, self.lives, self.turn = [0] * partitions, 0, 0

    def step(self):
        partition, self.turn = self.turn % self.partitions, self.turn + 1
        base, count = self.next[partition], 50
        self.next[partition] += count
        producer = f"{self.name}~{self.lives}"
        prefix = f"{producer}.{partition}.{base}"
        try:
            rows = self.client.ask("produce", topic=TOPIC, count=count, prefix=prefix, partition=partition, idempotent=True)
        except Trouble:
            self.lives += 1
            for i in range(count):
                self.history.lost_sight((producer, partition, base + i))
            return
        for _, offset, key, *_ in rows["records"]:
            self.history.ack(value_of(key), offset)
        self.ending.wait(0.1)


class Group(Task):
    """Two members of one group; what they are given, and what the group has committed."""

    def __init__(self, name, client, partitions, history):
        super().__init__(f"group-{name}", history)
        self.partitions, self.client = partitions, client
        self.new_member = lambda: client.member(topic=TOPIC, group=self.name, session_ms=10_000)
        self.members, self.again = [self.new_member(), self.new_member()], 0

    def step(self):
        for i, member in enumerate(self.members):
            try:
                member.take()
            except Trouble:  # a library that gives up: its application would start it again
                member.kill()
                self.again += 1
                self.members[i] = self.new_member()
            self.history.group_read(self.name, [value_of(key) for key in member.read])
            member.read.clear()
        try:
            found = self.client.ask("committed", topic=TOPIC, group=self.name, partitions=self.partitions)
            for partition, offset in enumerate(found["offsets"]):
                self.history.committed(self.name, partition, offset)
        except Trouble:
            pass  # not answered; asked again
        self.ending.wait(0.5)

    def close(self):
        for member in self.members:
            member.kill()
        self.client.end()


class Reader(Task):
    """Follows every partition, and asks for end offsets."""

    def __init__(self, bootstrap, partitions, history):
        super().__init__("reader", history)
        self.consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False,
            "auto.offset.reset": "error", **QUIET,
        })
        self.partitions, self.asked = partitions, 0
        self.consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])

    def step(self):
        for message in self.consumer.consume(500, 0.2):
            if message.error() is None:
                self.history.read("reader", message.partition(), message.offset(), value_of(message.key().decode()))
            elif message.error().name() == "_AUTO_OFFSET_RESET":
                self.history.out_of_range("reader", message.partition(), message.offset())
        self.asked += 1
        partition, asked = self.asked % self.partitions, time.monotonic()
        try:
            _, end = self.consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=2, cached=False)
            self.history.end(asked, partition, end)
        except KafkaException:
            pass  # not answered; asked again

    def close(self):
        self.consumer.close()


def read_all(bootstrap, partitions):
    """Everything from the beginning to the end offsets as they are now: {partition: [(offset, value)]}."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "quiet", "enable.auto.commit": False, **QUIET})
    ends = []

    def asked():
        try:
            ends.append(consumer.get_watermark_offsets(TopicPartition(TOPIC, len(ends)), timeout=10, cached=False)[1])
        except KafkaException:
            pass  # not led yet, say; what stays wrong is told by the time that is over
        return len(ends) == partitions

    wait_for("the end offsets", asked, PATIENCE_S)
    consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])
    found, deadline = {p: [] for p in range(partitions)}, time.monotonic() + PATIENCE_S
    while any(not found[p] or found[p][-1][0] + 1 < end for p, end in enumerate(ends) if end):
        if time.monotonic() > deadline:
            raise Trouble(f"read {[len(rows) for rows in found.values()]} of {ends} in {PATIENCE_S} s")
        for message in consumer.consume(2000, 0.5):
            if message.error() is None:
                found[message.partition()].append((message.offset(), value_of(message.key().decode())))
    consumer.close()
    return found


class Storm:
    """The world of one run, and its blows."""

    def __init__(self, args, directory, on_end):
        self.args, self.random, self.history = args, random.Random(args.seed), History()
        self.hosts = Hosts(args.brokers)
        on_end.append(self.hosts.end)
        store = S3(directory / "s3")
        on_end.append(store.end)
        self.proxy = Proxy(args.bench, store.endpoint, directory, args.seed, f"{BUCKET}:0")
        on_end.append(self.proxy.end)
        bucket = Bucket.s3(self.proxy.endpoint)
        more = {"tidemark.peer.secret": "storm-secret", "tidemark.balance.ms": 2000, **dict(pair.split("=", 1) for pair in args.set)}
        self.brokers = [
            Broker(args.tidemark, n, bucket, directory, more, host) for n, host in enumerate(self.hosts.hosts, 1)
        ]
        on_end.append(lambda: [broker.end() for broker in self.brokers])
        self.bootstrap = ",".join(broker.address for broker in self.brokers)
        self.times, self.detected, self.tasks, self.directory = {}, [], [], directory

    def start(self):
        for broker in self.brokers:
            broker.start()
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, **QUIET})
        self.admin.create_topics([NewTopic(TOPIC, self.args.partitions)], request_timeout=30)[TOPIC].result(30)

    def populate(self):
        args, made = self.args, (self.bootstrap, self.args.partitions)
        self.steady = Steady(*made, args.rate, self.history)
        self.reader = Reader(*made, self.history)
        client = lambda name: Client(name, command_of(name, args.built, self.bootstrap), self.directory)
        self.batches = [Batches(name, client(name), args.partitions, self.history) for name in args.producers.split(",")]
        self.groups = [Group(name, client(name), args.partitions, self.history) for name in args.groups.split(",")]
        self.tasks = [self.steady, self.reader, *self.batches, *self.groups]
        for task in self.tasks:
            task.start()
        self.steady.flowing(time.monotonic())

    def blow(self, name, n):
        """One blow. Records flow on every partition before it and after it."""
        if not self.args.calm:
            self.proxy.faults(**FAULTS)
        self.steady.flowing(time.monotonic())
        time.sleep(self.random.uniform(0.3, 2.0))
        victim = self.random.choice(self.leading())
        began, wall = time.monotonic(), time.time()
        note = getattr(self, name)(victim)
        self.steady.flowing(time.monotonic())
        self.times.setdefault(name, []).append(max(self.first - began, 0.0))
        if name == "kill":
            self.detected.append(max(self.first - began - self.detection(wall, victim), 0.0))
        topic = f"made-{n}"
        try:
            self.admin.create_topics([NewTopic(topic, 1)], request_timeout=20)[topic].result(30)
            self.history.create(topic)
        except KafkaException:
            pass  # it may be there or not
        for task in self.tasks:
            if task.trouble:
                raise Trouble(task.trouble)
        return f"node {victim.node}, {(self.first - began) * 1000:.0f} ms to the last first ack{note or ''}"

    def leading(self):
        """The brokers that lead something: what befalls another one is noticed by nobody."""
        partitions = self.admin.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions.values()
        leaders = {partition.leader for partition in partitions}
        return [broker for broker in self.brokers if broker.node in leaders] or self.brokers

    def detection(self, wall, victim):
        """Seconds from the blow until a controller said that it takes over."""
        said = [m.group(1) for b in self.brokers if b is not victim for m in TAKEN.finditer(b.log.read_text(errors="replace"))]
        times = [datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() for text in said]
        after = [at - wall for at in times if at > wall]
        return min(after, default=0.0)

    def until_acked(self, since):
        self.steady.flowing(since)
        self.first = max(self.steady.last)

    def kill(self, victim):
        victim.kill(wipe=True)
        self.until_acked(time.monotonic() + 0.5)
        victim.start()

    def freeze(self, victim):
        victim.child.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        self.until_acked(began + 0.5)
        time.sleep(max(0.0, self.args.frozen - (time.monotonic() - began)))
        victim.child.process.send_signal(signal.SIGCONT)
        time.sleep(3)

    def drain(self, victim):
        victim.stop()
        self.until_acked(time.monotonic())
        victim.start()

    def apart(self, victim):
        a, b = self.random.sample(self.hosts.hosts, 2)
        self.hosts.apart(a, b)
        self.until_acked(time.monotonic() + 0.5)
        time.sleep(GUST_S)
        generations = self.generations()
        time.sleep(GUST_S)
        more = self.generations() - generations
        self.hosts.heal()
        if more > 2:
            raise Trouble(f"the cluster thrashes: {more} new controllers in the last {GUST_S:.0f} s of {2 * GUST_S:.0f} s apart")
        return f", {more} new controllers in the second half"

    def generations(self):
        """Highest generation of the metadata that any log tells of."""
        found = (re.findall(r"metadata generation generation=(\d+)", b.log.read_text(errors="replace")) for b in self.brokers)
        return max((int(g) for all_of_one in found for g in all_of_one), default=0)

    def alone(self, victim):
        self.hosts.alone(victim.host)
        self.until_acked(time.monotonic() + 0.5)
        time.sleep(GUST_S)
        self.hosts.heal()
        time.sleep(2)

    def gust(self, _victim):
        self.proxy.faults(**{name: min(value * 4, 0.5) if value < 1 else value for name, value in FAULTS.items()})
        time.sleep(GUST_S)
        self.proxy.faults(**FAULTS)
        self.until_acked(time.monotonic())

    def away(self, _victim):
        self.proxy.faults(**{**FAULTS, "outage": "reset"})
        time.sleep(GUST_S)
        self.proxy.faults(**FAULTS)
        self.until_acked(time.monotonic())

    def settle(self):
        """Producers end; groups get what is left."""
        self.proxy.faults()
        for task in [self.steady, *self.batches]:
            task.finish()

        def all_read():
            with self.history.lock:
                return all(len(self.history.grouped[g.name] & self.history.acked.keys()) == len(self.history.acked)
                           for g in self.groups)

        try:
            wait_for("the groups", all_read, PATIENCE_S)
        except Trouble:
            pass  # told by the judge, record by record
        waited = {g.name: len(self.history.acked.keys() - self.history.grouped[g.name]) for g in self.groups}
        for task in [self.reader, *self.groups]:
            task.finish()
        return f"{len(self.history.acked)} acknowledged, {len(self.history.unsure)} given up by their clients, " \
               f"{sum(g.again for g in self.groups)} members started again, left unread {waited}"

    def judge(self):
        stored = read_all(self.bootstrap, self.args.partitions)
        for broker in self.brokers:
            broker.kill(wipe=True)
        for broker in self.brokers:
            broker.start(wait=False)
        for broker in self.brokers:
            broker.wait_ready()
        again = read_all(self.bootstrap, self.args.partitions)
        topics = set(self.admin.list_topics(timeout=30).topics)
        found = self.history.finish(stored, again, topics)
        if found:
            raise Trouble("; ".join(f"{kind}: {what[:3]}" for kind, what in found.items()))
        return f"{sum(map(len, stored.values()))} stored, {len(self.history.created)} topics made"


def quantiles(name, seconds):
    rows = sorted(seconds)
    pick = lambda q: rows[min(int(len(rows) * q), len(rows) - 1)] * 1000
    print(f"{name}: {len(rows)} times, p50 {pick(0.5):.0f} ms, p99 {pick(0.99):.0f} ms, worst {rows[-1] * 1000:.0f} ms")


def run(args, score, directory, on_end):
    storm = Storm(args, directory, on_end)
    if not (score.check("start", storm.start) and score.check("load flows", storm.populate)):
        return storm.brokers
    blows = args.blows.split(",")
    for n in range(args.rounds):
        name = blows[n % len(blows)]
        if not score.check(f"round {n + 1}: {name}", lambda: storm.blow(name, n)):
            break
    score.check("all is written and read", storm.settle)
    score.check("the history is clean", storm.judge)
    for name, seconds in storm.times.items():
        quantiles(f"{name}, blow to the last partition's first ack", seconds)
    if storm.detected:
        quantiles("kill, from its detection on", storm.detected)
    print(f"faults injected: {storm.proxy.counters()['faults']}")
    return storm.brokers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True, help="the broker's binary")
    parser.add_argument("--bench", required=True, help="the binary that is the fault proxy")
    parser.add_argument("--built", type=Path, required=True, help="where built clients are kept")
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--blows", default=",".join(BLOWS), help="in turn")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--producers", default="java,franz-go")
    parser.add_argument("--groups", default="java,confluent,franz-go")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--rate", type=int, default=600, help="records per second of librdkafka's producer")
    parser.add_argument("--frozen", type=float, default=60.0, help="seconds of a freeze")
    parser.add_argument("--calm", action="store_true", help="no faults of the bucket between blows")
    parser.add_argument("--seed", type=int, default=None, help="of the moments and faults; random and printed by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more broker settings")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    if unknown := set(args.blows.split(",")) - set(BLOWS):
        parser.error(f"no such blow: {', '.join(sorted(unknown))}")
    args.seed, args.built = args.seed or random.randrange(1 << 32), args.built.absolute()
    return scored("storm", lambda *given: run(args, *given), args.keep, f"seed {args.seed}, ")


if __name__ == "__main__":
    sys.exit(main())
