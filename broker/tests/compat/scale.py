#!/usr/bin/env python3
"""Many groups and many partitions on one broker: how long it takes, what CPU and memory the broker takes for it. Raw frames,
so that no client library is measured; the asking side shares the machine, so compare two runs, not a run with a promise.

  scale.py --tidemark target/release/tidemark        ours, on a directory
  scale.py --against kafka                           Apache Kafka itself
  scale.py … --groups 1000 --members 10 --partitions 10000
"""
import argparse
import asyncio
import os
import re
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

from roster import java
from wire import Schemas, batch
from world import HERE, ApacheKafka, Broker, Bucket, Trouble

SETTINGS = {"num.partitions": 1}
PATIENCE_S = 300
VERSIONS = {
    "ApiVersions": 2, "JoinGroup": 3, "SyncGroup": 2, "Heartbeat": 2, "OffsetCommit": 6, "LeaveGroup": 2, "ListGroups": 2,
    "DescribeGroups": 2, "CreateTopics": 4, "DeleteTopics": 3, "Metadata": 8, "Produce": 8, "ListOffsets": 5, "Fetch": 11,
    "DescribeLogDirs": 1, "CreatePartitions": 1,
}
TICKS = os.sysconf("SC_CLK_TCK")
RECORD = batch([(b"k", b"v" * 100)])


class Vitals:
    """CPU seconds and memory of a process."""

    def __init__(self, pid):
        self.pid = pid

    def cpu(self):
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def rss_mib(self):
        (kib,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(kib) / 1024


class Asker:
    """One connection: a request at a time."""

    def __init__(self, schemas, address):
        self.schemas, self.address = schemas, address
        self.streams = None

    async def ask(self, api, body):
        if self.streams is None:
            host, _, port = self.address.rpartition(":")
            self.streams = await asyncio.open_connection(host, int(port), limit=1 << 24)
        reader, writer = self.streams
        frame = self.schemas.encode_request(api, VERSIONS[api], body)
        writer.write(struct.pack(">i", len(frame)) + frame)
        size = struct.unpack(">i", await reader.readexactly(4))[0]
        return self.schemas.decode_response(api, VERSIONS[api], await reader.readexactly(size))

    def close(self):
        if self.streams:
            self.streams[1].close()


class Member(Asker):
    """A member of a group, as far as its group's life goes."""

    def __init__(self, schemas, address, group):
        super().__init__(schemas, address)
        self.group, self.id, self.generation = group, "", -1

    def me(self):
        return {"groupId": self.group, "generationId": self.generation, "memberId": self.id}

    async def join(self):
        """Joins until the group is one; what it is assigned does not matter."""
        while True:
            joined = await self.ask("JoinGroup", {
                "groupId": self.group, "sessionTimeoutMs": 300_000, "rebalanceTimeoutMs": 60_000, "memberId": self.id,
                "protocolType": "consumer", "protocols": [{"name": "range", "metadata": b"\0\0\0\0\0\1\0\5scale\0\0\0\0"}],
            })
            if joined["errorCode"] in (14, 15, 16):
                await asyncio.sleep(0.2)
                continue
            good(joined["errorCode"], "JoinGroup")
            self.id, self.generation = joined["memberId"], joined["generationId"]
            rows = [{"memberId": one["memberId"], "assignment": b"\0\0\0\0\0\0\0\0\0\0"} for one in joined["members"]]
            synced = await self.ask("SyncGroup", {**self.me(), "assignments": rows})
            if synced["errorCode"] == 27:
                continue
            good(synced["errorCode"], "SyncGroup")
            return

    async def beat(self):
        """A heartbeat; joins again where the group says so."""
        began = time.monotonic()
        code = (await self.ask("Heartbeat", self.me()))["errorCode"]
        took = time.monotonic() - began
        if code == 27:
            await self.join()
        else:
            good(code, "Heartbeat")
        return took

    async def commit(self):
        part = {"partitionIndex": 0, "committedOffset": 1, "committedMetadata": ""}
        body = {"groupId": self.group, "generationIdOrMemberEpoch": self.generation, "memberId": self.id,
                "topics": [{"name": "scale", "partitions": [part]}]}
        good((await self.ask("OffsetCommit", body))["topics"][0]["partitions"][0]["errorCode"], "OffsetCommit")

    async def leave(self):
        good((await self.ask("LeaveGroup", {"groupId": self.group, "memberId": self.id}))["errorCode"], "LeaveGroup")
        self.id, self.generation = "", -1


def good(code, what):
    if code:
        raise Trouble(f"{what} was answered with code {code}")


class Run:
    """Phases, each with its time and what the broker took for it."""

    def __init__(self, broker, schemas):
        self.broker, self.schemas, self.vitals = broker, schemas, Vitals(broker.child.pid)
        print(f"| phase | s | broker CPU-s | RSS MiB | |\n|---|---|---|---|---|\n| started | | | {self.vitals.rss_mib():.0f} | |",
              flush=True)

    async def phase(self, name, work):
        began, cpu = time.monotonic(), self.vitals.cpu()
        note = await asyncio.wait_for(work, PATIENCE_S)
        took, cpu = time.monotonic() - began, self.vitals.cpu() - cpu
        print(f"| {name} | {took:.2f} | {cpu:.2f} | {self.vitals.rss_mib():.0f} | {note or ''} |", flush=True)

    async def groups(self, groups, each):
        admin = Asker(self.schemas, self.broker.address)
        await create(admin, "scale", 1)
        members = [Member(self.schemas, self.broker.address, f"g-{n // each}") for n in range(groups * each)]
        await self.coordinator(admin)

        async def all_of(work, some=members):
            times = sorted(t for t in await asyncio.gather(*(work(m) for m in some)) if t is not None)
            return f"p50 {times[len(times) // 2] * 1e3:.0f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.0f} ms" if times else ""

        async def connect():
            for some in range(0, len(members), 200):
                await asyncio.gather(*(m.ask("ApiVersions", {}) for m in members[some:some + 200]))

        async def describe():
            listed = await admin.ask("ListGroups", {})
            names = [g["groupId"] for g in listed["groups"] if g["groupId"].startswith("g-")]
            told = await admin.ask("DescribeGroups", {"groups": names})
            states = [(g["groupState"], len(g["members"])) for g in told["groups"]]
            if states != [("Stable", each)] * groups:
                raise Trouble(f"of {groups} groups {states.count(('Stable', each))} are stable and whole")

        async def shuffle():
            firsts = members[::each]
            await all_of(Member.leave, firsts)
            others = [m for n, m in enumerate(members) if n % each]
            await asyncio.gather(all_of(Member.join, firsts), all_of(Member.beat, others))

        await self.phase(f"{len(members)} connections", connect())
        await self.phase(f"{groups} groups of {each} join and sync", all_of(Member.join))
        for _ in range(2):
            await self.phase("a heartbeat of every member", all_of(Member.beat))
        await self.phase("a commit of every member", all_of(Member.commit))
        await self.phase("all groups listed and described", describe())
        await self.phase("one of each group leaves and joins again", shuffle())
        await self.phase("a heartbeat of every member", all_of(Member.beat))
        await self.phase("idle for 10 s", asyncio.sleep(10))
        await self.phase("every member leaves", all_of(Member.leave))
        for member in members:
            member.close()
        admin.close()

    async def coordinator(self, admin):
        """Until the topic of groups is there and its coordinators have read it."""
        while True:
            try:
                probe = Member(self.schemas, self.broker.address, "probe")
                for _ in range(2):
                    code = (await admin.ask("Heartbeat", probe.me()))["errorCode"]
                if code not in (14, 15, 16):
                    return
                lookup = self.schemas.encode_request("FindCoordinator", 2, {"key": "probe", "keyType": 0})
                _, writer = await asyncio.open_connection(*self.broker.address.split(":"))
                writer.write(struct.pack(">i", len(lookup)) + lookup)
                await asyncio.sleep(0.5)
                writer.close()
            except OSError:
                await asyncio.sleep(0.5)

    async def partitions(self, count):
        asker, every = Asker(self.schemas, self.broker.address), range(count)

        async def made():
            # In two steps: Apache Kafka makes fewer than 10,000 at once.
            await create(asker, "wide", max(count // 2, 1))
            body = {"topics": [{"name": "wide", "count": count, "assignments": None}], "timeoutMs": 120_000}
            good((await asker.ask("CreatePartitions", body))["results"][0]["errorCode"], "CreatePartitions")
            while True:
                (topic,) = (await metadata())["topics"]
                if len(topic["partitions"]) == count and all(p["leaderId"] >= 0 for p in topic["partitions"]):
                    return
                await asyncio.sleep(0.1)

        async def metadata(times=1):
            for _ in range(times):
                answer = await asker.ask("Metadata", {"topics": [{"name": "wide"}], "allowAutoTopicCreation": False})
            return answer

        async def quiet(work):
            await work

        async def produce(step=1000):
            for low in range(0, count, step):
                left = every[low:low + step]
                while left:
                    rows = [{"index": n, "records": RECORD} for n in left]
                    body = {"acks": -1, "timeoutMs": 60_000, "topicData": [{"name": "wide", "partitionData": rows}]}
                    answer = (await asker.ask("Produce", body))["responses"][0]["partitionResponses"]
                    left = [row["index"] for row in answer if row["errorCode"] in (3, 6)]  # led in a moment
                    for row in answer:
                        good(row["errorCode"] if row["index"] not in left else 0, "Produce")
                    await asyncio.sleep(0.5 if left else 0)

        async def ends():
            rows = [{"partitionIndex": n, "currentLeaderEpoch": -1, "timestamp": -1} for n in every]
            body = {"replicaId": -1, "isolationLevel": 0, "topics": [{"name": "wide", "partitions": rows}]}
            for row in (await asker.ask("ListOffsets", body))["topics"][0]["partitions"]:
                good(row["errorCode"], "ListOffsets")

        session = {"id": 0, "epoch": 0}

        async def fetch(rows, wait=0):
            topics = [{"topic": "wide", "partitions": rows}] if rows else []
            answer = await asker.ask("Fetch", {
                "replicaId": -1, "maxWaitMs": wait, "minBytes": 1, "maxBytes": 1 << 26, "isolationLevel": 0,
                "sessionId": session["id"], "sessionEpoch": session["epoch"], "topics": topics, "forgottenTopicsData": [],
            })
            good(answer["errorCode"], "Fetch")
            session.update(id=answer["sessionId"], epoch=session["epoch"] + 1)
            return sum(len(p["records"] or b"") for t in answer["responses"] for p in t["partitions"])

        def want(n, offset):
            return {"partition": n, "currentLeaderEpoch": -1, "fetchOffset": offset, "logStartOffset": -1, "partitionMaxBytes": 1 << 20}

        async def first():
            read = await fetch([want(n, 0) for n in every])
            return f"{read} bytes"

        async def on(times=20):
            await fetch([want(n, 2) for n in every])
            for _ in range(times):
                await fetch([])

        async def directories():
            answer = await asker.ask("DescribeLogDirs", {"topics": [{"topic": "wide", "partitions": list(every)}]})
            found = sum(len(t["partitions"]) for d in answer["results"] for t in d["topics"])
            if found != count:
                raise Trouble(f"{found} of {count} partitions are told")

        async def delete():
            answer = await asker.ask("DeleteTopics", {"topicNames": ["wide"], "timeoutMs": 60_000})
            good(answer["responses"][0]["errorCode"], "DeleteTopics")

        await self.phase(f"a topic of {count} partitions is made and led", made())
        await self.phase("its metadata, 10 times", quiet(metadata(10)))
        for _ in range(2):
            await self.phase("a record to each, 1000 to a request", produce())
        await self.phase("the end of each, in one request", ends())
        await self.phase("all of them fetched, in one request", first())
        await self.phase("20 fetches of all of them, nothing new", on())
        await self.phase("their sizes", directories())
        await self.phase("the topic deleted", delete())
        asker.close()


async def create(asker, name, partitions):
    body = {"topics": [{"name": name, "numPartitions": partitions, "replicationFactor": 1}], "timeoutMs": 120_000}
    good((await asker.ask("CreateTopics", body))["topics"][0]["errorCode"], "CreateTopics")


async def everything(broker, schemas, args):
    run = Run(broker, schemas)
    if args.groups:
        await run.groups(args.groups, args.members)
    if args.partitions:
        await run.partitions(args.partitions)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    parser.add_argument("--against", choices=["tidemark", "kafka"], default="tidemark")
    parser.add_argument("--tidemark", default=target / "release" / "tidemark", help="the broker's binary")
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--built", type=Path, default=target / "compat", help="where Apache Kafka's jars are kept")
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    java(args.built.absolute())
    schemas = Schemas(args.built.absolute() / "java" / "jars")
    with tempfile.TemporaryDirectory(prefix="tidemark-scale-") as directory:
        if args.against == "kafka":
            broker = ApacheKafka(args.built.absolute() / "java", directory, SETTINGS)
        else:
            broker = Broker(args.tidemark, 1, Bucket.directory(Path(directory) / "bucket"), directory, SETTINGS)
        try:
            broker.start()
            asyncio.run(everything(broker, schemas, args))
        except Trouble as trouble:
            print(f"FAILED {trouble}\n{broker.child.tail(10) if broker.child else ''}", file=sys.stderr)
            return 1
        finally:
            broker.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
