#!/usr/bin/env python3
"""Has Apache Kafka's own kafka-dump-log read segments as Tidemark writes them (tiering/FORMAT.md).

  segments.py [FOLDER…] [--built DIR]     each folder holds `.log`, `.indexes` and `.rsm-manifest` of segments, or
                                          Kafka's own files; without one, the kept segment of tiering/testdata

The log is read record by record; the indexes are cut out of their object by the manifest, checked against the log, and
checked for sanity; snapshot and transaction index are decoded. Kafka's jars are fetched once into DIR.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parents[2] / "tiering" / "testdata" / "v1" / "segment"
FILES = {"offset": "index", "timestamp": "timeindex", "producerSnapshot": "snapshot", "transaction": "txnindex"}
COMPLAINTS = re.compile(r"mismatch|corrupt|Exception|Found|not valid|isvalid: false", re.IGNORECASE)


def unpack(folder, into):
    """Kafka's files of every segment in the folder, named as Kafka names them."""
    logs = []
    for log in sorted(folder.rglob("*.log")):
        base = re.match(r"\d{20}", log.name)
        if not base:
            continue
        # Two segments may begin at the same offset: each has a place of its own.
        place = into / f"segment-{len(logs)}"
        place.mkdir()
        shutil.copy(log, place / f"{base[0]}.log")
        manifest = log.with_suffix(".rsm-manifest")
        if manifest.exists():
            said = json.loads(manifest.read_text())
            whole = log.with_suffix(".indexes").read_bytes()
            for name, at in said["segmentIndexes"].items():
                if at and name in FILES:
                    part = whole[at["position"]:at["position"] + at["size"]]
                    (place / f"{base[0]}.{FILES[name]}").write_bytes(part)
        else:
            for extension in FILES.values():
                if log.with_suffix(f".{extension}").exists():
                    shutil.copy(log.with_suffix(f".{extension}"), place)
        logs.append(place / f"{base[0]}.log")
    return logs


class Tool:
    def __init__(self, built):
        self.jars = built / "java"
        subprocess.run([HERE / "java" / "kafka-jars", self.jars], check=True)

    def dump(self, file, *arguments):
        command = [HERE / "java" / "kafka-tool", self.jars, "kafka-dump-log", "--files", file, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    parser.add_argument("--built", type=Path, default=target / "compat", help="where Kafka's jars are kept")
    options = parser.parse_args()
    tool, passed, failed = Tool(options.built), 0, 0

    def check(what, file, *arguments, expect=None):
        nonlocal passed, failed
        code, text = tool.dump(file, *arguments)
        complaint = next((line for line in text.splitlines() if COMPLAINTS.search(line)), None)
        wrong = f"exit code {code}: {text[-300:]}" if code else complaint
        if not wrong and expect and not re.search(expect, text):
            wrong = f"no line has {expect}"
        passed, failed = passed + (not wrong), failed + bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {what}{': ' + wrong if wrong else ''}", flush=True)
        return text

    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(options.folders or [KEPT]):
            into = Path(scratch) / str(number)
            into.mkdir()
            logs = unpack(folder, into)
            if not logs:
                print(f"FAIL {folder} holds no segment")
                failed += 1
            for log in logs:
                name = log.name
                text = check(f"{name}, record by record", log, "--deep-iteration", expect=r"baseOffset: ")
                offsets = [int(offset) for offset in re.findall(r"^\| offset: (\d+)", text, re.MULTILINE)]
                in_order = offsets == sorted(set(offsets)) and offsets
                passed, failed = passed + bool(in_order), failed + (not in_order)
                print(f"{'ok  ' if in_order else 'FAIL'} {len(offsets)} records, offsets rise", flush=True)
                for extension in ["index", "timeindex"]:
                    file = log.with_suffix(f".{extension}")
                    if file.exists() and file.stat().st_size:
                        check(f"{file.name}, against the log", file)
                        check(f"{file.name}, for sanity", file, "--index-sanity-check", expect="passed sanity check")
                for extension, expect in [("snapshot", None), ("txnindex", "producerId")]:
                    file = log.with_suffix(f".{extension}")
                    if file.exists():
                        check(file.name, file, expect=expect)
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
