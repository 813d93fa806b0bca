"""The clients of the matrix: how each is made ready and started. One that cannot be had here is absent, and says why."""
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from world import HERE

CLIENTS = HERE / "clients"
INSTALL_S = 900


class Absent(Exception):
    """Why a client cannot be had here."""


def run(what, command, directory=None):
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=directory, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(f"{what}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["failed"]
        raise Absent(f"{what}: {' / '.join(said[-2:])}")


def program(name, install):
    """The tool that makes a client ready must be on the machine."""
    if shutil.which(name) is None:
        raise Absent(f"there is no `{name}` on this machine")
    return install


def python(file, package, module):
    def ready(_built):
        if importlib.util.find_spec(module) is None:
            raise Absent(f"pip install {package}")
        return [sys.executable, CLIENTS / file]

    return ready


def java(built):
    program("mvn", None)
    run("kafka-jars", [HERE / "java" / "kafka-jars", built / "java"])
    return [HERE / "java" / "kafka-tool", built / "java", "MatrixClient"]


def go(name):
    def ready(built):
        program("go", None)
        run(f"go build {name}", ["go", "build", "-o", built / "go" / name, f"./{name}"], CLIENTS / "go")
        return [built / "go" / name]

    return ready


def kafkajs(built):
    """npm installs beside a copy, so that the sources stay as they are."""
    program("npm", None)
    copy = Path(built) / "kafkajs"
    copy.mkdir(parents=True, exist_ok=True)
    for file in (CLIENTS / "kafkajs").iterdir():
        if not (copy / file.name).exists() or (copy / file.name).read_bytes() != file.read_bytes():
            shutil.copy(file, copy / file.name)
            (copy / "installed").unlink(missing_ok=True)
    if not (copy / "installed").exists():
        run("npm ci", ["npm", "ci", "--no-audit", "--no-fund"], copy)
        (copy / "installed").touch()
    return ["node", copy / "client.js"]


def rust(name):
    """Outside the workspace: its libraries are no concern of ours."""
    def ready(built):
        program("cargo", None)
        build = ["cargo", "build", "--locked", "--target-dir", built / "rust", "--bin", name]
        run(f"cargo build {name}", build, CLIENTS / "rust")
        return [built / "rust" / "debug" / name]

    return ready


# Name → what makes it ready; after an @, the protocol version the client is told to speak.
ROSTER = {
    "java": java,
    "confluent": python("confluent.py", "confluent-kafka", "confluent_kafka"),
    "kafka-python": python("kafka_python.py", "kafka-python", "kafka"),
    "aiokafka": python("aio_kafka.py", "aiokafka cramjam", "aiokafka"),
    "franz-go": go("franz-go"),
    "sarama@2.1.0": go("sarama"),
    "sarama@2.8.0": go("sarama"),
    "sarama@4.3.1": go("sarama"),
    "kafka-go": go("kafka-go"),
    "kafkajs": kafkajs,
    "rdkafka": rust("rdkafka"),
    "rskafka": rust("rskafka"),
}


def command_of(name, built, bootstrap):
    """Makes the client ready; gives the command that starts it."""
    _, _, version = name.partition("@")
    return [*ROSTER[name](built), bootstrap, *([version] if version else [])]
