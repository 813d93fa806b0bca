#!/usr/bin/env python3
"""kill -9 under load, round after round: every acked record is there once, in order, at its offset.

A librdkafka producer (idempotent) writes numbered records through every round and a consumer follows. In a round a
broker is killed at a random moment and started again with an EMPTY log.dirs; with --brokers 2 the other one takes over
meanwhile. With --bucket s3 the fault proxy of tidemark-bench stands before the store and injects 503s, lost answers,
late PUTs and stalls. At the end everything is read back from the beginning and compared with every ack.

  chaos.py --tidemark target/debug/tidemark --bucket dir --rounds 100
  chaos.py --tidemark target/debug/tidemark --bucket s3 --bench target/debug/tidemark-bench --rounds 100
  chaos.py --tidemark target/debug/tidemark --bucket dir --brokers 2 --rounds 50
  chaos.py --tidemark target/debug/tidemark --bucket dir --brokers 3 --blow drain --rounds 20

--blow drain ends a broker by SIGTERM: it must give its partitions away, end with code 0, and nobody may notice but by a
few slow acks. --blow freeze stops it for --frozen seconds, after which it must find out by itself that it is not the
owner any more.
"""
import argparse
import random
import signal
import sys
import threading
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from world import S3, Broker, Bucket, Proxy, Trouble, scored, wait_for

TOPIC = "chaos"
FAULTS = {
    "slow_down": 0.02, "stored_503": 0.01, "lost": 0.02, "late": 0.01, "reset": 0.01, "cut": 0.005, "stall": 0.003,
    "stall_ms": 5000, "late_ms": 8000, "close_ms": 200, "jitter_ms": 20,
}
PATIENCE_S = 120
BLOWS = {"kill": "kill -9, empty disk", "drain": "SIGTERM", "freeze": "SIGSTOP"}


class Load(threading.Thread):
    """Produces numbered records to every partition and remembers every ack: {partition: {offset: number}}."""

    def __init__(self, bootstrap, partitions, rate, acks_ms):
        super().__init__(name="load", daemon=True)
        self.producer = Producer({
            "bootstrap.servers": bootstrap,
            "log_level": 2,  # lost connections are the point, not news
            "enable.idempotence": True,
            "linger.ms": 5,
            "delivery.timeout.ms": acks_ms,
            "request.timeout.ms": 10_000,
            "retry.backoff.max.ms": 500,
            "reconnect.backoff.max.ms": 500,
            "socket.connection.setup.timeout.ms": 3_000,
            "topic.metadata.refresh.interval.ms": 5_000,
            "queue.buffering.max.messages": 1_000_000,
            "error_cb": lambda error: self.fatal.append(str(error)) if error.fatal() else None,
        })
        self.rate, self.sent = rate, [0] * partitions
        self.acked = [{} for _ in range(partitions)]
        self.acks, self.failures, self.fatal, self.trouble = 0, [], [], []
        self.last_ack, self.gaps = [0.0] * partitions, [0.0] * partitions
        self.ending = threading.Event()

    def run(self):
        began, produced = time.monotonic(), 0
        while not self.ending.is_set():
            due = int((time.monotonic() - began) * self.rate)
            while produced < due:
                partition = produced % len(self.sent)
                number = self.sent[partition]
                try:
                    self.producer.produce(
                        TOPIC, value=f"{number}:{'x' * (number % 300)}", partition=partition,
                        on_delivery=lambda error, message, n=number: self.delivered(error, message, n),
                    )
                except BufferError:
                    break
                self.sent[partition] += 1
                produced += 1
            self.producer.poll(0.005)

    def delivered(self, error, message, number):
        partition = message.partition()
        if error is not None:
            self.failures.append(f"record {number} of partition {partition}: {error}")
            return
        before = self.acked[partition].setdefault(message.offset(), number)
        if before != number:
            self.trouble.append(f"partition {partition}: offset {message.offset()} acked for {before} and {number}")
        self.acks += 1
        now = time.monotonic()
        if self.last_ack[partition]:
            self.gaps[partition] = max(self.gaps[partition], now - self.last_ack[partition])
        self.last_ack[partition] = now

    def finish(self):
        self.ending.set()
        self.join()
        left = self.producer.flush(PATIENCE_S)
        if left:
            raise Trouble(f"{left} records were neither acked nor failed {PATIENCE_S} s after the last round")


class Follower(threading.Thread):
    """Reads along: what a consumer has once seen at an offset must be there for ever."""

    def __init__(self, bootstrap, partitions):
        super().__init__(name="follower", daemon=True)
        self.consumer = consumer(bootstrap, "follower")
        self.consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])
        self.seen, self.trouble = [{} for _ in range(partitions)], []
        self.ending = threading.Event()

    def run(self):
        while not self.ending.is_set():
            for message in self.consumer.consume(500, 0.2):
                if message.error():
                    continue
                number = number_of(message)
                before = self.seen[message.partition()].setdefault(message.offset(), number)
                if before != number:
                    self.trouble.append(f"{message.partition()}/{message.offset()} read as {before}, then {number}")

    def finish(self):
        self.ending.set()
        self.join()
        self.consumer.close()


def consumer(bootstrap, group):
    return Consumer({
        "bootstrap.servers": bootstrap,
        "log_level": 2,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "reconnect.backoff.max.ms": 500,
        "topic.metadata.refresh.interval.ms": 5_000,
    })


def number_of(message):
    number, _, filler = message.value().decode().partition(":")
    if filler != "x" * (int(number) % 300):
        raise Trouble(f"{message.partition()}/{message.offset()} holds other bytes than were sent")
    return int(number)


def read_all(bootstrap, partitions):
    """Everything from the beginning to the end offsets as they are now: {partition: {offset: number}}."""
    reader = consumer(bootstrap, "reader")
    ends = [reader.get_watermark_offsets(TopicPartition(TOPIC, p), timeout=30, cached=False)[1] for p in range(partitions)]
    reader.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])
    found, deadline = [{} for _ in range(partitions)], time.monotonic() + PATIENCE_S
    while any(max(seen, default=-1) + 1 < end for seen, end in zip(found, ends)):
        if time.monotonic() > deadline:
            raise Trouble(f"read {[max(seen, default=-1) + 1 for seen in found]} of {ends} in {PATIENCE_S} s")
        for message in reader.consume(2000, 0.5):
            if message.error():
                continue
            seen = found[message.partition()]
            if message.offset() in seen:
                raise Trouble(f"{message.partition()}/{message.offset()} was read twice")
            seen[message.offset()] = number_of(message)
    reader.close()
    return found, ends


def compare(load, follower, found):
    """The whole claim. Gives a note; what breaks it is an error."""
    problems = load.trouble + follower.trouble + load.fatal
    for partition, (acked, seen, stored) in enumerate(zip(load.acked, follower.seen, found)):
        where = f"partition {partition}"
        lost = [(offset, n) for offset, n in acked.items() if stored.get(offset) != n]
        problems += [f"{where}: record {n} acked at {o} is {stored.get(o)} there" for o, n in lost[:5]]
        changed = [(offset, n) for offset, n in seen.items() if stored.get(offset) != n]
        problems += [f"{where}: record {n} once read at {o} is {stored.get(o)} now" for o, n in changed[:5]]
        numbers = [stored[offset] for offset in sorted(stored)]
        wrong = [(a, b) for a, b in zip(numbers, numbers[1:]) if b <= a]
        problems += [f"{where}: record {b} stands after {a}: a duplicate or out of order" for a, b in wrong[:5]]
        if len(numbers) < len(acked):
            problems.append(f"{where}: {len(acked)} acked, {len(numbers)} stored")
    if problems:
        raise Trouble(f"{len(problems)} problems: " + "; ".join(problems[:10]))
    return f"{load.acks} acked, {sum(map(len, found))} stored, {sum(map(len, follower.seen))} followed"


class Cluster:
    """The brokers of one run."""

    def __init__(self, args, bucket, directory):
        self.args, self.random = args, random.Random(args.seed)
        more = {}
        if args.brokers > 1:
            more["tidemark.peer.secret"] = "chaos-secret"
        more |= dict(pair.split("=", 1) for pair in args.set)
        self.brokers = [Broker(args.tidemark, n, bucket, directory, more) for n in range(1, args.brokers + 1)]
        self.bootstrap = ",".join(broker.address for broker in self.brokers)
        self.peak_mib = self.worst_gap = 0.0

    def start(self):
        for broker in self.brokers:
            broker.start()

    def create_topic(self):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        made = admin.create_topics([NewTopic(TOPIC, self.args.partitions)], request_timeout=30)
        made[TOPIC].result(30)

    def round(self, load, n):
        """One kill. The load must be flowing before it, and flow again on every partition after it."""
        self.flowing(load, time.monotonic())
        time.sleep(self.random.uniform(0.1, self.args.life))
        victim = self.brokers[n % len(self.brokers)]
        self.peak_mib = max(self.peak_mib, victim.rss_mib())
        before = load.acks
        if self.args.blow != "kill":
            return {"drain": self.drain, "freeze": self.freeze}[self.args.blow](load, victim)
        victim.kill(wipe=True)
        killed = time.monotonic()
        if len(self.brokers) == 1:
            victim.start(wait=False)
            self.flowing(load, killed, victim)
        else:
            self.flowing(load, killed + 0.5)
            victim.start()
        return f"node {victim.node}, {before} acked before, {(max(load.last_ack) - killed) * 1000:.0f} ms to the last first ack"

    def drain(self, load, victim):
        load.gaps = [0.0] * len(load.gaps)
        began = time.monotonic()
        victim.stop()
        took = time.monotonic() - began
        self.flowing(load, time.monotonic())
        gap = max(load.gaps)
        self.worst_gap = max(self.worst_gap, gap)
        victim.start()
        self.flowing(load, time.monotonic())
        return f"node {victim.node} gone in {took * 1000:.0f} ms, longest time between two acks {gap * 1000:.0f} ms"

    def freeze(self, load, victim):
        victim.child.process.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        self.flowing(load, frozen + 0.5)
        first = max(load.last_ack) - frozen
        time.sleep(max(0.0, self.args.frozen - (time.monotonic() - frozen)))
        victim.child.process.send_signal(signal.SIGCONT)
        self.flowing(load, time.monotonic() + 1.0)
        return f"node {victim.node}, {first * 1000:.0f} ms to the last first ack"

    def flowing(self, load, since, starting=None):
        def alive():
            return starting is None or starting.child.alive()

        def flows():
            if load.fatal or load.trouble:
                raise Trouble("; ".join((load.fatal + load.trouble)[:3]))
            return all(at > since for at in load.last_ack)

        wait_for("an ack of every partition", flows, PATIENCE_S, alive)

    def outage(self, load, proxy, seconds):
        """The bucket is away: nothing is acked, memory stays bounded, and all recovers by itself."""
        proxy.faults(**{**FAULTS, "outage": "reset"})
        time.sleep(seconds)
        rss = max(broker.rss_mib() for broker in self.brokers)
        proxy.faults(**FAULTS)
        self.flowing(load, time.monotonic())
        return f"{rss:.0f} MiB resident at its end, {len(load.failures)} records timed out"

    def end(self):
        for broker in self.brokers:
            broker.end()


def run(args, score, directory, on_end):
    proxy = None
    if args.bucket == "dir":
        bucket = Bucket.directory(directory / "bucket")
    else:
        store = S3(directory / "s3")
        on_end.append(store.end)
        proxy = Proxy(args.bench, store.endpoint, directory, args.seed)
        on_end.append(proxy.end)
        bucket = Bucket.s3(proxy.endpoint)
    cluster = Cluster(args, bucket, directory)
    on_end.append(cluster.end)
    if not (score.check("start", cluster.start) and score.check("create the topic", cluster.create_topic)):
        return cluster.brokers
    if proxy and not args.calm:
        proxy.faults(**FAULTS)
    load = Load(cluster.bootstrap, args.partitions, args.rate, args.delivery_timeout * 1000)
    follower = Follower(cluster.bootstrap, args.partitions)
    load.start()
    follower.start()
    for n in range(args.rounds):
        if not score.check(f"round {n + 1}: {BLOWS[args.blow]}", lambda r=n: cluster.round(load, r)):
            break
    if proxy and args.outage:
        score.check(f"the bucket is away for {args.outage} s", lambda: cluster.outage(load, proxy, args.outage))
    score.check("the producer ends clean", load.finish)
    if load.failures and not args.outage:
        score.add("no record is given up", False, "; ".join(load.failures[:3]))
    follower.finish()

    def verify():
        if proxy:
            proxy.faults()
        found, _ = read_all(cluster.bootstrap, args.partitions)
        return compare(load, follower, found)

    score.check("every acked record once, in order, at its offset", verify)
    if proxy:
        print(f"faults injected: {proxy.counters()['faults']}")
    print(f"largest resident set before a blow: {cluster.peak_mib:.0f} MiB")
    if args.blow == "drain":
        print(f"longest time between two acks of a partition in a drain: {cluster.worst_gap * 1000:.0f} ms")
    return cluster.brokers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True, help="the broker's binary")
    parser.add_argument("--bench", help="the binary of tidemark-bench (for --bucket s3)")
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--brokers", type=int, choices=[1, 2, 3], default=1)
    parser.add_argument("--blow", choices=list(BLOWS), default="kill", help="what befalls a broker in each round")
    parser.add_argument("--frozen", type=float, default=10.0, help="seconds that --blow freeze lasts")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rate", type=int, default=2000, help="records per second")
    parser.add_argument("--life", type=float, default=2.0, help="longest time in seconds from a first ack to the kill")
    parser.add_argument("--delivery-timeout", type=int, default=300, help="seconds before a record is given up")
    parser.add_argument("--calm", action="store_true", help="no faults are injected (s3)")
    parser.add_argument("--outage", type=int, default=0, help="at the end the bucket is away for so many seconds (s3)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments and faults; random and printed by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more broker settings")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    if args.bucket == "s3" and not args.bench:
        parser.error("--bucket s3 needs --bench, the binary that is the fault proxy")
    args.seed = random.randrange(1 << 32) if args.seed is None else args.seed
    return scored("chaos", lambda *given: run(args, *given), args.keep, f"seed {args.seed}, ")


if __name__ == "__main__":
    sys.exit(main())
