#!/usr/bin/env python3
"""A cluster rolled to another version under load, broker by broker; then the new level is finalized.

Three brokers of --previous serve an idempotent producer and a follower. Each is ended by SIGTERM and started again as
--tidemark, in turn, and every partition must flow in between, while both versions share the cluster. While an old one
lives the new tidemark.version is refused; afterwards it is finalized, and it does not go down. At the end everything is
read back and compared with every ack.

  git worktree add /tmp/previous HEAD~1 && (cd /tmp/previous && cargo build)
  rolling.py --previous /tmp/previous/target/debug/tidemark --tidemark target/debug/tidemark
"""
import argparse
import json
import subprocess
import sys
import time

import chaos
from chaos import Follower, Load, compare, read_all
from confluent_kafka.admin import AdminClient, NewTopic
from world import HERE, Broker, Bucket, Trouble, scored, wait_for

PARTITIONS, RATE = 6, 500
FEATURE = "tidemark.version"
PATIENCE_S = 60


def flowing(load):
    since = time.monotonic()
    wait_for("an ack of every partition", lambda: all(at > since for at in load.last_ack), PATIENCE_S)


class Tools:
    """Commands of the new binary, and Kafka's own tool for features where its jars are at hand."""

    def __init__(self, args, bootstrap):
        self.binary, self.jars, self.bootstrap = args.tidemark, args.jars, bootstrap

    def feature(self):
        said = subprocess.run([self.binary, "cluster", "features", "--json", "--bootstrap", self.bootstrap],
                              capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
        return next((row for row in json.loads(said) if row["feature"] == FEATURE), None)

    def upgrade(self, level, how="upgrade"):
        """Whether kafka-features did it, and what it said."""
        command = [HERE / "java" / "kafka-tool", self.jars, "kafka-features", "--bootstrap-server", self.bootstrap, how,
                   "--feature", f"{FEATURE}={level}"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=180, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).strip()


def roll(broker, binary, load):
    flowing(load)
    load.gaps = [0.0] * len(load.gaps)
    broker.stop()
    broker.binary = binary
    broker.start()
    flowing(load)
    return f"longest time between two acks of a partition {max(load.gaps) * 1000:.0f} ms"


def refused(tools, level):
    done, said = tools.upgrade(level)
    if done:
        raise Trouble(f"{FEATURE}={level} was finalized while an old broker lives: {said}")
    return said.splitlines()[0][:160] if said else ""


def finalized(tools, level):
    done, said = tools.upgrade(level)
    now = tools.feature()
    if not done or now is None or now["level"] != level:
        raise Trouble(f"{FEATURE} is {now}: {said[:300]}")
    down, said = tools.upgrade(level - 1, "downgrade")
    if down:
        raise Trouble(f"{FEATURE} went down: {said}")
    return f"{FEATURE} {level}"


def run(args, score, directory, on_end):
    bucket = Bucket.directory(directory / "bucket")
    more = {"tidemark.peer.secret": "rolling-secret"}
    brokers = [Broker(args.previous, node, bucket, directory, more) for node in (1, 2, 3)]
    on_end.extend(broker.end for broker in brokers)
    bootstrap = ",".join(broker.address for broker in brokers)
    tools = Tools(args, bootstrap)

    def start():
        for broker in brokers:
            broker.start()
        admin = AdminClient({"bootstrap.servers": bootstrap})  # it must live as long as its futures
        made = admin.create_topics([NewTopic(chaos.TOPIC, PARTITIONS)], request_timeout=30)
        made[chaos.TOPIC].result(30)

    if not score.check("three brokers of the previous version", start):
        return brokers
    load, follower = Load(bootstrap, PARTITIONS, RATE, 300_000), Follower(bootstrap, PARTITIONS)
    load.start()
    follower.start()
    for at, broker in enumerate(brokers):
        score.check(f"broker {broker.node} is rolled", lambda b=broker: roll(b, args.tidemark, load))
        if at == 1 and args.jars:
            score.check("the new level is refused while an old broker lives", lambda: refused(tools, args.level))
    if args.jars:
        score.check("the new level is finalized, and stays", lambda: finalized(tools, args.level))
    score.check("it flows on", lambda: flowing(load))
    for broker in reversed(brokers):
        score.check(f"broker {broker.node} starts again", lambda b=broker: roll(b, args.tidemark, load))
    score.check("the producer ends clean", load.finish)
    if load.failures:
        score.add("no record is given up", False, "; ".join(load.failures[:3]))
    follower.finish()
    score.check("every acked record once, in order, at its offset",
                lambda: compare(load, follower, read_all(bootstrap, PARTITIONS)[0]))
    return brokers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--previous", required=True, help="the older broker's binary")
    parser.add_argument("--tidemark", required=True, help="the newer broker's binary")
    parser.add_argument("--jars", help="where java/kafka-jars put Kafka's jars; without it no level is finalized")
    parser.add_argument("--level", type=int, default=2, help=f"the {FEATURE} that the newer one brings")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    return scored("rolling", lambda *given: run(args, *given), args.keep)


if __name__ == "__main__":
    sys.exit(main())
