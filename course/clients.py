"""Which program is behind the address of a client of Redis: what Redis itself doesn't know."""

import base64
import json
import os
from contextlib import suppress
from pathlib import Path

from course.environment import command_output

ESTABLISHED = "01"


def find_sockets(port):
    """Return the names that /proc gives to the open sockets of a local TCP port.

    There may be several: connections to different servers may share a port.
    """
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        is_open = fields[3] == ESTABLISHED
        if is_open and int(fields[1].rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{fields[9]}]")
    return sockets


def read_links(folder):
    """Return what the links of a folder name, as far as they can be read."""
    targets = set()
    with suppress(OSError):  # another user's process, or one that has ended
        for path in folder.iterdir():
            with suppress(OSError):  # a file that has been closed
                targets.add(os.readlink(path))
    return targets


def find_pids(port):
    """Return the PIDs of the local processes that have a socket of a TCP port."""
    if not Path("/proc/net/tcp").exists():
        listed = command_output("lsof", "-nP", "-t", f"-iTCP:{port}") or ""
        return [int(pid) for pid in listed.split()]
    sockets = find_sockets(port)
    pids = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        if sockets & read_links(folder):
            pids.append(int(folder.parent.name))
    return pids


class Clients:
    """The clients of a Redis server, by their addresses."""

    def __init__(self):
        self.names = {}  # of workers, by PID, from their heartbeats
        self.pids = {}  # by address
        self.workers = set()  # addresses that have taken messages

    def hear(self, text):
        """Learn the name and PID of a worker from its heartbeat's JSON text."""
        with suppress(ValueError, TypeError, LookupError):
            body = json.loads(base64.b64decode(json.loads(text)["body"]))
            self.names[int(body["pid"])] = str(body["hostname"])

    def find_pids(self, address):
        """Return the PIDs of the local processes behind an address."""
        if not self.pids.get(address) and address.startswith("127."):
            self.pids[address] = find_pids(int(address.rpartition(":")[2]))
        return self.pids.get(address, [])

    def find_name(self, address):
        """Return the name of the worker behind an address, or None if it isn't known."""
        for pid in self.find_pids(address):
            if pid in self.names:
                return self.names[pid]
        return None

    def find_kind(self, address):
        """Return "worker", or "prompt" if another program of this machine is behind an address."""
        if address in self.workers or not address.startswith("127."):
            return "worker"
        for pid in self.find_pids(address):
            command = command_output("ps", "-o", "args=", "-p", str(pid)) or ""
            if " worker" in command:
                return "worker"
        return "prompt"
