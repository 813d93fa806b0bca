#!/usr/bin/env python3
"""Every client against one broker, and a table of what works: client × check, and Kafka's own tools.

  matrix.py --tidemark target/debug/tidemark [--bucket s3]     ours, fresh
  matrix.py --against kafka                                    Apache Kafka itself: a check that fails there is wrong
  matrix.py --tidemark … --clients java,tools --fast           a part of it, in about a minute

In the table: ok · FAIL (the reasons follow) · - the client has no means for it · differs: ours answers otherwise on purpose
· absent: the client cannot be had here. The exit code is 0 only if nothing failed.
"""
import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import tools
from checks import AFTER, BEFORE, DIFFERS, FAST, Skipped, Subject
from client import Client
from roster import ROSTER, Absent, command_of
from world import HERE, S3, ApacheKafka, Broker, Bucket, Score, Trouble

# A member that dies is noticed soon, and a first member does not wait for others.
SETTINGS = {"group.initial.rebalance.delay.ms": 0, "group.min.session.timeout.ms": 1000}
FAST_CLIENTS = ["java", "confluent", "franz-go", "tools"]


class Table:
    """What became of every check of every client."""

    def __init__(self, differs):
        self.differs = differs
        self.score, self.cells, self.rows, self.columns, self.notes, self.reasons = Score(), {}, [], [], {}, []

    def check(self, column, row, run):
        """Runs a check and books it; False if it failed."""
        if row not in self.rows:
            self.rows.append(row)
        verdict, began = [], time.monotonic()

        def judged():
            try:
                note = run()
                verdict.append("ok")
            except Skipped:
                verdict.append("-")
                return None
            return note

        try:
            note = judged()
        except Trouble as trouble:
            note = str(trouble)
        except Exception as error:  # a check that is wrong is a failure too
            note = repr(error)
        cell = verdict[0] if verdict else "differs" if row in self.differs else "FAIL"
        self.cells[row, column] = cell
        if cell == "FAIL":
            self.reasons.append(f"{column}: {row}: {note}")
        if cell != "-":
            self.score.add(f"{column}: {row}", cell != "FAIL", note or "", time.monotonic() - began)
        return cell != "FAIL"

    def absent(self, column, why):
        self.notes[column] = f"absent: {why}"
        print(f"absent {column}: {why}", flush=True)

    def show(self):
        """The table, in Markdown, then the reasons of what failed and the totals."""
        print()
        for column, note in self.notes.items():
            print(f"- {column}: {note}")
        for row, why in self.differs.items():
            print(f"- differs: {row}: {why}")
        shown = [c for c in self.columns if not self.notes.get(c, "").startswith("absent")]
        for columns in (shown, ["tools"], ["broker"]):
            rows = [row for row in self.rows if any((row, column) in self.cells for column in columns)]
            if rows:
                width = max(len(row) for row in rows)
                print(f"\n| {'':{width}} | {' | '.join(columns)} |\n|{'-' * (width + 2)}|{'|'.join('---' for _ in columns)}|")
            for row in rows:
                cells = [f"{self.cells.get((row, column), ''):<{len(column)}}" for column in columns]
                print(f"| {row:<{width}} | {' | '.join(cells)} |")
        print("\n" + "\n".join(f"FAIL {reason}" for reason in self.reasons))
        return self.score.close()


def run_matrix(table, names, broker, built, logs, args):
    def wanted(row, quick):
        return (quick or not args.fast) and re.search(args.checks, row)

    run_id = f"{int(time.time()):x}"
    subjects = []
    for name in (name for name in names if name != "tools"):
        table.columns.append(name)
        try:
            client = Client(name, command_of(name, built, broker.address), logs)
        except Absent as absent:
            table.absent(name, absent)
            continue
        except Trouble as trouble:
            table.check(name, "start the client", lambda t=trouble: fail(t))
            continue
        table.notes[name] = client.hello["version"]
        subject = Subject(client, run_id)
        subjects.append(subject)
        for row, check in BEFORE:
            if row == BEFORE[0][0] or wanted(row, row in FAST):
                table.check(name, row, lambda c=check, s=subject: c(s))
    kafka_tools = tools.Tools(broker.address, built, run_id) if "tools" in names else None
    if kafka_tools:
        for row, check, quick in tools.BEFORE:
            if wanted(row, quick):
                table.check("tools", row, lambda c=check: c(kafka_tools))
    table.check("broker", "restart", lambda: restart(broker))
    for subject in subjects:
        for row, check in AFTER if wanted(AFTER[0][0], True) else []:
            table.check(subject.client.name, row, lambda c=check, s=subject: c(s))
        subject.client.end()
    if kafka_tools:
        for row, check, quick in tools.AFTER:
            if wanted(row, quick):
                table.check("tools", row, lambda c=check: c(kafka_tools))


def fail(trouble):
    raise trouble


def restart(broker):
    broker.stop()
    broker.start()


def against(args, table, names, directory):
    """Starts the broker in question and runs everything against it."""
    store = broker = None
    try:
        if args.against == "kafka":
            command_of("java", args.built, "")
            broker = ApacheKafka(args.built / "java", directory, SETTINGS)
        else:
            if args.bucket == "dir":
                bucket = Bucket.directory(Path(directory) / "bucket")
            else:
                store = S3(Path(directory) / "s3")
                bucket = Bucket.s3(store.endpoint, f"matrix-{int(time.time()):x}")
            broker = Broker(args.tidemark, 1, bucket, directory, SETTINGS)
        if table.check("broker", "start", broker.start):
            run_matrix(table, names, broker, args.built, directory, args)
            table.check("broker", "end in good order", broker.stop)
    finally:
        if broker:
            broker.end()
        if store:
            store.end()
        if table.score.failed and broker and broker.child:
            print(f"--- the end of the broker's log\n{broker.child.tail(30)}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    parser.add_argument("--against", choices=["tidemark", "kafka"], default="tidemark")
    parser.add_argument("--tidemark", default=target / "debug" / "tidemark", help="the broker's binary")
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--clients", help=f"some of {','.join(ROSTER)},tools; by default all")
    parser.add_argument("--fast", action="store_true", help=f"few checks, by default of {','.join(FAST_CLIENTS)}")
    parser.add_argument("--checks", default="", help="only the rows this regular expression is found in")
    parser.add_argument("--built", type=Path, default=target / "compat", help="where built clients are kept")
    args = parser.parse_args()
    args.built = args.built.absolute()
    args.built.mkdir(parents=True, exist_ok=True)
    names = args.clients.split(",") if args.clients else FAST_CLIENTS if args.fast else [*ROSTER, "tools"]
    if unknown := set(names) - {*ROSTER, "tools"}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    table = Table(DIFFERS if args.against == "tidemark" else {})
    with tempfile.TemporaryDirectory(prefix="tidemark-matrix-") as directory:
        against(args, table, names, directory)
    return table.show()


if __name__ == "__main__":
    sys.exit(main())
