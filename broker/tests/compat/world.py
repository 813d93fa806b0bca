"""What the compatibility scripts run: brokers, buckets, an S3 server, the fault proxy. Every process started here is
ended here, by its own id.

  world.py s3 COMMAND…      runs a command beside a fresh S3 server, named to it in TIDEMARK_TEST_S3
"""
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
S3_KEY, S3_SECRET, S3_BUCKET, S3_REGION = "tidemark", "tidemark-secret", "tidemark", "us-east-1"
CLUSTER_ID = "MatrixMatrixMatrixMatr"  # of Apache Kafka; 22 letters are an id


class Trouble(Exception):
    """A sentence for the user."""


def free_port(tries=200):
    """A port that is free now, and so are the ones an S3 server takes beside it and 10000 above."""
    for _ in range(tries):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        beside = [p for i in range(4) for p in (port + i, port + 10_000 + i)]
        if port < 50_000 and all(map(port_is_free, beside)):
            return port
    raise Trouble("no free port was found")


def port_is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def wait_for(what, ready, seconds, alive=lambda: True):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive():
            raise Trouble(f"{what} ended while it was waited for")
        if ready():
            return
        time.sleep(0.02)
    raise Trouble(f"{what} was not ready in {seconds} s")


class Child:
    """A process with its output in a file."""

    def __init__(self, name, command, log, env=None):
        self.name, self.log = name, Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
            )

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def end(self, how=signal.SIGTERM, patience=20):
        """Ends it; gives its exit code. A process that ignores `how` is killed, and that is an error."""
        if self.alive():
            self.process.send_signal(how)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Trouble(f"{self.name} did not end within {patience} s of signal {how}") from None

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class S3:
    """A real S3 server on a free port, with our bucket in it."""

    def __init__(self, directory):
        self.port = free_port()
        self.server = Child("the S3 server", [HERE / "s3-server", directory, self.port], Path(directory) / "s3.log")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        wait_for("the S3 server", self._make_bucket, 60, self.server.alive)

    def _make_bucket(self):
        try:
            return put_bucket(self.port) in (200, 409)
        except OSError:
            return False

    def end(self):
        self.server.end(signal.SIGKILL)


def put_bucket(port):
    """One signed request (AWS Signature Version 4): all that is needed of S3 here."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    empty, host = hashlib.sha256(b"").hexdigest(), f"127.0.0.1:{port}"
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": now}
    names = ";".join(headers)
    canonical = "\n".join(
        ["PUT", f"/{S3_BUCKET}", "", *(f"{k}:{v}" for k, v in headers.items()), "", names, empty]
    )
    scope = f"{now[:8]}/{S3_REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + S3_SECRET).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={S3_KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("PUT", f"/{S3_BUCKET}", body=b"", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


class Proxy:
    """The fault proxy of tidemark-bench before a store."""

    def __init__(self, binary, upstream, directory, seed, listen="127.0.0.1:0"):
        log = Path(directory) / "proxy.log"
        command = [binary, "proxy", "--upstream", upstream, "--seed", seed, "--listen", listen]
        self.child = Child("the fault proxy", command, log)
        wait_for("the fault proxy", lambda: "control http://" in log.read_text(), 10, self.child.alive)
        words = log.read_text().split()
        self.endpoint, self.control = words[1], words[-1].removeprefix("http://")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.control, timeout=5)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise Trouble(f"the fault proxy refused {body}: {text.decode()}")
        return json.loads(text)

    def faults(self, **faults):
        """Replaces the faults in force."""
        self.ask("PUT", "/faults", faults)

    def counters(self):
        return self.ask("GET", "/counters")

    def end(self):
        self.child.end()


class Bucket:
    """A bucket as brokers are told of it: a directory, or an S3 server with or without the proxy before it."""

    def __init__(self, settings):
        self.settings = settings

    @staticmethod
    def directory(path):
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        return Bucket({"tidemark.bucket": f"file://{path}"})

    @staticmethod
    def s3(endpoint, prefix="cluster"):
        return Bucket({
            "tidemark.bucket": f"s3://{S3_BUCKET}/{prefix}",
            "tidemark.bucket.endpoint": endpoint,
            "tidemark.bucket.region": S3_REGION,
        })


class Broker:
    """One `tidemark serve`, started again as often as wanted on the same port, with its own log.dirs; on this host, or
    on one of `hosts`."""

    def __init__(self, binary, node, bucket, directory, more=None, host=None):
        self.binary, self.node, self.port, self.host = binary, node, free_port(), host
        self.address = f"{host.address if host else '127.0.0.1'}:{self.port}"
        self.directory = Path(directory) / f"broker-{node}"
        self.log = self.directory / "broker.log"
        self.settings = {
            "node.id": node,
            "listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": self.directory / "nvme",
            **({"tidemark.peer.listen": f"{host.address}:0"} if host else {}),
            "tidemark.http.listen": "127.0.0.1:0",
            **bucket.settings,
            **(more or {}),
        }
        self.child = None

    def command(self):
        sets = [part for name, value in self.settings.items() for part in ("--set", f"{name}={value}")]
        return [*(self.host.prefix if self.host else []), self.binary, "serve", *sets]

    def start(self, patience=60, wait=True):
        env = {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
        self.child = Child(f"broker {self.node}", self.command(), self.log, env)
        if wait:
            self.wait_ready(patience)

    def wait_ready(self, patience=60):
        try:
            wait_for(self.child.name, lambda: answers(self.address), patience, self.child.alive)
        except Trouble as trouble:
            raise Trouble(f"{trouble}; the end of {self.log}:\n{self.child.tail()}") from None

    def stop(self):
        """Drains it; anything but exit code 0 is an error."""
        code = self.child.end()
        if code != 0:
            raise Trouble(f"broker {self.node} ended with code {code}; the end of {self.log}:\n{self.child.tail()}")

    def kill(self, wipe=True):
        """kill -9, and its local disk is gone."""
        self.child.end(signal.SIGKILL)
        if wipe:
            shutil.rmtree(self.directory / "nvme", ignore_errors=True)

    def rss_mib(self):
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def end(self):
        if self.child and self.child.alive():
            self.child.end(signal.SIGKILL)


class ApacheKafka:
    """Apache Kafka itself, one node, to hold ours against; started again as often as wanted with its data."""

    SETTINGS = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 10,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 10,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
    }

    def __init__(self, java, directory, more=None):
        self.java, self.port = Path(java), free_port()
        self.directory = Path(directory) / "kafka"
        self.log, self.file = self.directory / "server.log", self.directory / "server.properties"
        self.directory.mkdir(parents=True)
        settings = {
            **self.SETTINGS,
            "controller.quorum.voters": f"1@127.0.0.1:{self.port + 1}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.port + 1}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": self.directory / "data",
            **(more or {}),
        }
        self.file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.child = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def _command(self, main, *arguments):
        return [HERE / "java" / "kafka-tool", self.java, main, *arguments]

    def start(self, patience=120):
        if not (self.directory / "data").exists():
            format_it = Child(
                "Apache Kafka's format",
                self._command("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self.file), self.log,
            )
            if format_it.process.wait(60) != 0:
                raise Trouble(f"Apache Kafka could not be formatted:\n{format_it.tail()}")
        self.child = Child("Apache Kafka", self._command("kafka.Kafka", self.file), self.log)
        wait_for(self.child.name, lambda: answers(self.address), patience, self.child.alive)

    def stop(self):
        """Ends it in good order; its data stays. A JVM that was asked to end says 143."""
        if self.child.end(patience=60) not in (0, 143):
            raise Trouble(f"Apache Kafka ended badly:\n{self.child.tail()}")

    def end(self):
        if self.child and self.child.alive():
            self.child.end(signal.SIGKILL)


def metrics(broker):
    """The broker's metrics: name with labels → value."""
    (at,) = re.findall(r"http://(\S+)/metrics", broker.log.read_text())[-1:]
    text = urllib.request.urlopen(f"http://{at}/metrics", timeout=10).read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def total(found, name, *labels):
    """The sum over a metric's values whose labels hold all of these."""
    return sum(v for key, v in found.items() if key.split("{")[0] == name and all(label in key for label in labels))


def answers(address):
    """Whether a Kafka broker answers ApiVersions there."""
    host, _, port = address.rpartition(":")
    request = bytes.fromhex("0000000f 0012 0000 00000001 0005") + b"smoke"
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            connection.settimeout(2)
            connection.sendall(request)
            return connection.recv(8)[4:8] == b"\0\0\0\1"
    except OSError:
        return False


def scored(name, run, keep=False, told=""):
    """Runs `run(score, directory, on_end)` in a fresh directory and ends what it started; it gives its brokers, whose logs
    are shown where a check failed. Gives the exit code."""
    directory = Path(tempfile.mkdtemp(prefix=f"tidemark-{name}-"))
    print(f"{told}in {directory}", flush=True)
    score, on_end = Score(), []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        brokers = run(score, directory, on_end)
        if score.failed:
            for broker in brokers:
                print(f"--- the end of {broker.log}\n{broker.child.tail(40) if broker.child else ''}", file=sys.stderr)
    finally:
        for end in reversed(on_end):
            end()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    return score.close()


class Score:
    """Counts checks, prints a table of them and the closing line."""

    def __init__(self):
        self.rows, self.passed, self.failed = [], 0, 0

    def check(self, name, run):
        """Runs one check; its return value is shown, an exception fails it."""
        began = time.monotonic()
        try:
            note, good = run(), True
        except Trouble as trouble:
            note, good = str(trouble), False
        except Exception as error:  # a client library's own, too: the check fails, the others run
            note, good = repr(error), False
        self.add(name, good, note or "", time.monotonic() - began)
        return good

    def add(self, name, good, note="", seconds=0.0):
        self.passed += good
        self.failed += not good
        self.rows.append((name, "ok" if good else "FAILED", f"{seconds:.1f} s", str(note).strip()))
        print(f"{'ok    ' if good else 'FAILED'} {name:<48} {seconds:6.1f} s  {str(note).strip()}", flush=True)

    def close(self):
        """Prints the totals; gives the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "s3":
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="tidemark-s3-") as directory:
        store = S3(directory)
        try:
            named = ",".join([store.endpoint, S3_KEY, S3_SECRET, S3_BUCKET])
            return subprocess.run(sys.argv[2:], env={**os.environ, "TIDEMARK_TEST_S3": named}, check=False).returncode
        finally:
            store.end()


if __name__ == "__main__":
    sys.exit(main())
