"""A client of the matrix: a program that reads a request a line and answers a line (README.md has the protocol)."""
import json
import os
import queue
import signal
import subprocess
import threading
import time

from world import Trouble

PATIENCE_S = 60


class Refused(Trouble):
    """An error that the client's library reported, with Kafka's code where it gave one."""

    def __init__(self, code, message):
        super().__init__(f"{message} (code {code})")
        self.code = code


class Program:
    """The client's process. What it says on standard error goes into a file."""

    def __init__(self, command, log):
        self.command, self.log = [str(part) for part in command], log
        with open(log, "ab") as said:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, bufsize=1
            )
        self.answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.answers.put(json.loads(line))
            except ValueError:
                pass  # a library that prints
        self.answers.put(None)

    def next(self, patience=PATIENCE_S):
        try:
            answer = self.answers.get(timeout=patience)
        except queue.Empty:
            raise Trouble(f"no answer within {patience} s") from None
        if answer is None:
            self.answers.put(None)
            with open(self.log, encoding="utf-8", errors="replace") as log:
                said = " / ".join(log.read().strip().splitlines()[-3:])
            raise Trouble(f"the client ended with code {self.process.wait()}: {said}")
        return answer

    def send(self, op, **arguments):
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError:
            self.next(1)  # says how it ended

    def ask(self, op, **arguments):
        self.send(op, **arguments)
        try:
            answer = self.next()
        except Trouble as trouble:
            self.end()  # a late answer must not be taken for the next one's
            raise Trouble(f"{op}: {trouble}") from None
        if "ok" in answer:
            return answer["ok"]
        raise Refused(answer["error"], answer["message"])

    def end(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                pass


class Client:
    """A client with a name, and what it said of itself. Its program is started again when it had to be ended."""

    def __init__(self, name, command, logs):
        self.name, self.command, self.logs = name, command, logs
        self.program = None
        self.hello = self.ask("hello")

    def ask(self, op, **arguments):
        if self.program is None or self.program.process.poll() is not None:
            self.program = Program(self.command, os.path.join(self.logs, f"{self.name}.log"))
        return self.program.ask(op, **arguments)

    def can(self, op):
        return op in self.hello["ops"]

    def member(self, **arguments):
        return Member(Program(self.command, os.path.join(self.logs, f"{self.name}-member.log")), arguments)

    def end(self):
        if self.program:
            self.program.end()


class Member:
    """A program that is a member of a group until it is told to leave, or killed."""

    def __init__(self, program, arguments):
        self.program = program
        self.assigned, self.read, self.events = [], [], 0
        program.send("member", **arguments)

    def take(self):
        """What the member said since."""
        while not self.program.answers.empty():
            event = self.program.next(1)
            if "error" in event:
                raise Refused(event["error"], event["message"])
            if event.get("event") == "assigned":
                self.assigned, self.events = event["partitions"], self.events + 1
            elif event.get("event") == "read":
                self.read += event["keys"]

    def leave(self):
        """Leaves the group and ends."""
        self.program.send("leave")
        try:
            self.program.process.wait(20)
        except subprocess.TimeoutExpired:
            raise Trouble("a member did not leave within 20 s") from None
        finally:
            self.program.end()

    def kill(self):
        self.program.end(signal.SIGKILL)


def settle(members, partitions, patience=40):
    """Waits until every partition has one of the members, and every member a partition."""
    deadline = time.monotonic() + patience
    while True:
        for member in members:
            member.take()
        held = sorted(p for member in members for p in member.assigned)
        if held == list(range(partitions)) and all(member.assigned for member in members):
            return
        if time.monotonic() > deadline:
            raise Trouble(f"after {patience} s the members held {[member.assigned for member in members]}")
        time.sleep(0.02)
