"""What real clients did and saw, and whether a broker may behave so: the checker of real runs.

Every value is sent once, so it names its record. Kinds are named as the anomalies of Kafka are in Jepsen's work, and ours
beside them. Not judged here, because nothing of it is built yet: what only transactions and compaction can break.
"""
import threading
import time
from collections import defaultdict

TOLD = 10  # of one kind


class History:
    """Events, taken in by many threads. A value is (producer, partition, number)."""

    def __init__(self):
        self.lock = threading.Lock()
        self.found = defaultdict(list)
        self.at, self.where = {}, {}  # (partition, offset) → value, and back
        self.acked, self.unsure = {}, set()  # value → offset; values whose fate the client does not know
        self.acks_in_time = defaultdict(list)  # partition → (when, highest acked offset so far)
        self.positions, self.ends, self.commits = {}, {}, {}
        self.grouped = defaultdict(set)  # group → values its members were given
        self.created = set()

    def note(self, kind, what):
        if len(self.found[kind]) < TOLD:
            self.found[kind].append(what)

    def stands(self, partition, offset, value, how):
        before = self.at.setdefault((partition, offset), value)
        if before != value:
            self.note("inconsistent-offsets", f"{partition}/{offset}: {before}, then {value} ({how})")
        before = self.where.setdefault(value, offset)
        if before != offset:
            self.note("duplicate", f"{value} at {before} and at {offset} ({how})")

    def ack(self, value, offset):
        """The producer's own order of acks is the order of calls."""
        with self.lock:
            partition = value[1]
            if offset < 0:
                self.note("zero-offset", f"{value} was acknowledged at {offset}")
                return
            self.stands(partition, offset, value, "ack")
            self.acked[value] = offset
            highs = self.acks_in_time[partition]
            highs.append((time.monotonic(), max(offset, highs[-1][1] if highs else -1)))

    def lost_sight(self, value):
        """The client gave the record up: it may be stored, once, or not."""
        with self.lock:
            self.unsure.add(value)

    def read(self, reader, partition, offset, value):
        """A reader that was assigned the partition and nobody seeks: no offset is left out, none comes again."""
        with self.lock:
            before = self.positions.get((reader, partition))
            if before is not None and offset > before + 1:
                self.note("poll-skip", f"{reader} at {partition}/{offset} after {before}")
            if before is not None and offset <= before:
                self.note("nonmonotonic-poll", f"{reader} at {partition}/{offset} after {before}")
            self.positions[reader, partition] = offset
            self.stands(partition, offset, value, f"read by {reader}")

    def out_of_range(self, reader, partition, offset):
        with self.lock:
            seen = self.positions.get((reader, partition), -1)
            if offset <= seen + 1:
                self.note("spurious-out-of-range", f"{reader} at {partition}/{offset}, having read {seen}")

    def group_read(self, group, values):
        with self.lock:
            self.grouped[group].update(values)

    def end(self, asked, partition, end):
        """The end offset, asked at `asked`: above all that was acknowledged before."""
        with self.lock:
            known = -1
            for when, offset in self.acks_in_time[partition]:
                if when >= asked:
                    break
                known = offset
            if known >= end:
                self.note("end-offset-stale", f"partition {partition}: {end} after {known} was acknowledged")
            if end < self.ends.get(partition, 0):
                self.note("hw-regress", f"partition {partition}: {self.ends[partition]}, then {end}")
            self.ends[partition] = max(end, self.ends.get(partition, 0))

    def committed(self, group, partition, offset):
        """Asked one at a time for each group."""
        with self.lock:
            before = self.commits.get((group, partition), -1)
            if offset < before:
                kind = "group-offset-lost" if offset < 0 else "group-offset-regress"
                self.note(kind, f"{group} {partition}: {before}, then {offset}")
            self.commits[group, partition] = max(before, offset)

    def create(self, topic):
        with self.lock:
            self.created.add(topic)

    def finish(self, stored, again, topics):
        """The quiet reads at the end, {partition: [(offset, value)]} each, the second from a cold start."""
        seen = set()
        for partition, records in stored.items():
            newest = {}
            for expected, (offset, value) in enumerate(records):
                if offset != expected:
                    self.note("poll-skip", f"{partition}/{offset} stands where {expected} should")
                    break
            for offset, value in records:
                self.stands(partition, offset, value, "last read")
                if value in seen:
                    self.note("duplicate", f"{value} twice in the last read")
                seen.add(value)
                producer, _, number = value
                if number <= newest.get(producer, -1):
                    self.note("nonmonotonic-send", f"{partition}/{offset}: {value} after {newest[producer]}")
                newest[producer] = number
            if records != again.get(partition):
                self.note("cold-start-equal", f"partition {partition} reads otherwise after a cold start")
        for value, offset in self.acked.items():
            if value not in seen:
                self.note("lost-write", f"{value}, acknowledged at {offset}, is not in the log")
        for value in seen - self.acked.keys() - self.unsure:
            self.note("phantom", f"{value} was neither acknowledged nor given up")
        for group, values in self.grouped.items():
            for value in [v for v in self.acked if v not in values][:TOLD]:
                self.note("unseen", f"{group} never got {value}")
        for topic in self.created - topics:
            self.note("metadata-lost", f"topic {topic}, whose creation was acknowledged, is not there")
        return {kind: what for kind, what in self.found.items() if what}
