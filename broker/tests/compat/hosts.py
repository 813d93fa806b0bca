"""Hosts of their own for brokers, so that the network between any two can be cut: network namespaces on one bridge.

Needs root and iproute2. A host reaches the bucket by the address BUCKET and clients by CLIENTS; a cut is a route to
nowhere at both ends, so that packets vanish as they do in a real network: no refusal, no reset.
"""
import os
import subprocess

from world import Trouble

NET = "10.77.3"
CLIENTS, BUCKET = f"{NET}.1", f"{NET}.2"


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Host:
    """One namespace with one address."""

    def __init__(self, number):
        self.name, self.address = f"tidemark-{os.getpid()}-{number}", f"{NET}.{10 + number}"
        self.outer = f"tm{os.getpid() % 100_000}v{number}"
        self.cuts = set()

    @property
    def prefix(self):
        """What runs a command on this host."""
        return ["ip", "netns", "exec", self.name]

    def up(self, bridge):
        ip("netns", "add", self.name)
        ip("link", "add", self.outer, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.outer, "master", bridge, "up")
        for arguments in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                          ["link", "set", "lo", "up"]):
            ip("-n", self.name, *arguments)

    def down(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def cut(self, address):
        """What it sends to the address goes nowhere, and so does every answer."""
        if address not in self.cuts:
            ip("-n", self.name, "route", "add", "blackhole", f"{address}/32")
            self.cuts.add(address)

    def heal(self, address):
        if address in self.cuts:
            ip("-n", self.name, "route", "del", "blackhole", f"{address}/32")
            self.cuts.discard(address)


class Hosts:
    """A bridge with clients and the bucket on it, and so many hosts."""

    def __init__(self, count):
        self.bridge = f"tm{os.getpid() % 100_000}br"
        self.hosts = [Host(n) for n in range(1, count + 1)]
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            for address in (CLIENTS, BUCKET):
                ip("addr", "add", f"{address}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            for host in self.hosts:
                host.up(self.bridge)
        except Trouble:
            self.end()
            raise

    def apart(self, a, b):
        """The hosts hear one another no more; each still hears everybody else."""
        a.cut(b.address)
        b.cut(a.address)

    def alone(self, host):
        """The host hears nobody: no broker, no client, no bucket."""
        for address in (CLIENTS, BUCKET, *(h.address for h in self.hosts if h is not host)):
            host.cut(address)

    def heal(self):
        for host in self.hosts:
            for address in list(host.cuts):
                host.heal(address)

    def end(self):
        for host in self.hosts:
            host.down()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
