#!/usr/bin/env python3
"""The same few hundred requests to Apache Kafka and to Tidemark, raw frames among them, and every answer compared field by
field. Ids, addresses and times are made alike first; texts are compared only as there or not there (--texts shows them).

  differential.py --tidemark target/debug/tidemark
  differential.py --tidemark … --kafka HOST:PORT       an Apache Kafka of the same settings that runs already

A difference that is meant stands with its reason in proto/differences.tsv, and so in proto/APIS.md. Any other fails.
"""
import argparse
import json
import os
import re
import socket
import struct
import sys
import tempfile
from pathlib import Path

import dialogue
from matrix import SETTINGS
from roster import java
from wire import NO_ID, Schemas, batches_in
from world import HERE, ApacheKafka, Broker, Bucket, Trouble

DIFFERENCES = HERE.parents[2] / "proto" / "differences.tsv"
UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(?<=-)[A-Za-z0-9_-]{22}$")
PATIENCE_S = 20
SAME = {"num.partitions": 1, "auto.create.topics.enable": "true"}


class Peer:
    """One broker: asks it, and books what it answers under the name of the request."""

    def __init__(self, address, schemas):
        self.address, self.schemas = address, schemas
        self.booked, self.ids, self.connection = {}, {}, None

    def connect(self):
        host, _, port = self.address.rpartition(":")
        self.connection = socket.create_connection((host, int(port)), timeout=PATIENCE_S)

    def frame(self):
        """The next frame, or what there is instead."""
        try:
            size = struct.unpack(">i", self.exactly(4))[0]
            return self.exactly(size)
        except TimeoutError:
            self.connection = None
            return "silence"
        except (OSError, EOFError):
            self.connection = None
            return "closed"

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.connection.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def quietly(self, api, version, body):
        if self.connection is None:
            self.connect()
        request = self.schemas.encode_request(api, version, body)
        self.connection.sendall(struct.pack(">i", len(request)) + request)
        frame = self.frame()
        return frame if isinstance(frame, str) else self.schemas.decode_response(api, version, frame)

    def ask(self, api, version, body, note=""):
        try:
            answer = self.quietly(api, version, body)
        except ValueError as error:
            answer, self.connection = f"undecodable: {error}", None
        self.book(f"{api} v{version}" + (f": {note}" if note else ""), answer)
        return answer

    def raw(self, note, data):
        """Bytes on a connection of their own: the answer's bytes but for the addresses in them, or how it ended."""
        self.connect()
        self.connection.settimeout(3)
        try:
            self.connection.sendall(data)
        except OSError:
            pass
        frame = self.frame()
        self.connection = None
        # The first bytes are the correlation id and, of most answers, a time and a code.
        self.book(f"raw: {note}", frame if isinstance(frame, str) else f"an answer that begins with {frame[:4].hex()}")

    def book(self, name, answer):
        while name in self.booked:
            name += "'"
        self.booked[name] = answer


class Alike:
    """Makes what must differ between two brokers alike: ids, addresses, times, and the order of rows."""

    def __init__(self, peer):
        self.names = {uuid: name for name, uuid in peer.ids.items()}

    def __call__(self, value, key=""):
        if isinstance(value, dict):
            return {name: self(one, name) for name, one in value.items()}
        if isinstance(value, list):
            rows = [self(one, key) for one in value]
            return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
        if isinstance(value, bytes):
            return batches_in(value)
        if key in ("host", "port", "clusterId", "logDir") and value is not None:
            return f"<{key}>"
        if key in ("topicId", "sessionId", "clientInstanceId", "memberId", "leader", "producerId") and isinstance(value, str):
            return self.name_of(value)
        if key in ("sessionId", "producerId", "subscriptionId") and value and (value > 0 or key == "subscriptionId"):
            return f"<{key}>"
        if "eaderEpoch" in key and isinstance(value, int) and value >= 0:
            return "<epoch>"
        if key.endswith("Message") and value is not None:
            return "<text>"
        if isinstance(value, int) and value > 1_750_000_000_000:
            return "<now>"
        return value

    def name_of(self, value):
        if value == NO_ID:
            return value
        return f"<{self.names[value]}>" if value in self.names else UUID.sub("<uuid>", value) if "-" in value else "<uuid>"


def differences(kafka, ours, path=""):
    """(path, Kafka's, ours) of all that differs."""
    if isinstance(kafka, dict) and isinstance(ours, dict):
        for name in sorted(kafka.keys() | ours.keys()):
            yield from differences(kafka.get(name, "nothing"), ours.get(name, "nothing"), f"{path}.{name}")
    elif isinstance(kafka, list) and isinstance(ours, list):
        # Rows that have a name are held against their namesakes.
        index = ({row_name(row, i): row for i, row in enumerate(rows)} for rows in (kafka, ours))
        kafka, ours = index
        for name in sorted(kafka.keys() | ours.keys(), key=str):
            yield from differences(kafka.get(name, "nothing"), ours.get(name, "nothing"), f"{path}[{name}]")
    elif kafka != ours:
        yield path, kafka, ours


def row_name(row, i):
    for key in ("apiKey", "name", "topicName", "topic", "groupId", "partitionIndex", "partition", "index", "resourceName", "brokerId"):
        if isinstance(row, dict) and row.get(key) not in (None, ""):
            return row[key]
    return i


class Meant:
    """The differences that are meant: request and field as regular expressions, and why."""

    def __init__(self, path):
        rows = [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]
        self.rows = [(re.compile(request), re.compile(field), why) for request, field, why in rows]
        self.met = set()

    def why(self, request, field):
        for i, (requests, fields, why) in enumerate(self.rows):
            if requests.search(request) and fields.search(field):
                self.met.add(i)
                return why
        return None

    def unmet(self):
        return [f"{r.pattern} {f.pattern}" for i, (r, f, _) in enumerate(self.rows) if i not in self.met]


def texts(name, kafka, ours):
    """Texts that differ, for a look."""
    for path, one, other in differences(kafka, ours):
        if path.endswith("Message") and one != other:
            print(f"text  {name} {path}\n      Kafka: {one}\n      ours:  {other}")


def compare(kafka, ours, show_texts):
    meant, same, known, wrong = Meant(DIFFERENCES), 0, 0, 0
    alike = Alike(kafka), Alike(ours)
    for name in [*kafka.booked, *(n for n in ours.booked if n not in kafka.booked)]:
        answers = [peer.booked.get(name, "not asked") for peer in (kafka, ours)]
        if show_texts:
            texts(name, *answers)
        found = list(differences(*(one(answer) for one, answer in zip(alike, answers))))
        unknown = [(path, *values) for path, *values in found if meant.why(name, path) is None]
        same, known, wrong = same + (not found), known + bool(found and not unknown), wrong + bool(unknown)
        for path, one, other in unknown:
            print(f"DIFFERS {name} {path}: Kafka {brief(one)}, ours {brief(other)}", flush=True)
    for row in meant.unmet():
        print(f"no longer met: {row}")
    print(f"{len(kafka.booked)} requests: {same} answered the same, {known} otherwise as listed, {wrong} otherwise")
    print(f"{same + known} passed, {wrong} failed")
    return 1 if wrong else 0


def brief(value):
    text = json.dumps(value, default=str)
    return text if len(text) < 200 else text[:200] + "…"


def converse(address, schemas):
    peer = Peer(address, schemas)
    dialogue.speak(peer)
    return peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    parser.add_argument("--tidemark", default=target / "debug" / "tidemark", help="the broker's binary")
    parser.add_argument("--kafka", help="HOST:PORT of a fresh Apache Kafka; by default one is started")
    parser.add_argument("--built", type=Path, default=target / "compat", help="where Kafka's jars are kept")
    parser.add_argument("--texts", action="store_true", help="show texts that differ too")
    args = parser.parse_args()
    java(args.built.absolute())
    schemas = Schemas(args.built / "java" / "jars")
    peers = []
    with tempfile.TemporaryDirectory(prefix="tidemark-differential-") as directory:
        settings = {**SETTINGS, **SAME}
        theirs = None if args.kafka else ApacheKafka(args.built.absolute() / "java", directory, settings)
        ours = Broker(args.tidemark, 1, Bucket.directory(Path(directory) / "bucket"), directory, settings)
        for broker in (theirs, ours):
            try:
                if broker:
                    broker.start()
                peers.append(converse(broker.address if broker else args.kafka, schemas))
            except Trouble as trouble:
                sys.exit(f"differential: {trouble}")
            finally:
                if broker:
                    broker.end()
    return compare(*peers, args.texts)


if __name__ == "__main__":
    sys.exit(main())
