"""What the differential script says to a broker: a few hundred requests, each API in every version it has, good and bad
ones, and raw frames. It is said to both brokers by the same function; every answer is booked under a name.
"""
import struct
import time

from wire import NO_ID, batch

ABSENT_ID = "ab" * 16
TWO = [(b"a", b"1"), (b"b", b"2")]


def speak(peer):
    """The whole dialogue, in an order in which later requests may build on earlier ones."""
    for part in (versions, topics, partitions, configs, produce, fetch, anew, holds, offsets, groups, admin, raw):
        part(peer)


def every(peer, api, body, **more):
    """The request in every version, without the fields that a version does not have."""
    for version in peer.schemas.versions(api):
        peer.ask(api, version, body(version) if callable(body) else body, **more)


def versions(peer):
    every(peer, "ApiVersions", {"clientSoftwareName": "differential", "clientSoftwareVersion": "1.0"})
    peer.ask("ApiVersions", 3, {"clientSoftwareName": "bad name!", "clientSoftwareVersion": "1"}, note="bad software name")
    peer.ask("ApiVersions", 3, {"clientSoftwareName": "", "clientSoftwareVersion": ""}, note="no software name")


def create(peer, version, name, partitions=1, replication=1, note="", **more):
    topic = {"name": name, "numPartitions": partitions, "replicationFactor": replication, **more}
    return peer.ask("CreateTopics", version, {"topics": [topic], "timeoutMs": 5000}, note=note)


def ready(peer, name):
    """Waits until the topic has leaders, unbooked."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = peer.quietly("Metadata", 12, {"topics": [{"topicId": NO_ID, "name": name}]})["topics"][0]
        if found["partitions"] and all(p["errorCode"] == 0 for p in found["partitions"]):
            peer.ids[name] = found["topicId"]
            return
        time.sleep(0.05)


def topics(peer):
    for version in peer.schemas.versions("CreateTopics"):
        create(peer, version, f"made-{version}", 2)
        create(peer, version, f"made-{version}", 2, note="again")
    for name in ("", ".", "..", "a/b", "a b", "ü", "x" * 250):
        create(peer, 7, name, note=f"name {name[:9]!r}")
    create(peer, 7, "zero", 0, note="no partitions")
    create(peer, 7, "minus", -2, note="-2 partitions")
    create(peer, 7, "copies", 1, 0, note="no replicas")
    create(peer, 7, "minus-copies", 1, -2, note="-2 replicas")
    create(peer, 7, "many-copies", 1, 9, note="nine replicas")
    create(peer, 7, "usual", -1, -1, note="the broker's defaults")
    create(peer, 7, "odd", configs=[{"name": "no.such.key", "value": "1"}], note="unknown config")
    create(peer, 7, "bad", configs=[{"name": "retention.ms", "value": "soon"}], note="bad config")
    create(peer, 7, "nothing", configs=[{"name": "retention.ms", "value": None}], note="null config")
    create(peer, 7, "set", configs=[{"name": "retention.ms", "value": "5000000"}, {"name": "cleanup.policy", "value": "compact"}],
           note="with configs")
    create(peer, 7, "told", -1, -1, assignments=[{"partitionIndex": 0, "brokerIds": [1]}], note="assigned")
    create(peer, 7, "told-both", 1, 1, assignments=[{"partitionIndex": 0, "brokerIds": [1]}], note="assigned and counted")
    create(peer, 7, "told-gap", -1, -1, assignments=[{"partitionIndex": 1, "brokerIds": [1]}], note="assigned with a gap")
    create(peer, 7, "told-none", -1, -1, assignments=[{"partitionIndex": 0, "brokerIds": []}], note="assigned to nobody")
    create(peer, 7, "told-7", -1, -1, assignments=[{"partitionIndex": 0, "brokerIds": [7]}], note="assigned to node 7")
    twice = [{"name": "twice", "numPartitions": 1, "replicationFactor": 1}] * 2
    peer.ask("CreateTopics", 7, {"topics": twice, "timeoutMs": 5000}, note="the same twice")
    peer.ask("CreateTopics", 7, {"topics": [], "timeoutMs": 5000}, note="none")
    peer.ask("CreateTopics", 7, {"topics": [{"name": "tried", "numPartitions": 1, "replicationFactor": 1}], "timeoutMs": 5000,
                                 "validateOnly": True}, note="validate only")
    create(peer, 7, "a.b", note="a dot")
    create(peer, 7, "a_b", note="that collides with a dot")
    for name in ("log", "small", "compact", "gone", "gone-by-id", "grow"):
        # Records of 2023 stay only where nothing is too old.
        configs = {"small": [{"name": "max.message.bytes", "value": "300"}], "log": [{"name": "retention.ms", "value": "-1"}],
                   "compact": [{"name": "cleanup.policy", "value": "compact"}]}.get(name, [])
        create(peer, 7, name, 2 if name == "log" else 1, configs=configs)
    for name in ("log", "small", "compact", "gone", "gone-by-id", "grow", "usual", "set"):
        ready(peer, name)
    every(peer, "Metadata", lambda v: {"topics": [{"name": "log"}]})
    for version in range(4, 14):
        peer.ask("Metadata", version, {"topics": [{"name": "no-such-topic"}], "allowAutoTopicCreation": False}, note="unknown")
    peer.ask("Metadata", 12, {"topics": [{"topicId": peer.ids["log"], "name": None}]}, note="by id")
    peer.ask("Metadata", 12, {"topics": [{"topicId": ABSENT_ID, "name": None}]}, note="by an unknown id")
    peer.ask("Metadata", 10, {"topics": [{"topicId": peer.ids["log"], "name": None}]}, note="by id, too old for it")
    peer.ask("Metadata", 12, {"topics": [{"topicId": NO_ID, "name": None}]}, note="neither name nor id")
    peer.ask("Metadata", 12, {"topics": []}, note="no topics")
    peer.ask("Metadata", 12, {"topics": [{"name": "a b"}], "allowAutoTopicCreation": True}, note="a bad name")
    peer.ask("Metadata", 12, {"topics": [{"name": "log"}], "includeTopicAuthorizedOperations": True}, note="operations")
    peer.ask("Metadata", 8, {"topics": [], "includeClusterAuthorizedOperations": True}, note="cluster operations")
    every(peer, "DescribeCluster", {"includeClusterAuthorizedOperations": True})
    peer.ask("DescribeCluster", 1, {"endpointType": 2}, note="controllers")
    peer.ask("DescribeCluster", 1, {"endpointType": 3}, note="endpoint type 3")
    every(peer, "DescribeTopicPartitions", {"topics": [{"name": "log"}, {"name": "no-such-topic"}], "responsePartitionLimit": 10})
    peer.ask("DescribeTopicPartitions", 0, {"topics": [{"name": "log"}], "responsePartitionLimit": 1, "cursor": None}, note="one")
    peer.ask("DescribeTopicPartitions", 0, {"topics": [{"name": "log"}], "responsePartitionLimit": 10,
                                            "cursor": {"topicName": "log", "partitionIndex": 1}}, note="from a cursor")
    for version in range(1, 6):
        peer.ask("DeleteTopics", version, {"topicNames": [f"made-{version + 1}", "no-such-topic"], "timeoutMs": 5000})
    peer.ask("DeleteTopics", 6, {"topics": [{"name": "gone"}, {"name": None, "topicId": peer.ids["gone-by-id"]}], "timeoutMs": 5000})
    peer.ask("DeleteTopics", 6, {"topics": [{"name": None, "topicId": ABSENT_ID}], "timeoutMs": 5000}, note="unknown id")
    peer.ask("DeleteTopics", 6, {"topics": [{"name": "log", "topicId": peer.ids["log"]}], "timeoutMs": 5000}, note="name and id")
    peer.ask("DeleteTopics", 6, {"topics": [{"name": "told"}, {"name": "told"}], "timeoutMs": 5000}, note="the same twice")


def partitions(peer):
    def grow(count, note="", version=3, **more):
        topic = {"name": "grow", "count": count, **more}
        peer.ask("CreatePartitions", version, {"topics": [topic], "timeoutMs": 5000, "validateOnly": False}, note=note)

    for version in range(4):
        grow(2 + version, version=version)
    grow(5, note="as many as there are")
    grow(1, note="fewer")
    grow(0, note="none")
    grow(6, note="assigned", assignments=[{"brokerIds": [1]}])
    grow(7, note="assigned to node 9", assignments=[{"brokerIds": [9]}])
    grow(8, note="assigned, too few", assignments=[{"brokerIds": [1]}])
    peer.ask("CreatePartitions", 3, {"topics": [{"name": "no-such-topic", "count": 3}], "timeoutMs": 5000}, note="unknown")
    peer.ask("CreatePartitions", 3, {"topics": [{"name": "grow", "count": 9}] * 2, "timeoutMs": 5000}, note="the same twice")


def configs(peer):
    names = ["retention.ms", "cleanup.policy", "max.message.bytes", "compression.type"]
    every(peer, "DescribeConfigs", {"resources": [{"resourceType": 2, "resourceName": "set", "configurationKeys": names}],
                                    "includeSynonyms": True, "includeDocumentation": False})
    one = {"resourceType": 2, "resourceName": "set"}
    peer.ask("DescribeConfigs", 4, {"resources": [{**one, "configurationKeys": None}]}, note="all keys")
    peer.ask("DescribeConfigs", 4, {"resources": [{**one, "configurationKeys": []}]}, note="no keys")
    peer.ask("DescribeConfigs", 4, {"resources": [{**one, "configurationKeys": ["no.such.key"]}]}, note="unknown key")
    for kind, name in ((2, "no-such-topic"), (4, "x"), (4, "9"), (2, ""), (99, "x"), (32, "some-group"), (16, "some-metrics")):
        peer.ask("DescribeConfigs", 4, {"resources": [{"resourceType": kind, "resourceName": name, "configurationKeys": None}]},
                 note=f"resource {kind} {name!r}")
    keys = ["log.retention.ms", "num.partitions", "message.max.bytes", "log.cleanup.policy"]
    for name in ("1", ""):
        peer.ask("DescribeConfigs", 4, {"resources": [{"resourceType": 4, "resourceName": name, "configurationKeys": keys}],
                                        "includeSynonyms": True}, note=f"broker {name!r}")

    def alter(note, *changes, kind=2, name="set", version=1, validate=False):
        rows = [{"name": key, "configOperation": op, "value": value} for key, op, value in changes]
        body = {"resources": [{"resourceType": kind, "resourceName": name, "configs": rows}], "validateOnly": validate}
        peer.ask("IncrementalAlterConfigs", version, body, note=note)

    alter("set", ("retention.ms", 0, "6000000"), version=0)
    alter("set", ("retention.ms", 0, "7000000"))
    alter("delete", ("retention.ms", 1, None))
    alter("append", ("cleanup.policy", 2, "delete"))
    alter("subtract", ("cleanup.policy", 3, "compact"))
    alter("append to a number", ("retention.ms", 2, "1"))
    alter("unknown key", ("no.such.key", 0, "1"))
    alter("bad value", ("retention.ms", 0, "soon"))
    alter("out of range", ("retention.ms", 0, "-7"))
    alter("null", ("retention.ms", 0, None))
    alter("unknown operation", ("retention.ms", 9, "1"))
    alter("the same key twice", ("retention.ms", 0, "1"), ("retention.ms", 0, "2"))
    alter("nothing")
    alter("validate only", ("retention.ms", 0, "9000000"), validate=True)
    alter("unknown topic", ("retention.ms", 0, "1"), name="no-such-topic")
    alter("of broker 1", ("log.retention.ms", 0, "5000000"), kind=4, name="1")
    alter("of every broker", ("log.retention.ms", 0, "6000000"), kind=4, name="")
    alter("of broker 9", ("log.retention.ms", 0, "1"), kind=4, name="9")
    alter("of a broker, not dynamic", ("node.id", 0, "7"), kind=4, name="1")
    alter("of a broker, bad value", ("message.max.bytes", 0, "many"), kind=4, name="1")
    alter("of every broker, not allowed", ("log.cleanup.policy", 0, "odd"), kind=4, name="")
    alter("of broker 1, back", ("log.retention.ms", 1, None), kind=4, name="1")
    alter("of every broker, back", ("log.retention.ms", 1, None), kind=4, name="")
    for version in range(3):
        body = {"resources": [{"resourceType": 2, "resourceName": "set", "configs": [{"name": "retention.ms", "value": "8000000"}]}],
                "validateOnly": False}
        peer.ask("AlterConfigs", version, body)
    time.sleep(1)  # until every broker knows
    peer.ask("DescribeConfigs", 4, {"resources": [{**one, "configurationKeys": names}]}, note="after AlterConfigs")
    every(peer, "ListConfigResources", lambda v: {"resourceTypes": [2]} if v else {})


def write(peer, version, records, topic="log", partition=0, acks=-1, note="", **more):
    data = {"partitionData": [{"index": partition, "records": records}]}
    data |= {"topicId": peer.ids.get(topic, ABSENT_ID)} if version >= 13 else {"name": topic}
    return peer.ask("Produce", version, {"acks": acks, "timeoutMs": 5000, "topicData": [data], **more}, note=note)


def produce(peer):
    for version in peer.schemas.versions("Produce"):
        write(peer, version, batch(TWO))
    for acks in (1, 2, -2):
        write(peer, 9, batch(TWO), acks=acks, note=f"acks {acks}")
    write(peer, 9, batch(TWO), topic="no-such-topic", note="unknown topic")
    write(peer, 13, batch(TWO), topic="no-such-topic", note="unknown id")
    write(peer, 9, batch(TWO), partition=7, note="unknown partition")
    write(peer, 9, batch(TWO), partition=-1, note="partition -1")
    write(peer, 9, batch(TWO, crc=7), note="bad crc")
    write(peer, 9, batch(TWO, magic=1), note="magic 1")
    write(peer, 9, batch(TWO, magic=3), note="magic 3")
    write(peer, 9, batch(TWO, count=3), note="a wrong count")
    write(peer, 9, batch(TWO, count=0), note="count 0")
    write(peer, 9, batch(TWO) + batch(TWO), note="two batches")
    write(peer, 9, batch(TWO)[:-3], note="cut off")
    write(peer, 9, b"", note="no bytes")
    write(peer, 9, None, note="null")
    write(peer, 9, batch([(b"k", b"x" * 500)]), topic="small", note="too large")
    write(peer, 9, batch([(None, b"x")]), topic="compact", note="no key, compacted")
    write(peer, 9, batch(TWO, attributes=0x20), note="a control batch")
    write(peer, 9, batch(TWO, attributes=0x10), note="transactional without a producer")
    write(peer, 9, batch(TWO, attributes=0x05), note="codec 5")
    write(peer, 9, batch(TWO, at=int(time.time() * 1000) + 90_000_000), note="from the future")
    create(peer, 7, "marks", note="for marked batches")
    ready(peer, "marks")
    time.sleep(0.5)  # until its leader leads
    write(peer, 9, batch(TWO, at=-5), topic="marks", note="from before 1970")
    write(peer, 9, batch(TWO, attributes=0x08), topic="marks", note="marked with the broker's time")
    write(peer, 9, batch(TWO, attributes=0x40), topic="marks", note="marked by a cleaner")
    write(peer, 9, batch(TWO), topic="__consumer_offsets", note="to an internal topic")
    patiently(peer, "InitProducerId", {"transactionalId": None, "transactionTimeoutMs": 60_000})
    for version in peer.schemas.versions("InitProducerId"):
        if version < 6:
            peer.ask("InitProducerId", version, {"transactionalId": None, "transactionTimeoutMs": 60_000})
    peer.ask("InitProducerId", 4, {"transactionalId": "", "transactionTimeoutMs": 60_000}, note="an empty id")
    mine = peer.quietly("InitProducerId", 4, {"transactionalId": None, "transactionTimeoutMs": 60_000})["producerId"]
    for note, sequence, epoch in (("first", 0, 0), ("next", 2, 0), ("again", 2, 0), ("first again", 0, 0), ("a gap", 9, 0),
                                  ("new epoch", 0, 1), ("old epoch", 4, 0), ("new epoch, not from 0", 5, 2)):
        write(peer, 9, batch(TWO, producer=mine, epoch=epoch, sequence=sequence), partition=1, note=f"idempotent: {note}")
    seven = peer.quietly("InitProducerId", 4, {"transactionalId": None, "transactionTimeoutMs": 60_000})["producerId"]
    for note, sequence in [(f"batch {n} of seven", 2 * n) for n in range(7)] + [("again, the third of seven", 4), ("again, the first of seven", 0)]:
        write(peer, 9, batch(TWO, producer=seven, epoch=0, sequence=sequence), partition=1, note=f"idempotent: {note}")
    write(peer, 9, batch(TWO, producer=987_654, epoch=0, sequence=4), partition=1, note="a producer never seen")


def read(peer, version, offset=0, topic="log", partition=0, note="", size=1 << 20, **more):
    one = {"partition": partition, "fetchOffset": offset, "partitionMaxBytes": size}
    whom = {"topicId": peer.ids.get(topic, ABSENT_ID)} if version >= 13 else {"topic": topic}
    epoch = {"currentLeaderEpoch": more.pop("epoch")} if "epoch" in more else {}
    body = {"maxWaitMs": 100, "minBytes": 1, "maxBytes": size, "topics": [{**whom, "partitions": [{**one, **epoch}]}], **more}
    return peer.ask("Fetch", version, body, note=note)


def fetch(peer):
    for version in range(4, 18):
        read(peer, version, offset=0, size=100)
    read(peer, 12, offset=1, note="mid-batch", size=1)
    read(peer, 12, offset=10_000, note="beyond the end")
    read(peer, 12, offset=-1, note="offset -1")
    read(peer, 12, topic="no-such-topic", note="unknown topic")
    read(peer, 13, topic="no-such-topic", note="unknown id")
    read(peer, 12, partition=9, note="unknown partition")
    read(peer, 12, offset=0, epoch=77, note="an epoch to come")
    read(peer, 12, offset=0, isolationLevel=1, note="read committed", size=100)
    read(peer, 12, offset=0, isolationLevel=7, note="isolation level 7", size=100)
    read(peer, 12, topic="usual", note="empty topic")
    session = read(peer, 12, sessionId=0, sessionEpoch=0, note="a new session", size=100)
    number = session.get("sessionId", 0) if isinstance(session, dict) else 0
    again = {"maxWaitMs": 100, "minBytes": 1, "maxBytes": 100, "topics": []}
    peer.ask("Fetch", 12, {**again, "sessionId": number, "sessionEpoch": 1}, note="in the session")
    peer.ask("Fetch", 12, {**again, "sessionId": number, "sessionEpoch": 7}, note="a wrong session epoch")
    peer.ask("Fetch", 12, {**again, "sessionId": 12345, "sessionEpoch": 1}, note="an unknown session")
    peer.ask("Fetch", 12, {**again, "sessionId": number, "sessionEpoch": -1}, note="the session closed")


def anew(peer):
    """A topic that is deleted and made again, while a session reads it by its id."""
    create(peer, 7, "phoenix", note="to be made again")
    ready(peer, "phoenix")
    time.sleep(0.5)  # until its leader leads
    rows = [{"topicId": peer.ids["phoenix"], "partitions": [{"partition": 0, "partitionMaxBytes": 100}]}]
    body = {"maxWaitMs": 100, "minBytes": 1, "maxBytes": 100}
    opened = peer.ask("Fetch", 13, {**body, "sessionId": 0, "sessionEpoch": 0, "topics": rows}, note="a new session by id")
    number = opened.get("sessionId", 0) if isinstance(opened, dict) else 0
    peer.quietly("DeleteTopics", 6, {"topics": [{"name": "phoenix", "topicId": NO_ID}], "timeoutMs": 5000})
    time.sleep(1)
    create(peer, 7, "phoenix", note="again")
    before = peer.ids["phoenix"]
    ready(peer, "phoenix")
    peer.ids["phoenix, the first"] = before
    peer.ask("Fetch", 13, {**body, "sessionId": number, "sessionEpoch": 1, "topics": []}, note="in the session, of a topic made anew")
    peer.ask("Fetch", 13, {**body, "sessionId": 0, "sessionEpoch": -1, "topics": rows}, note="unknown id, of a topic made anew")


def hold(peer, note, *rows, version=12, wait=1500, session=(0, -1), forget=(), **more):
    """A fetch of rows (topic, partition, offset, more fields), and whether it was held as long as it may be."""
    def whom(topic):
        return {"topicId": peer.ids.get(topic, ABSENT_ID)} if version >= 13 else {"topic": topic}

    topics = [{**whom(topic), "partitions": [{"partition": partition, "fetchOffset": offset, "partitionMaxBytes": 1 << 20, **fields}]}
              for topic, partition, offset, fields in rows]
    body = {"maxWaitMs": wait, "minBytes": 1, "maxBytes": 1 << 20, "sessionId": session[0], "sessionEpoch": session[1],
            "topics": topics, "forgottenTopicsData": [{**whom(topic), "partitions": [partition]} for topic, partition in forget], **more}
    began = time.monotonic()
    answer = peer.ask("Fetch", version, body, note=note)
    took = time.monotonic() - began
    peer.book(f"Fetch v{version}: {note}, held", "to the end" if took > wait / 2e3 else "not at all")
    return answer.get("sessionId", 0) if isinstance(answer, dict) else 0


def holds(peer):
    """What a fetch waits for, and what it does not wait for."""
    quiet = ("usual", 0, 0, {})
    for version in (4, 12, 13):
        hold(peer, "of nothing new", quiet, version=version)
        hold(peer, "of no partition", version=version)
        hold(peer, "of an unknown topic", ("nope", 0, 0, {}), version=version)
        hold(peer, "of an unknown topic and nothing new", ("nope", 0, 0, {}), quiet, version=version)
        hold(peer, "of an unknown partition and nothing new", ("log", 9, 0, {}), quiet, version=version)
        hold(peer, "beyond the end and nothing new", ("log", 0, 10_000, {}), quiet, version=version)
    hold(peer, "of an epoch to come and nothing new", ("log", 0, 0, {"currentLeaderEpoch": 77}), quiet)
    hold(peer, "after an epoch that diverges", ("log", 0, 0, {"lastFetchedEpoch": 77}), quiet)
    hold(peer, "after the right epoch", ("usual", 0, 0, {"lastFetchedEpoch": 0}))
    hold(peer, "of nothing new, no byte asked for", quiet, minBytes=0)
    hold(peer, "of nothing new, no byte wanted", quiet, maxBytes=0)
    hold(peer, "of nothing new, a byte asked for less", quiet, minBytes=-1)
    hold(peer, "of no time to wait", quiet, maxWaitMs=0)
    hold(peer, "of less than no time to wait", quiet, maxWaitMs=-1)
    hold(peer, "of more than there is", ("log", 0, 22, {}), quiet, minBytes=1 << 19)
    hold(peer, "of no byte of a partition", ("log", 0, 0, {"partitionMaxBytes": 0}), minBytes=2)
    hold(peer, "of the same twice", quiet, quiet)
    hold(peer, "by a replica", quiet, replicaId=5)
    number = hold(peer, "a new session of nothing new", quiet, session=(0, 0))
    hold(peer, "nothing new in the session", session=(number, 1))
    hold(peer, "an unknown topic in the session", ("nope", 0, 0, {}), session=(number, 2))
    hold(peer, "all forgotten in the session", session=(number, 3), forget=[("nope", 0), ("usual", 0)])
    hold(peer, "nothing left in the session", session=(number, 4))
    hold(peer, "a wrong session epoch, held", session=(number, 9))
    number = hold(peer, "a new session of nothing", session=(0, 0))
    hold(peer, "a session of an unknown topic", ("nope", 0, 0, {}), session=(0, 0))


def offsets(peer):
    def when(version, at, note="", topic="log", partition=0, **more):
        one = {"partitionIndex": partition, "timestamp": at}
        peer.ask("ListOffsets", version, {"replicaId": -1, "topics": [{"name": topic, "partitions": [one]}], **more}, note=note)

    for version in peer.schemas.versions("ListOffsets"):
        if version < 11:
            for at in (-1, -2, 1_700_000_000_500, 1_900_000_000_000):
                when(version, at, note=f"at {at}")
    for at in (-3, -4, -5, -6, -9):
        when(10, at, note=f"at {at}")
        when(4, at, note=f"at {at}")
    when(10, -1, topic="no-such-topic", note="unknown topic")
    when(10, -1, partition=9, note="unknown partition")
    when(10, -1, topic="usual", note="empty topic")
    when(10, 0, topic="usual", note="empty topic, by time")
    when(10, -3, topic="usual", note="empty topic, the largest")
    when(10, -1, isolationLevel=1, note="read committed")
    for version in peer.schemas.versions("OffsetForLeaderEpoch"):
        for epoch in (0, 5, -1):
            one = {"partition": 0, "currentLeaderEpoch": -1, "leaderEpoch": epoch}
            whom = {"replicaId": -1} if version >= 3 else {}
            peer.ask("OffsetForLeaderEpoch", version, {**whom, "topics": [{"topic": "log", "partitions": [one]}]}, note=f"epoch {epoch}")
    one = {"partition": 0, "currentLeaderEpoch": 99, "leaderEpoch": 0}
    peer.ask("OffsetForLeaderEpoch", 4, {"replicaId": -1, "topics": [{"topic": "log", "partitions": [one]}]}, note="an epoch to come")
    peer.ask("OffsetForLeaderEpoch", 4, {"replicaId": -1, "topics": [{"topic": "nope", "partitions": [one]}]}, note="unknown topic")
    for version in range(3):
        peer.ask("DeleteRecords", version, {"topics": [{"name": "log", "partitions": [{"partitionIndex": 1, "offset": version + 1}]}],
                                            "timeoutMs": 5000})
    for note, topic, partition, offset in (("beyond the end", "log", 1, 9999), ("unknown topic", "nope", 0, 1), ("to -1", "log", 1, -1),
                                           ("unknown partition", "log", 9, 1), ("offset -2", "log", 1, -2), ("compacted", "compact", 0, 0)):
        rows = [{"name": topic, "partitions": [{"partitionIndex": partition, "offset": offset}]}]
        peer.ask("DeleteRecords", 2, {"topics": rows, "timeoutMs": 5000}, note=note)


def patiently(peer, api, body, version=3):
    """Asks, unbooked, until it works: a coordinator loads when it is first asked."""
    deadline = time.monotonic() + 15
    while peer.quietly(api, version, body)["errorCode"] and time.monotonic() < deadline:
        time.sleep(0.1)


def coordinator(peer, group):
    patiently(peer, "FindCoordinator", {"key": group, "keyType": 0})
    patiently(peer, "OffsetFetch", {"groupId": group, "topics": []}, version=5)


def groups(peer):
    coordinator(peer, "g")
    for version in range(4):
        peer.ask("FindCoordinator", version, {"key": "g", **({"keyType": 0} if version else {})})
    for version in (4, 5, 6):
        peer.ask("FindCoordinator", version, {"keyType": 0, "coordinatorKeys": ["g", "h"]})
    peer.ask("FindCoordinator", 4, {"keyType": 9, "coordinatorKeys": ["g"]}, note="key type 9")
    peer.ask("FindCoordinator", 3, {"keyType": 0, "key": ""}, note="an empty key")
    for version in range(2, 10):
        rows = [{"name": "log", "partitions": [{"partitionIndex": 0, "committedOffset": version, "committedMetadata": f"v{version}"}]}]
        whom = "generationIdOrMemberEpoch"
        peer.ask("OffsetCommit", version, {"groupId": "g", whom: -1, "memberId": "", "topics": rows})

    def commit(note, group="g", topic="log", partition=0, offset=1, metadata="", generation=-1, member="", version=8):
        rows = [{"name": topic, "partitions": [{"partitionIndex": partition, "committedOffset": offset, "committedMetadata": metadata}]}]
        body = {"groupId": group, "generationIdOrMemberEpoch": generation, "memberId": member, "topics": rows}
        peer.ask("OffsetCommit", version, body, note=note)

    commit("unknown topic", topic="no-such-topic")
    commit("unknown partition", partition=9)
    commit("long metadata", metadata="m" * 5000)
    commit("a generation without a member", generation=4)
    commit("an unknown member", generation=4, member="nobody")
    commit("an empty group id", group="")
    commit("offset -1", group="negative", offset=-1)
    rows = [{"topicId": peer.ids["log"], "partitions": [{"partitionIndex": 0, "committedOffset": 44}]}]
    peer.ask("OffsetCommit", 10, {"groupId": "g", "generationIdOrMemberEpoch": -1, "memberId": "", "topics": rows})
    rows = [{"topicId": ABSENT_ID, "partitions": [{"partitionIndex": 0, "committedOffset": 44}]}]
    peer.ask("OffsetCommit", 10, {"groupId": "g", "generationIdOrMemberEpoch": -1, "memberId": "", "topics": rows}, note="unknown id")
    for version in range(1, 8):
        peer.ask("OffsetFetch", version, {"groupId": "g", "topics": [{"name": "log", "partitionIndexes": [0, 1, 9]}]})
    peer.ask("OffsetFetch", 7, {"groupId": "g", "topics": None}, note="all")
    peer.ask("OffsetFetch", 7, {"groupId": "nobody", "topics": None}, note="unknown group")
    for version in (8, 9):
        every_topic = {"groups": [{"groupId": "g", "topics": [{"name": "log", "partitionIndexes": [0, 1]}]}, {"groupId": "h", "topics": None}]}
        peer.ask("OffsetFetch", version, every_topic)
    by_id = {"groups": [{"groupId": "g", "topics": [{"topicId": peer.ids["log"], "partitionIndexes": [0, 1]}]}]}
    peer.ask("OffsetFetch", 10, by_id)
    membership(peer)
    for version in peer.schemas.versions("DescribeGroups"):
        peer.ask("DescribeGroups", version, {"groups": ["g", "no-such-group"]})
    for version in peer.schemas.versions("ListGroups"):
        peer.ask("ListGroups", version, {})
    peer.ask("ListGroups", 5, {"statesFilter": ["Empty"], "typesFilter": ["classic"]}, note="filtered")
    peer.ask("ListGroups", 5, {"statesFilter": ["Odd"]}, note="by a state that is none")
    peer.ask("OffsetDelete", 0, {"groupId": "g", "topics": [{"name": "log", "partitions": [{"partitionIndex": 0}, {"partitionIndex": 9}]}]})
    peer.ask("OffsetDelete", 0, {"groupId": "nobody", "topics": [{"name": "log", "partitions": [{"partitionIndex": 0}]}]}, note="unknown")
    for version in range(3):
        peer.ask("DeleteGroups", version, {"groupsNames": ["g" if version == 2 else "none", "no-such-group"]})


def membership(peer):
    """A classic member's life, and what is refused on the way."""
    metadata = struct.pack(">hi", 0, 1) + struct.pack(">h", 3) + b"log" + struct.pack(">i", 0)

    def join(version, note="", group="m", member="", protocol="consumer", protocols=("range",), session=10_000, **more):
        body = {"groupId": group, "sessionTimeoutMs": session, "memberId": member, "protocolType": protocol,
                "protocols": [{"name": name, "metadata": metadata} for name in protocols], **more}
        if version >= 1:
            body["rebalanceTimeoutMs"] = 10_000
        return peer.ask("JoinGroup", version, body, note=note)

    coordinator(peer, "m")
    for version in peer.schemas.versions("JoinGroup"):
        group = f"joined-{version}"
        coordinator(peer, group)
        joined = join(version, group=group)
        if isinstance(joined, dict) and joined["errorCode"] == 79:
            joined = join(version, group=group, member=joined["memberId"], note="with its id")
        if not isinstance(joined, dict) or joined["errorCode"]:
            continue
        whom = {"groupId": group, "memberId": joined["memberId"], "generationId": joined["generationId"]}
        sync = min(version, 5)
        typed = {"protocolType": "consumer", "protocolName": "range"} if sync >= 5 else {}
        peer.ask("SyncGroup", sync, {**whom, **typed, "assignments": [{"memberId": joined["memberId"], "assignment": b"mine"}]})
        peer.ask("Heartbeat", min(version, 4), whom)
        peer.ask("Heartbeat", min(version, 4), {**whom, "generationId": 99}, note="a wrong generation")
        peer.ask("Heartbeat", min(version, 4), {**whom, "memberId": "nobody"}, note="an unknown member")
        peer.ask("SyncGroup", sync, {**whom, **typed, "generationId": 99, "assignments": []}, note="a wrong generation")
        if version == 9:
            peer.ask("SyncGroup", 5, {**whom, "protocolType": "connect", "protocolName": "range", "assignments": []}, note="another type")
            peer.ask("DescribeGroups", 6, {"groups": [group]}, note="a live group")
            peer.ask("DeleteGroups", 2, {"groupsNames": [group]}, note="a live group")
            rows = [{"name": "log", "partitions": [{"partitionIndex": 0, "committedOffset": 3, "committedMetadata": ""}]}]
            peer.ask("OffsetCommit", 8, {"groupId": group, "generationIdOrMemberEpoch": 1, "memberId": joined["memberId"], "topics": rows},
                     note="by a member")
            peer.ask("OffsetCommit", 8, {"groupId": group, "generationIdOrMemberEpoch": -1, "memberId": "", "topics": rows},
                     note="by nobody, group alive")
        leave = min(version, 5)
        if leave < 3:
            peer.ask("LeaveGroup", leave, {"groupId": group, "memberId": joined["memberId"]})
        else:
            gone = {"groupId": group, "members": [{"memberId": joined["memberId"]}, {"memberId": "nobody"}]}
            peer.ask("LeaveGroup", leave, gone)
    join(5, group="", note="no group id")
    join(5, session=1, note="too short a session")
    join(5, session=90_000_000, note="too long a session")
    join(5, protocols=(), note="no protocols")
    join(5, protocol="", note="no protocol type")
    join(5, member="nobody", note="an unknown member")
    static = join(5, group="joined-9", note="static", groupInstanceId="i")
    if isinstance(static, dict):
        join(5, group="joined-9", member="other", note="static, with another's id", groupInstanceId="i")
        peer.ask("LeaveGroup", 5, {"groupId": "joined-9", "members": [{"memberId": "", "groupInstanceId": "i"}]}, note="static")


def admin(peer):
    for version in range(1, 5):
        peer.ask("DescribeLogDirs", version, {"topics": [{"topic": "log", "partitions": [0]}]})
    peer.ask("DescribeLogDirs", 4, {"topics": []}, note="of nothing")
    for version in (1, 2):
        rows = [{"name": "log", "partitions": [0, 9]}, {"name": "nope", "partitions": [0]}]
        peer.ask("AlterReplicaLogDirs", version, {"dirs": [{"path": "/no/such/directory", "topics": rows}]})
    for version in range(3):
        rows = {"topicPartitions": [{"topic": "log", "partitions": [0]}, {"topic": "nope", "partitions": [0]}], "timeoutMs": 5000}
        peer.ask("ElectLeaders", version, {**rows, **({"electionType": 0} if version else {})})
    peer.ask("ElectLeaders", 2, {"electionType": 1, "topicPartitions": [{"topic": "log", "partitions": [0]}], "timeoutMs": 5000},
             note="unclean")
    peer.ask("ElectLeaders", 2, {"electionType": 5, "topicPartitions": [], "timeoutMs": 5000}, note="type 5")
    for note, name, replicas in (("to itself", "log", [1]), ("to node 9", "log", [9]), ("unknown", "nope", [1]), ("cancel", "log", None),
                                 ("to nobody", "log", []), ("to node 1 twice", "log", [1, 1])):
        rows = [{"name": name, "partitions": [{"partitionIndex": 0, "replicas": replicas}]}]
        peer.ask("AlterPartitionReassignments", 0, {"timeoutMs": 5000, "topics": rows}, note=note)
    peer.ask("ListPartitionReassignments", 0, {"timeoutMs": 5000, "topics": None})
    peer.ask("ListPartitionReassignments", 0, {"timeoutMs": 5000, "topics": [{"name": "nope", "partitionIndexes": [0]}]}, note="unknown")
    user = [{"entityType": "client-id", "entityName": "c"}]
    for version in range(2):
        ops = [{"key": "producer_byte_rate", "value": 1e6, "remove": False}]
        peer.ask("AlterClientQuotas", version, {"entries": [{"entity": user, "ops": ops}], "validateOnly": False})
        time.sleep(0.5)  # until every broker knows
        peer.ask("DescribeClientQuotas", version, {"components": [{"entityType": "client-id", "matchType": 0, "match": "c"}], "strict": False})
    for note, entity, key in (("unknown key", user, "odd"), ("unknown entity", [{"entityType": "odd", "entityName": "c"}], "producer_byte_rate"),
                              ("no entity", [], "producer_byte_rate")):
        ops = [{"key": key, "value": 1.0, "remove": False}]
        peer.ask("AlterClientQuotas", 1, {"entries": [{"entity": entity, "ops": ops}], "validateOnly": False}, note=note)
    peer.ask("AlterClientQuotas", 1, {"entries": [{"entity": user, "ops": [{"key": "producer_byte_rate", "value": 0.0, "remove": True}]}],
                                      "validateOnly": False}, note="back")
    for version in range(3):
        peer.ask("DescribeQuorum", version, {"topics": [{"topicName": "__cluster_metadata", "partitions": [{"partitionIndex": 0}]}]})
    peer.ask("DescribeQuorum", 2, {"topics": [{"topicName": "log", "partitions": [{"partitionIndex": 0}]}]}, note="of another topic")
    for version in range(3):
        ups = [{"feature": "no.such.feature", "maxVersionLevel": 1}]
        peer.ask("UpdateFeatures", version, {"timeoutMs": 5000, "featureUpdates": ups})
    peer.ask("UpdateFeatures", 2, {"timeoutMs": 5000, "featureUpdates": []}, note="none")
    peer.ask("UpdateFeatures", 2, {"timeoutMs": 5000, "featureUpdates": [{"feature": "metadata.version", "maxVersionLevel": 999}]},
             note="a level too high")
    peer.ask("UnregisterBroker", 0, {"brokerId": 99})
    peer.ask("DescribeProducers", 0, {"topics": [{"name": "usual", "partitionIndexes": [0, 9]}, {"name": "nope", "partitionIndexes": [0]}]})
    for version in range(3):
        peer.ask("ListTransactions", version, {})
    patiently(peer, "FindCoordinator", {"key": "nope", "keyType": 1})
    time.sleep(1)
    peer.ask("DescribeTransactions", 0, {"transactionalIds": ["nope"]})
    peer.ask("GetTelemetrySubscriptions", 0, {"clientInstanceId": NO_ID})
    peer.ask("SaslHandshake", 1, {"mechanism": "PLAIN"})
    every(peer, "DescribeAcls", {"resourceTypeFilter": 1, "patternTypeFilter": 1, "operation": 1, "permissionType": 1})


def raw(peer):
    """Frames by hand: what is not a request, and requests that are nearly right."""
    head = struct.pack(">hhih", 3, 1, 5, 1) + b"c"
    for note, frame in (
        ("an unknown key", struct.pack(">hhih", 999, 0, 1, 0)),
        ("a negative key", struct.pack(">hhih", -1, 0, 1, 0)),
        ("a version too high", struct.pack(">hhih", 3, 99, 1, 0) + b"\0" * 8),
        ("a negative version", struct.pack(">hhih", 3, -1, 1, 0) + b"\0" * 8),
        ("an inter-broker key", struct.pack(">hhih", 56, 2, 1, 0) + b"\0" * 20),
        ("ApiVersions of version 99", struct.pack(">hhih", 18, 99, 1, 0) + b"\0" * 4),
        ("two bytes", b"\0\3"),
        ("a header cut off", struct.pack(">hh", 3, 1)),
        ("a client id cut off", struct.pack(">hhih", 3, 1, 1, 100) + b"abc"),
        ("an empty body", head),
        ("bytes behind the body", head + struct.pack(">i", 0) + b"trailing"),
        ("an absurd count", head + struct.pack(">i", 0x7FFFFFFF)),
        ("a count of -2", head + struct.pack(">i", -2)),
        ("a string cut off", head + struct.pack(">ih", 1, 500) + b"abc"),
        ("a name that is no UTF-8", head + struct.pack(">ih", 1, 2) + b"\xff\xfe"),
        ("no client id", struct.pack(">hhih", 3, 1, 5, -1) + struct.pack(">i", 0)),
        ("an unknown tag in the header", struct.pack(">hhih", 3, 12, 5, 1) + b"c\1\x63\2ab" + b"\1\0\0\0"),
        ("an unknown tag in the body", struct.pack(">hhih", 3, 12, 5, 1) + b"c\0" + b"\1\0\0\1\x63\2ab"),
        ("zeros", b"\0" * 40),
    ):
        peer.raw(note, struct.pack(">i", len(frame)) + frame)
    peer.raw("length 0", struct.pack(">i", 0))
    peer.raw("length -1", struct.pack(">i", -1))
    peer.raw("length 2147483647", struct.pack(">i", 0x7FFFFFFF))
    peer.raw("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer.raw("Produce with acks 0, unknown topic", framed(peer, "Produce", 9, {
        "acks": 0, "timeoutMs": 1000, "topicData": [{"name": "no-such-topic", "partitionData": [{"index": 0, "records": batch(TWO)}]}]}))
    peer.raw("Produce with acks 0, then Metadata", framed(peer, "Produce", 9, {
        "acks": 0, "timeoutMs": 1000, "topicData": [{"name": "log", "partitionData": [{"index": 0, "records": batch(TWO)}]}]})
        + framed(peer, "Heartbeat", 4, {"groupId": "x", "generationId": 0, "memberId": "y"}))


def framed(peer, api, version, body):
    frame = peer.schemas.encode_request(api, version, body)
    return struct.pack(">i", len(frame)) + frame

