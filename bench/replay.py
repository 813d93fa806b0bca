#!/usr/bin/env python3
"""Replay of cold data from a real S3 server: what share of the store's bandwidth readers get, what it costs in requests and CPU,
and what it does to producers meanwhile.

  replay.py --tidemark BIN --bench BIN [--mib 2048] [--partitions 6] [--readers 1,8] [--keep DIR]

The log is written, cut into runs and left; before every reading the broker starts again with an empty disk. The store is then
capped at half of what raw reads of 8 MiB got from it in this run; the cap is the bench's own proxy. Release builds and a quiet
machine, else the absolute figures mean nothing; the ratios are of one run.
"""
import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "broker" / "tests" / "compat"))
from side_by_side import bench  # noqa: E402
from world import S3, S3_BUCKET, S3_KEY, S3_REGION, S3_SECRET, Broker, Bucket, Proxy, Trouble, metrics, total  # noqa: E402

MIB = 1 << 20
ENV = {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}


def gets(broker):
    """Requests for records, and their bytes."""
    found = metrics(broker)
    kinds = ("parcel", "run", "segment")
    return [sum(total(found, f"tidemark_bucket_{what}_total", 'verb="get"', f'kind="{kind}"') for kind in kinds)
            for what in ("requests", "bytes")]


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def fetch(args, broker, topic, connections=1):
    words = ["fetch", "--bootstrap", broker.address, "--topic", topic, "--partitions", 0, "--seconds", 600]
    return bench(args, *words, "--connections", connections)


def read(args, broker, topic, size, readers):
    """Everything, by so many consumers at once. Seconds, GETs, bytes of them, CPU seconds."""
    before, used, began = gets(broker), cpu_seconds(broker.child.pid), time.monotonic()
    with ThreadPoolExecutor(readers) as pool:
        for rows in pool.map(lambda _: fetch(args, broker, topic), range(readers)):
            got = rows[0]["MiB"] * MIB
            if got < size * 0.99:
                raise Trouble(f"a reader got {got} of {size} bytes: {rows}")
    seconds, after = time.monotonic() - began, gets(broker)
    return seconds, after[0] - before[0], after[1] - before[1], cpu_seconds(broker.child.pid) - used


def cold(broker):
    """The same broker with an empty disk."""
    broker.stop()
    broker.kill(wipe=True)
    broker.start()


def raw(args, endpoint):
    """MiB/s of raw reads of 8 MiB, eight at a time."""
    url = ["--bucket", f"s3://{S3_BUCKET}/raw", "--endpoint", endpoint, "--region", S3_REGION]
    words = ["store", *url, "--sizes", "8M", "--concurrency", 8, "--seconds", 8]
    rows = bench(args, *words, env=ENV)
    return max(row["MiB/s"] for row in rows if row["op"] == "get")


def run(args, directory):
    s3 = S3(directory / "s3")
    proxy = Proxy(args.bench, s3.endpoint, directory, 1)
    broker = None
    try:
        rate = args.raw or raw(args, proxy.endpoint)
        cap = rate / 2
        print(f"raw reads of 8 MiB through the proxy: {rate:.0f} MiB/s; the cap is {cap:.0f} MiB/s", flush=True)
        more = {"tidemark.cut.ms": 2000, "tidemark.cache.disk.bytes": args.mib * 2 * MIB,
                "tidemark.hot.disk.bytes": 1 << 30, "num.partitions": args.partitions}
        broker = Broker(args.tidemark, 1, Bucket.s3(proxy.endpoint), directory, more)
        broker.start()
        size = args.mib * MIB
        words = ["produce", "--bootstrap", broker.address, "--topic", "cold", "--partitions", args.partitions]
        bench(args, *words, "--bytes", size, "--seconds", 600, "--warmup", 0)
        time.sleep(8)
        found = metrics(broker)
        puts = total(found, "tidemark_bucket_requests_total", 'verb="put"')
        print(f"{args.mib} MiB written with {puts / args.mib * 1024:.0f} PUTs per GiB", flush=True)
        for readers in args.readers:
            cold(broker)
            proxy.faults(down_rate=int(cap * MIB))
            seconds, requests, moved, _ = read(args, broker, "cold", size, readers)
            share = args.mib / seconds / cap
            print(f"{readers} readers, capped: {args.mib / seconds:.0f} MiB/s of the log, {share:.1%} of the cap; "
                  f"{requests:.0f} GETs ({moved / max(requests, 1) / MIB:.1f} MiB each), {moved / size:.2f} bytes read per byte",
                  flush=True)
            seconds, requests, moved, _ = read(args, broker, "cold", size, 1)
            print(f"  a group later over the same range: {args.mib / seconds:.0f} MiB/s, {requests:.0f} GETs", flush=True)
            proxy.faults()
        cold(broker)
        seconds, requests, moved, used = read(args, broker, "cold", size, 1)
        print(f"uncapped: {args.mib / seconds:.0f} MiB/s, {args.mib / seconds / rate:.1%} of raw; "
              f"{used / args.mib * 1024:.2f} CPU seconds per GiB", flush=True)
        beside(args, broker, proxy, cap, size)
    finally:
        for part in (broker, proxy, s3):
            if part:
                part.end()


def beside(args, broker, proxy, cap, size):
    """Producers at 5 MiB/s with and without a cold replay beside them."""
    words = ["produce", "--bootstrap", broker.address, "--topic", "hot", "--partitions", args.partitions, "--rate", "5M",
             "--batch-size", "16K", "--seconds", 20]
    alone = bench(args, *words)[0]
    cold(broker)
    proxy.faults(down_rate=int(cap * MIB))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(fetch, args, broker, "cold")
        along = bench(args, *words)[0]
        still = not reading.done()
        reading.result()
    proxy.faults()
    told = ", ".join(f"{name} {alone[name]:.1f} ms alone, {along[name]:.1f} ms beside it" for name in ("p50 ms", "p99 ms"))
    print(f"produce beside a replay{'' if still else ' (which ended first)'}: {told}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidemark", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--readers", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    parser.add_argument("--raw", type=float, help="MiB/s that the store reads at, measured before")
    parser.add_argument("--keep", help="work in this folder and leave it")
    args = parser.parse_args()
    try:
        if args.keep:
            run(args, Path(args.keep))
        else:
            with tempfile.TemporaryDirectory() as directory:
                run(args, Path(directory))
    except Trouble as trouble:
        sys.exit(f"replay: {trouble}")


if __name__ == "__main__":
    main()
