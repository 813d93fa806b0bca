"""The checks of the client matrix. Each takes a `Subject`: a client at work against a broker. What a client has no means
for is not checked.
"""
import time
import zlib

from client import Refused, settle
from world import Trouble

PARTITIONS = 4
PER_BATCH = 40
AT = 1_700_000_000_000  # the time of a record, in the checks that seek by time


class Skipped(Exception):
    """The client has no means for this."""


def value_crc(key):
    index = int(key.rpartition("-")[2])
    return zlib.crc32((key + "|" + "x" * (index * 37 % 1000)).encode())


def need(good, sentence):
    if not good:
        raise Trouble(sentence)


class Subject:
    """A client, the topic and group it works on through all checks, and what was sent and read so far."""

    def __init__(self, client, run_id):
        self.client, self.run_id = client, run_id
        self.topic, self.group = self.name("main"), self.name("group")
        self.sent, self.acked, self.seen, self.made = set(), {}, {}, 0

    def name(self, what):
        return f"matrix-{what}-{self.client.name}-{self.run_id}".replace("@", "-")

    def ask(self, op, **arguments):
        if not self.client.can(op) or (arguments.get("configs") and op in self.client.hello.get("configless", [])):
            raise Skipped
        return self.client.ask(op, **arguments)

    def fresh(self, what, partitions=1, **more):
        self.made += 1
        topic = self.name(f"{what}-{self.made}")
        self.ask("create", topic=topic, partitions=partitions, **more)
        return topic

    def produce(self, topic, count, **more):
        return self.ask("produce", topic=topic, count=count, **more)["records"]

    def refuses(self, code, op, **arguments):
        """The request must fail with this code of Kafka's, or as the client says what it has no name for."""
        try:
            self.ask(op, **arguments)
        except Refused as refused:
            if refused.code == code or (refused.code is None and code in self.client.hello.get("nameless", [])):
                return
            raise Trouble(f"code {code} was expected, not: {refused}") from None
        raise Trouble(f"was taken; code {code} was expected")


# --- topics, producing, groups that commit and resume


def create(s):
    s.ask("create", topic=s.topic, partitions=PARTITIONS)


def send(s, prefix, **how):
    """Produces to the main topic and books what was acked."""
    records = s.produce(s.topic, PER_BATCH, prefix=prefix, **how)
    keys = {f"{prefix}-{i}" for i in range(PER_BATCH)}
    need({key for _, _, key, *_ in records} == keys, f"{len(records)} records were acked, {PER_BATCH} were sent")
    for partition, offset, key, crc, *_ in records:
        need(crc == value_crc(key), f"the value of {key} is not what was sent")
        if offset >= 0:
            need((partition, offset) not in s.acked, f"{partition}/{offset} was acked twice")
            s.acked[partition, offset] = key
    s.sent |= keys


def produce_with(compression):
    def check(s):
        if compression not in s.client.hello["compressions"]:
            raise Skipped
        for acks in s.client.hello["acks"]:
            send(s, f"{compression}-{acks}", compression=compression, acks=acks)

    return check


def produce_idempotent(s):
    if not s.client.hello.get("idempotent"):
        raise Skipped
    send(s, "idempotent", acks="all", idempotent=True)


def consume(s, count):
    """Reads exactly so many in the group and commits them."""
    records = s.ask("consume", topic=s.topic, group=s.group, count=count)["records"]
    need(len(records) == count, f"{len(records)} of {count} records were read")
    last = {}
    for partition, offset, key, crc, *_ in records:
        place = partition, offset
        need(crc == value_crc(key), f"the value of {key} at {partition}/{offset} is not what was sent")
        need(place not in s.seen, f"{partition}/{offset} was read again after it was committed")
        need(s.acked.get(place, key) == key, f"{key} was read at {partition}/{offset}, where {s.acked.get(place)} is")
        need(offset == last.get(partition, offset - 1) + 1, f"offset {offset} follows {last.get(partition)}")
        s.seen[place], last[partition] = key, offset


def consume_half(s):
    consume(s, len(s.sent) // 2)


def committed(s):
    offsets = s.ask("committed", topic=s.topic, group=s.group, partitions=PARTITIONS)["offsets"]
    wanted = [max((o + 1 for p, o in s.seen if p == at), default=-1) for at in range(PARTITIONS)]
    need(offsets == wanted, f"{wanted} was committed, {offsets} is what the group has")


def resume(s):
    need(s.sent, "nothing was sent before")
    consume(s, len(s.sent) - len(s.seen))
    need(set(s.seen.values()) == s.sent, "what was read is not what was sent")


def after_restart(s):
    send(s, f"again-{len(s.sent)}")
    resume(s)


# --- rebalances


def group_with(assignor):
    """Join, leave, live description, records to whom they belong."""

    def check(s):
        if assignor not in s.client.hello["assignors"]:
            raise Skipped
        topic = group = s.fresh(f"on-{assignor}", PARTITIONS)
        how = {"topic": topic, "group": group, "assignor": assignor}
        members = [s.client.member(**how)]
        try:
            settle(members, PARTITIONS)
            members.append(s.client.member(**how))
            settle(members, PARTITIONS)
            reach(s, topic, members, "two")
            if s.client.can("group"):
                found = s.ask("group", group=group)
                need((found["state"].lower(), found["members"]) == ("stable", 2), f"the group is described as {found}")
            if s.client.can("delete_group"):
                s.refuses(68, "delete_group", group=group)
            members.pop(0).leave()
            settle(members, PARTITIONS)
            reach(s, topic, members, "one")
        finally:
            for member in members:
                member.kill()

    return check


def again(check):
    """Tries the check as often as the client says that it needs, for a fault of its own."""

    def tried(s):
        for left in reversed(range(s.client.hello.get("tries", 1))):
            try:
                return check(s)
            except Trouble:
                if not left:
                    raise
        return None

    return tried


def reach(s, topic, members, prefix):
    """What is produced now is read by one of the members."""
    wanted = {key for _, _, key, *_ in s.produce(topic, 20, prefix=prefix)}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for member in members:
            member.take()
        if wanted <= {key for member in members for key in member.read}:
            return
        time.sleep(0.02)
    read = {key for member in members for key in member.read}
    raise Trouble(f"{len(wanted - read)} of 20 records reached no member: {sorted(wanted - read)[:3]}")


def kill_a_member(s):
    if not s.client.can("member"):
        raise Skipped
    topic = group = s.fresh("killed", PARTITIONS)
    members = [s.client.member(topic=topic, group=group) for _ in range(3)]
    try:
        settle(members, PARTITIONS)
        members.pop(1).kill()
        settle(members, PARTITIONS)
    finally:
        for member in members:
            member.kill()


def static_member(s):
    """A static member that dies and comes back in time has its partitions again, and the others never notice."""
    if not s.client.hello.get("static"):
        raise Skipped
    topic = group = s.fresh("static", PARTITIONS)
    how = {"topic": topic, "group": group, "session_ms": 20_000}
    members = [s.client.member(instance="a", **how), s.client.member(instance="b", **how)]
    try:
        settle(members, PARTITIONS)
        time.sleep(1)  # a member that came late in the first round has settled too
        for member in members:
            member.take()
        held, events = members[1].assigned, members[0].events
        members[1].kill()
        members[1] = s.client.member(instance="b", **how)
        settle(members, PARTITIONS)
        need(members[1].assigned == held, f"it held {held} before and {members[1].assigned} after")
        need(members[0].events == events, "the other member was rebalanced")
    finally:
        for member in members:
            member.kill()


# --- positions


def seek_by_time(s):
    topic = s.fresh("timed")
    s.produce(topic, 50, prefix="t", timestamp=AT, partition=0)
    found = [
        s.ask("offsets", topic=topic, partitions=1, at=at)["offsets"][0]
        for at in (AT - 1, AT + 25_500, AT + 49_000, AT + 49_001, "earliest", "latest")
    ]
    if found[3] == 50:
        found[3] = -1  # a client that says the end for "no such record"
    need(found == [0, 26, 49, -1, 0, 50], f"the offsets are {found}, not [0, 26, 49, -1, 0, 50]")
    read = s.ask("read", topic=topic, partition=0, offset=26, count=3)["records"]
    need([r[2] for r in read[:3]] == ["t-26", "t-27", "t-28"], f"from offset 26 on {read} was read")
    need([r[4] for r in read[:3]] == [AT + 26_000, AT + 27_000, AT + 28_000], f"the times read are {read}")


def pause(s):
    if not s.client.can("pause"):
        raise Skipped
    topic = s.fresh("paused", 2)
    for partition in range(2):
        s.produce(topic, 20, prefix=f"p{partition}", partition=partition)
    got = s.ask("pause", topic=topic, partition=0, others=[1], count=20)
    need(
        sorted((r[0], r[1]) for r in got["paused"]) == [(1, o) for o in range(20)],
        f"while partition 0 was paused, {[(r[0], r[1]) for r in got['paused']]} was read",
    )
    need(
        sorted((r[0], r[1]) for r in got["resumed"]) == [(0, o) for o in range(20)],
        f"when partition 0 was resumed, {[(r[0], r[1]) for r in got['resumed']]} was read",
    )


# --- administration


def delete_records(s):
    if not s.client.can("delete_records"):
        raise Skipped
    topic = s.fresh("cut")
    s.produce(topic, 20, prefix="c", partition=0)
    low = s.ask("delete_records", topic=topic, partition=0, before=7).get("low", 7)
    need(low == 7, f"the low watermark is {low}")
    first = s.ask("offsets", topic=topic, partitions=1, at="earliest")["offsets"][0]
    need(first == 7, f"the first offset is {first}")
    read = s.ask("read", topic=topic, partition=0, offset=7, count=13)["records"]
    need([r[1] for r in read] == list(range(7, 20)), f"{[r[1] for r in read]} was read")
    s.refuses(1, "delete_records", topic=topic, partition=0, before=1000)


def add_partitions(s):
    if not s.client.can("partitions"):
        raise Skipped
    topic = s.fresh("grown", 1)
    s.ask("partitions", topic=topic, count=3)
    deadline = time.monotonic() + 20
    while True:
        try:
            records = s.produce(topic, 1, prefix="g", partition=2)
            break
        except Trouble:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    need(records[0][0] == 2, f"the record went to {records}")
    s.refuses(37, "partitions", topic=topic, count=2)


def alter_configs(s):
    if not s.client.can("alter"):
        raise Skipped
    topic = s.fresh("set", configs={"cleanup.policy": "compact"})
    s.ask("alter", topic=topic, configs={"retention.ms": "12345678", "cleanup.policy": "compact"})
    wanted = {"retention.ms": "12345678", "cleanup.policy": "compact", "max.message.bytes": "1048588"}
    deadline = time.monotonic() + 5  # the broker asked may learn of it a moment later
    while True:
        found = s.ask("configs", topic=topic)["configs"]
        found = {name: found.get(name) for name in wanted}
        if found == wanted:
            return
        need(time.monotonic() < deadline, f"{found} is described, {wanted} was set")
        time.sleep(0.1)


def describe_cluster(s):
    found = s.ask("cluster")
    need(found["brokers"] and all(b >= 0 for b in found["brokers"]), f"the brokers are {found['brokers']}")
    if found.get("controller") is not None:
        need(found["controller"] in found["brokers"], f"the controller is {found['controller']}")
    need(s.topic in found["topics"], "the topic is not in the list")


def describe_topic(s):
    found = s.ask("topic", topic=s.topic)["partitions"]
    need(len(found) == PARTITIONS, f"{len(found)} partitions are described")
    for one in found:
        need(one["leader"] in one["replicas"] and one["leader"] in one["isr"], f"a partition is described as {one}")


def list_groups(s):
    need(s.group in s.ask("groups")["groups"], "the group is not in the list")


def describe_all(s):
    """Every describing call the client has; none may fail."""
    if not s.client.can("describe_all"):
        raise Skipped
    failed = {name: said for name, said in s.ask("describe_all", topic=s.topic, group=s.group).items() if said}
    need(not failed, "; ".join(f"{name}: {said}" for name, said in failed.items()))


def delete_group(s):
    if not s.client.can("delete_group"):
        raise Skipped
    s.ask("delete_group", group=s.group)
    if s.client.can("groups"):
        need(s.group not in s.ask("groups")["groups"], "the group is still in the list")


def delete_topic(s):
    topic = s.fresh("gone")
    s.ask("delete", topic=topic)
    deadline = time.monotonic() + 10
    while topic in s.ask("cluster")["topics"]:
        need(time.monotonic() < deadline, "the topic is still in the list after 10 s")
        time.sleep(0.1)


# --- bad input


def refused(code, op, on_main=True, **arguments):
    def check(s):
        s.refuses(code, op, **({"topic": s.topic} if on_main else {}), **arguments)

    return check


def too_large(s):
    topic = s.fresh("small", configs={"max.message.bytes": "2000"})
    s.refuses(10, "produce", topic=topic, count=1, size=5000)


def keyless_compacted(s):
    topic = s.fresh("compacted", configs={"cleanup.policy": "compact"})
    s.refuses(87, "produce", topic=topic, count=1, keyless=True)


def replicas(s):
    s.refuses(38, "create", topic=s.name("nine"), partitions=1, replication=9)


def no_partitions(s):
    s.refuses(37, "create", topic=s.name("none"), partitions=0)


def unknown_config(s):
    s.refuses(40, "create", topic=s.name("odd"), partitions=1, configs={"no.such.key": "1"})


def bad_config(s):
    s.refuses(40, "create", topic=s.name("bad"), partitions=1, configs={"retention.ms": "soon"})


def unknown_group(s):
    s.refuses(69, "delete_group", group=s.name("nobody"))


def long_metadata(s):
    s.refuses(12, "commit", topic=s.topic, group=s.name("talks"), partition=0, offset=1, metadata="m" * 5000)


COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]
ASSIGNORS = ["range", "roundrobin", "sticky", "cooperative-sticky"]

# What is answered otherwise than Apache Kafka does, on purpose. On Tidemark such a check may fail, and is shown as `differs`.
DIFFERS = {"error: nine replicas": "any replication factor is taken: the bucket replicates, brokers hold no copies"}

# Name and check, in order; the first set is the fast one's too.
FAST = {"create a topic", "produce none", "produce zstd", "produce idempotent", "consume half in a group, commit",
        "the group's offsets", "resume", "group: range", "seek by time", "error: topic exists", "error: too large",
        "describe the topic"}

BEFORE = [
    ("create a topic", create),
    *((f"produce {compression}", produce_with(compression)) for compression in COMPRESSIONS),
    ("produce idempotent", produce_idempotent),
    ("consume half in a group, commit", consume_half),
    ("the group's offsets", committed),
    ("resume", resume),
    *((f"group: {assignor}", again(group_with(assignor))) for assignor in ASSIGNORS),
    ("kill a member", again(kill_a_member)),
    ("static member", again(static_member)),
    ("seek by time", seek_by_time),
    ("pause, resume", pause),
    ("delete records", delete_records),
    ("add partitions", add_partitions),
    ("alter configs", alter_configs),
    ("describe the cluster", describe_cluster),
    ("describe the topic", describe_topic),
    ("list groups", list_groups),
    ("describe all", describe_all),
    ("delete a topic", delete_topic),
    ("error: topic exists", refused(36, "create", partitions=1)),
    ("error: bad topic name", refused(17, "create", on_main=False, topic="a/b", partitions=1)),
    ("error: nine replicas", replicas),
    ("error: no partitions", no_partitions),
    ("error: unknown config", unknown_config),
    ("error: bad config value", bad_config),
    ("error: delete unknown topic", refused(3, "delete", on_main=False, topic="no-such-topic")),
    ("error: alter to a bad value", refused(40, "alter", configs={"retention.ms": "soon"})),
    ("error: too large", too_large),
    ("error: no key, compacted", keyless_compacted),
    ("error: unknown group", unknown_group),
    ("error: long metadata", long_metadata),
]
AFTER = [("after a restart: resume", again(after_restart)), ("delete the group", delete_group)]
