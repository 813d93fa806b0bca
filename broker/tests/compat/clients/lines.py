"""The Python clients' side of the line protocol (see ../README.md): a request a line in, an answer a line out."""
import json
import queue
import sys
import threading
import traceback
import zlib


def value_of(key, i, size=None):
    return b"x" * size if size is not None else (key + "|" + "x" * (i * 37 % 1000)).encode()


def row(partition, offset, key, value, timestamp=-1):
    """A record as the driver wants it."""
    return [partition, offset, key.decode() if key else "", zlib.crc32(value or b""), timestamp]


def emit(event):
    print(json.dumps(event), flush=True)


class Requests:
    """Requests from the driver; reading them never blocks a member that polls."""

    def __init__(self):
        self.queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin:
            self.queue.put(json.loads(line))
        self.queue.put(None)

    def next(self):
        return self.queue.get()

    def leaving(self):
        """Whether a member was asked to leave, or nobody listens any more."""
        return not self.queue.empty()


class Membership:
    """Tells the driver of a member's assignment when it changes, and of what was read."""

    def __init__(self):
        self.last = None

    def assigned(self, partitions):
        partitions = sorted(partitions)
        if partitions != self.last:
            self.last = partitions
            emit({"event": "assigned", "partitions": partitions})

    def read(self, keys):
        if keys:
            emit({"event": "read", "keys": keys})


def serve(client, code_of):
    """Answers requests with the methods of `client`. `code_of` gives Kafka's error code of an exception, or None."""
    requests = Requests()
    client.requests = requests
    while (request := requests.next()) is not None:
        op = request.pop("op")
        try:
            emit({"ok": getattr(client, op)(**request) or {}})
        except Exception as error:  # whatever a library throws is what the driver wants to see
            traceback.print_exc()
            emit({"error": code_of(error), "message": f"{type(error).__name__}: {error}"})


def operations(client):
    return [name for name in dir(client) if not name.startswith("_") and callable(getattr(client, name))]
