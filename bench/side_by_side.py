#!/usr/bin/env python3
"""Tidemark beside Apache Kafka and the raw store, in one run on one machine, round about.

  side_by_side.py --tidemark BIN --bench BIN --java DIR [--rounds 3] [--seconds 15] [--warmup 20] [--s3] [--json FILE]

Every round starts each broker afresh, gives it the same load from the same generator, and measures the store by itself. What is
printed is the median of the rounds, their spread, and the ratio of the medians. Release builds and a quiet machine, else the
absolute figures mean nothing. --java is a folder that broker/tests/compat/java/kafka-jars has filled.
"""
import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "broker" / "tests" / "compat"))
from world import S3, ApacheKafka, Broker, Bucket, Trouble  # noqa: E402

LOADS = [
    # name, command, options; the rates are open loops that both can follow
    ("produce, full speed", "produce", ["--rate", "0"]),
    ("fetch what was produced", "fetch", ["--passes", "2"]),
    ("produce and read, 20 MiB/s", "mixed", ["--rate", "20M", "--topic", "paced"]),
    ("produce and read, 1 MiB/s of 16 KiB", "mixed", ["--rate", "1M", "--batch-size", "16K", "--topic", "slow"]),
]


class Figures:
    """Values by (load, row, column, who), over the rounds."""

    def __init__(self):
        self.values = {}

    def add(self, who, load, rows):
        for row in rows:
            kind = row.get("op") or row.get("what") or ""
            for column, value in row.items():
                if isinstance(value, (int, float)):
                    self.values.setdefault((load, kind, column), {}).setdefault(who, []).append(value)

    def table(self):
        lines = []
        for (load, kind, column), by in self.values.items():
            shown = [f"{who} {statistics.median(v):.4g} [{min(v):.4g}-{max(v):.4g}]" for who, v in by.items()]
            ours, peer = by.get("tidemark"), by.get("kafka")
            ratio = ""
            if ours and peer and statistics.median(peer):
                ratio = f"  ratio {statistics.median(ours) / statistics.median(peer):.3g}"
            lines.append(f"{load} | {kind} {column}: {'  '.join(shown)}{ratio}")
        return "\n".join(lines)


def bench(args, *words, env=None):
    first, *rest = map(str, words)
    command = [args.bench, first, "--json", *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def measure(args, figures, who, broker):
    began = time.monotonic()
    broker.start()
    figures.add(who, "start", [{"what": "process to first answer", "seconds": time.monotonic() - began}])
    try:
        # A JVM compiles what it runs often: nothing is counted before it has.
        warm = ["--rate", "0", "--topic", "warm", "--seconds", args.warmup]
        bench(args, "produce", "--bootstrap", broker.address, *warm)
        bench(args, "fetch", "--bootstrap", broker.address, "--topic", "warm", "--passes", 2)
        for load, command, options in LOADS:
            limit = [] if command == "fetch" else ["--seconds", args.seconds]
            words = [command, "--bootstrap", broker.address, "--pid", broker.child.pid, *limit, *options]
            figures.add(who, load, bench(args, *words))
            print(f"  {who}: {load}", flush=True)
    finally:
        broker.end()


def starts(args, figures, bucket, directory):
    """From the start of the process to an ack, each time after a kill -9."""
    broker = Broker(args.tidemark, 1, bucket, directory)
    words = ["start", "--bootstrap", broker.address, "--topic", "first", "--partitions", 1, "--", *broker.command()]
    figures.add("tidemark", "after kill -9", bench(args, *words))


def a_round(args, figures, work):
    where = Path(tempfile.mkdtemp(dir=work))
    store = S3(where / "s3") if args.s3 else None
    try:
        bucket = Bucket.s3(store.endpoint) if store else Bucket.directory(where / "bucket")
        raw = f"file://{where / 'raw'}"
        (where / "raw").mkdir(parents=True, exist_ok=True)
        if not store:
            words = ["--bucket", raw, "--sizes", "4M", "--concurrency", "1,4", "--seconds", args.seconds / 2]
            figures.add("raw store", "raw store", bench(args, "store", *words))
        measure(args, figures, "kafka", ApacheKafka(args.java, where))
        shutil.rmtree(where / "kafka", ignore_errors=True)
        measure(args, figures, "tidemark", Broker(args.tidemark, 1, bucket, where))
        starts(args, figures, Bucket.directory(where / "restart"), where / "again")
    finally:
        if store:
            store.end()
        shutil.rmtree(where, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True, help="the broker's binary")
    parser.add_argument("--bench", required=True, help="tidemark-bench")
    parser.add_argument("--java", required=True, help="folder with Kafka's jars")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--warmup", type=float, default=20, help="seconds of load before anything is counted")
    parser.add_argument("--s3", action="store_true", help="Tidemark on a real S3 server beside it instead of a directory")
    parser.add_argument("--work", help="where data goes; a temporary folder by default")
    parser.add_argument("--json", help="write all values here")
    args = parser.parse_args()
    figures = Figures()
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", flush=True)
        a_round(args, figures, args.work)
    print(figures.table())
    if args.json:
        flat = {" | ".join(key): by for key, by in figures.values.items()}
        Path(args.json).write_text(json.dumps(flat, indent=1))


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(str(trouble))
