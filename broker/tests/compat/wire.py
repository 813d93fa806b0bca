"""Kafka's messages, encoded and decoded by Kafka's own schemas, which the client's jar carries. Every byte of an answer
must be accounted for. Record batches are made and read here too.
"""
import json
import re
import struct
import uuid
import zipfile
from pathlib import Path

COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*')
FIXED = {
    "bool": ">?", "int8": ">b", "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "int64": ">q",
    "float64": ">d",
}
NO_ID = "0" * 32


class Schemas:
    """The schemas of one version of Kafka, by message name."""

    def __init__(self, jars):
        (jar,) = Path(jars).glob("kafka-clients-*.jar")
        self.messages = {}
        with zipfile.ZipFile(jar) as files:
            for name in files.namelist():
                if name.startswith("common/message/") and name.endswith(".json"):
                    text = COMMENT.sub(lambda m: m[1] or "", files.read(name).decode())
                    schema = json.loads(text)
                    self.messages[schema["name"]] = schema
        self.keys = {
            schema["apiKey"]: name.removesuffix("Request")
            for name, schema in self.messages.items() if schema.get("type") == "request"
        }

    def request(self, api):
        return self.messages[f"{api}Request"]

    def versions(self, api):
        low, high = span(self.request(api)["validVersions"])
        return range(low, high + 1)

    def encode_request(self, api, version, body, correlation=1, client="differential"):
        schema = self.request(api)
        flexible = within(version, schema["flexibleVersions"])
        out = Writer()
        out.put(">hhi", schema["apiKey"], version, correlation)
        out.put(">h", len(client)).bytes += client.encode()
        if flexible:
            out.varint(0)
        write_struct(out, schema, body, version, flexible, commons(schema))
        return bytes(out.bytes)

    def decode_response(self, api, version, frame):
        schema = self.messages[f"{api}Response"]
        flexible = within(version, schema["flexibleVersions"])
        reader = Reader(frame)
        reader.take(">i")
        if flexible and api != "ApiVersions":
            reader.tags(None)
        answer = read_struct(reader, schema, version, flexible, commons(schema))
        if reader.at != len(frame):
            raise ValueError(f"{len(frame) - reader.at} bytes are left over")
        return answer


def commons(schema):
    return {common["name"]: common for common in schema.get("commonStructs", [])}


def span(versions):
    if versions == "none":
        return 1, 0
    low, plus, _ = versions.partition("+")
    if plus:
        return int(low), 1 << 15
    low, _, high = versions.partition("-")
    return int(low), int(high or low)


def within(version, versions):
    low, high = span(versions)
    return low <= version <= high


def lower(name):
    return name[0].lower() + name[1:]


def default_of(field, version):
    value, kind = field.get("default"), field["type"]
    if value == "null":
        return None
    if kind.startswith("[]"):
        return []
    if kind in ("string", "bytes"):
        return value or ""
    if kind == "uuid":
        return NO_ID
    if kind == "bool":
        return value in (True, "true")
    if kind == "float64":
        return float(value or 0)
    if kind in FIXED:
        return int(str(value or 0), 0)
    return None if kind == "records" else {}


class Writer:
    def __init__(self):
        self.bytes = bytearray()

    def put(self, form, *values):
        self.bytes += struct.pack(form, *values)
        return self

    def varint(self, value):
        while value > 127:
            self.bytes.append(value & 127 | 128)
            value >>= 7
        self.bytes.append(value)

    def length(self, size, flexible, form):
        if flexible:
            self.varint(0 if size is None else size + 1)
        else:
            self.put(form, -1 if size is None else size)


def write_struct(out, schema, value, version, flexible, shared):
    known = {lower(field["name"]) for field in schema["fields"]}
    if unknown := set(value) - known:
        raise KeyError(f"{schema['name']} has no {unknown}")
    tagged = []
    for field in schema["fields"]:
        if not within(version, field["versions"]):
            continue
        one = value.get(lower(field["name"]), default_of(field, version))
        if "tag" in field and flexible and within(version, field["taggedVersions"]):
            if lower(field["name"]) in value:
                tagged.append((field["tag"], field, one))
        else:
            write_field(out, field, field["type"], one, version, flexible, shared)
    if flexible:
        out.varint(len(tagged))
        for tag, field, one in sorted(tagged, key=lambda t: t[0]):
            inner = Writer()
            write_field(inner, field, field["type"], one, version, True, shared)
            out.varint(tag)
            out.varint(len(inner.bytes))
            out.bytes += inner.bytes


def write_field(out, field, kind, value, version, flexible, shared):
    flexible = flexible and within(version, field.get("flexibleVersions", "0+"))
    if kind in FIXED:
        out.put(FIXED[kind], value)
    elif kind == "uuid":
        out.bytes += bytes.fromhex(value)
    elif kind == "string":
        data = None if value is None else value.encode()
        out.length(None if data is None else len(data), flexible, ">h")
        out.bytes += data or b""
    elif kind in ("bytes", "records"):
        data = None if value is None else value if isinstance(value, bytes) else value.encode()
        out.length(None if data is None else len(data), flexible, ">i")
        out.bytes += data or b""
    elif kind.startswith("[]"):
        out.length(None if value is None else len(value), flexible, ">i")
        for one in value or []:
            write_field(out, {**field, "nullableVersions": "none"}, kind[2:], one, version, flexible, shared)
    else:
        if within(version, field.get("nullableVersions", "none")):
            out.put(">b", -1 if value is None else 1)
        if value is not None:
            write_struct(out, shared.get(kind, field), value, version, flexible, shared)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise ValueError("the answer ends early")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def some(self, size):
        if self.at + size > len(self.data):
            raise ValueError("the answer ends early")
        self.at += size
        return bytes(self.data[self.at - size:self.at])

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(">B")
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def length(self, flexible, form):
        return self.varint() - 1 if flexible else self.take(form)

    def tags(self, known):
        for _ in range(self.varint()):
            tag, size = self.varint(), self.varint()
            data = self.some(size)
            if known is not None:
                known(tag, Reader(data))


def read_struct(reader, schema, version, flexible, shared):
    answer, tagged = {}, {}
    for field in schema["fields"]:
        if not within(version, field["versions"]):
            continue
        if "tag" in field and flexible and within(version, field["taggedVersions"]):
            tagged[field["tag"]] = field
        else:
            answer[lower(field["name"])] = read_field(reader, field, field["type"], version, flexible, shared)

    def known(tag, inner):
        field = tagged.get(tag)
        name = lower(field["name"]) if field else f"tag {tag}"
        answer[name] = read_field(inner, field, field["type"], version, True, shared) if field else inner.data.hex()

    if flexible:
        reader.tags(known)
    return answer


def read_field(reader, field, kind, version, flexible, shared):
    if kind in FIXED:
        return reader.take(FIXED[kind])
    if kind == "uuid":
        return reader.some(16).hex()
    if kind in ("string", "bytes", "records"):
        size = reader.length(flexible, ">h" if kind == "string" else ">i")
        data = None if size < 0 else reader.some(size)
        return data if data is None or kind == "records" else data.decode() if kind == "string" else data.hex()
    if kind.startswith("[]"):
        size = reader.length(flexible, ">i")
        inner = {**field, "nullableVersions": "none"}
        return None if size < 0 else [read_field(reader, inner, kind[2:], version, flexible, shared) for _ in range(size)]
    if within(version, field.get("nullableVersions", "none")) and reader.take(">b") < 0:
        return None
    return read_struct(reader, shared.get(kind, field), version, flexible, shared)


# --- record batches

CRC = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def zigzag(out, value):
    out.varint(value << 1 if value >= 0 else (-value << 1) - 1)


def batch(records, at=1_700_000_000_000, producer=-1, epoch=-1, sequence=-1, attributes=0, magic=2, count=None, crc=None):
    """A batch of (key, value) pairs, a second apart; `count` and `crc` make it a wrong one."""
    body = Writer()
    for i, (key, value) in enumerate(records):
        record = Writer()
        record.put(">b", 0)
        zigzag(record, 1000 * i)
        zigzag(record, i)
        for part in (key, value):
            zigzag(record, -1 if part is None else len(part))
            record.bytes += part or b""
        zigzag(record, 0)
        zigzag(body, len(record.bytes))
        body.bytes += record.bytes
    number = len(records) if count is None else count
    tail = Writer()
    tail.put(">hiqqqhii", attributes, len(records) - 1, at, at + 1000 * (len(records) - 1), producer, epoch, sequence, number)
    tail.bytes += body.bytes
    head = Writer()
    head.put(">qiib", 0, 9 + len(tail.bytes), -1, magic)
    head.put(">I", crc32c(tail.bytes) if crc is None else crc)
    return bytes(head.bytes + tail.bytes)


def batches_in(data):
    """What stands in fetched bytes: each whole batch, without the epoch that brokers write into it."""
    found, at = [], 0
    while at + 61 <= len(data):
        base, size, _, magic, crc = struct.unpack_from(">qiibI", data, at)
        if at + 12 + size > len(data):
            break
        found.append({"base": base, "size": size, "magic": magic, "crc": crc})
        at += 12 + size
    return found


def new_id():
    return uuid.uuid4().hex
