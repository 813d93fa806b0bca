#!/usr/bin/env python3
"""What Kafka's own tools and `tidemark cluster` say of three brokers, before one of them is killed, after it, and when it
is back: under-replicated and unavailable partitions, the quorum, features, a drain, a cancelled reassignment.

  views.py --tidemark target/debug/tidemark --jars DIR      DIR as java/kafka-jars makes it
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from tools import Tools as KafkaTools
from world import Broker, Bucket, Trouble, scored, wait_for

PATIENCE_S = 30


class Views:
    def __init__(self, args, directory):
        bucket = Bucket.directory(directory / "bucket")
        more = {"tidemark.peer.secret": "views-secret", "auto.leader.rebalance.enable": "false"}
        self.brokers = [Broker(args.tidemark, node, bucket, directory, more) for node in (1, 2, 3)]
        self.binary, self.directory = args.tidemark, directory
        self.tools = KafkaTools(",".join(broker.address for broker in self.brokers), Path(args.jars).parent, "views")
        self.tools.jars = Path(args.jars)

    def says(self, *words, code=0):
        command = [self.binary, "cluster", *words, "--bootstrap", self.tools.bootstrap]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if done.returncode != code:
            raise Trouble(f"{' '.join(words)} ended with {done.returncode}, not {code}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def json(self, *words):
        return json.loads(self.says(*words, "--json"))

    def living(self):
        return sorted(row["node"] for row in self.json("lanes")["brokers"] if row["alive"])

    def start(self):
        for broker in self.brokers:
            broker.start()
        # Chosen by the cluster, and by somebody.
        self.tools.call("kafka-topics", "--create", "--topic", "chosen", "--partitions", "6", "--replication-factor", "3")
        self.tools.call("kafka-topics", "--create", "--topic", "given", "--replica-assignment", "2:1:3,1:3:2,3:2:1")

    def listed(self, which):
        """(topic, partition) of what `kafka-topics --describe` lists so."""
        said = self.tools.call("kafka-topics", "--describe", which)
        return sorted(re.findall(r"Topic: (\S+)\s+Partition: (\d+)", said))

    def expect_listed(self, which, want):
        found = self.listed(which)
        if found != want:
            raise Trouble(f"{which}: {found}, not {want}")

    def all_well(self):
        for which in ("--under-replicated-partitions", "--unavailable-partitions"):
            self.expect_listed(which, [])

    def kill(self, node):
        self.brokers[node - 1].kill()
        others = [n for n in (1, 2, 3) if n != node]

        def taken_over():
            try:
                return self.living() == others
            except Trouble:
                return False  # the controller may be gone just now

        wait_for("the takeover", taken_over, PATIENCE_S)

    def after_a_kill(self):
        """Only what names the dead broker by somebody's word lacks a replica: the rest has as many as live."""
        self.expect_listed("--under-replicated-partitions", [("given", str(n)) for n in range(3)])
        self.expect_listed("--unavailable-partitions", [])
        self.expect_listed("--under-min-isr-partitions", [])

    def quorum(self, living):
        status = self.tools.call("kafka-metadata-quorum", "describe", "--status")
        leader = int(re.search(r"LeaderId:\s+(\d+)", status)[1])
        rows = self.tools.call("kafka-metadata-quorum", "describe", "--replication")
        nodes = sorted(int(node) for node in re.findall(r"^(\d+)\s", rows, re.MULTILINE))
        lags = re.findall(r"^\d+\s+\S+\s+\d+\s+(\d+)\s", rows, re.MULTILINE)
        if leader not in living or nodes != living or set(lags) - {"0"}:
            raise Trouble(f"leader {leader}, nodes {nodes}, lags {lags}, but {living} live: {rows}")
        return f"leader {leader}, nodes {nodes}"

    def lanes(self, dead):
        all_ = self.json("lanes")
        open_ = sorted(row["node"] for row in all_["lanes"] if row["sealed"] is None)
        if open_ != self.living() or all_["controller"]["node"] not in open_:
            raise Trouble(f"open lanes of {open_}: {all_}")
        if dead and any(row["alive"] for row in all_["brokers"] if row["node"] == dead):
            raise Trouble(f"broker {dead} lives: {all_}")
        chains = self.json("chains", "given")
        ends = [row["chain"][-1]["to"] for row in chains["partitions"]]
        if ends != [None] * 3:
            raise Trouble(f"a chain's last lane is open: {chains}")
        self.says("chains", "none", code=1)

    def drain(self):
        self.says("drain", "9", code=2)
        said = self.says("drain", "1")
        self.tools.call("kafka-topics", "--create", "--topic", "later", "--partitions", "6")
        leads = {row["id"]: row["leads"] for row in self.json("describe")["brokers"]}
        if leads[1] != 0:
            raise Trouble(f"broker 1 leads {leads[1]} partitions: {said}")
        self.brokers[0].stop()
        self.brokers[0].start()
        row = next(row for row in self.json("lanes")["brokers"] if row["node"] == 1)
        if (row["drains"], row["leads"]) != (True, 0):
            raise Trouble(f"it drains still after it has started again: {row}")
        self.tools.expect("tidemark.drain=true", "kafka-configs", "--describe", "--entity-type", "brokers",
                          "--entity-name", "1")
        self.says("undrain", "1")
        self.tools.call("kafka-topics", "--create", "--topic", "last", "--partitions", "12")
        row = next(row for row in self.json("lanes")["brokers"] if row["node"] == 1)
        if row["drains"] or not row["leads"]:
            raise Trouble(f"it leads again: {row}")

    def features(self):
        self.tools.expect(r"Feature: tidemark.version\s+SupportedMinVersion: 1\s+SupportedMaxVersion: 2\s+FinalizedVersionLevel: 2",
                          "kafka-features", "describe")
        self.tools.call("kafka-features", "downgrade", "--feature", "tidemark.version=1", fails=True)

    def cancel(self):
        """What cannot be read cannot be moved: the move stays under way until it is cancelled."""
        plan = self.tools.file("plan.json", {"version": 1, "partitions": [
            {"topic": "stuck", "partition": 0, "replicas": [3, 1]}]})
        self.tools.call("kafka-topics", "--create", "--topic", "stuck", "--replica-assignment", "1:2")
        subprocess.run([self.binary, "produce", "stuck", "--bootstrap", self.tools.bootstrap],
                       input="unmistakable\n", text=True, timeout=PATIENCE_S, check=True, capture_output=True)
        for parcel in (self.directory / "bucket" / "wal").glob("*/*"):
            held = parcel.read_bytes()
            if b"unmistakable" in held:
                parcel.chmod(0o644)
                parcel.write_bytes(held[:-16] + b"\xff" * 16)
        reassign = "kafka-reassign-partitions"
        self.tools.expect("Successfully started", reassign, "--execute", "--reassignment-json-file", plan)
        self.tools.expect(r"stuck-0: replicas: 3,1,2|stuck-0: .*adding: 3", reassign, "--list")
        self.tools.expect("Successfully cancelled", reassign, "--cancel", "--reassignment-json-file", plan)
        self.tools.expect("No partition reassignments found", reassign, "--list")
        self.tools.expect(r"Leader: 1\s+Replicas: 1,2\s+Isr: 1,2", "kafka-topics", "--describe", "--topic", "stuck")


def run(args, score, directory, on_end):
    views = Views(args, directory)
    on_end.extend(broker.end for broker in views.brokers)
    if not score.check("three brokers", views.start):
        return views.brokers
    score.check("nothing is under-replicated or unavailable", views.all_well)
    score.check("the quorum is the living brokers", lambda: views.quorum([1, 2, 3]))
    score.check("features are told, and a level does not go down", views.features)
    score.check("lanes and chains", lambda: views.lanes(None))
    if score.check("broker 2 is killed", lambda: views.kill(2)):
        score.check("what is under-replicated is told, and all is served", views.after_a_kill)
        score.check("the quorum has one less", lambda: views.quorum([1, 3]))
        score.check("lanes and chains without it", lambda: views.lanes(2))
    score.check("broker 2 is back", views.brokers[1].start)
    score.check("nothing is under-replicated any more", views.all_well)
    score.check("a broker is drained, starts again, and leads again when told", views.drain)
    score.check("a cancelled reassignment gives back what was assigned", views.cancel)
    return views.brokers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True, help="the broker's binary")
    parser.add_argument("--jars", required=True, help="where java/kafka-jars put Kafka's jars")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    args = parser.parse_args()
    return scored("views", lambda *given: run(args, *given), args.keep)


if __name__ == "__main__":
    sys.exit(main())
