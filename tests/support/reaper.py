"""Ends what the tests have started when they end, even by Ctrl-C, SIGKILL or a closed terminal.

The tests name what they start: sessions and groups of processes by their number, containers and
networks by the command that removes them. A process of its own waits for the end of its stdin,
which comes when the tests end, and ends what is left.
"""

import contextlib
import os
import subprocess
import sys
import time

import psutil

REMOVAL_ATTEMPTS = 20


class Reaper:
    """The process that ends things, as the tests see it."""

    def __init__(self):
        # In a session of its own, it doesn't receive Ctrl-C.
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, thing):
        """End this when the tests end: a number, or a command that removes it."""
        print("+", thing, file=self.process.stdin, flush=True)

    def forget(self, thing):
        """Don't end this: it is gone."""
        print("-", thing, file=self.process.stdin, flush=True)

    def close(self):
        """End what is left, and wait for it."""
        self.process.communicate()


def read_things():
    """Read what the tests start and forget until they end; return what is left."""
    things = []
    for line in sys.stdin:
        sign, _, thing = line.strip().partition(" ")
        if thing in things:
            things.remove(thing)
        if sign == "+":
            things.append(thing)
    return things


def find_processes(number):
    """Return the processes in the session or the group of this number, without zombies.

    A shell gives each command that is typed in it a group of its own, in the shell's session.
    """
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):  # it has just ended
            numbers = os.getsid(process.pid), os.getpgid(process.pid)
            if number in numbers and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_processes(number):
    """Kill the processes of a session or group, and those that they start meanwhile."""
    while found := find_processes(number):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


def end(thing):
    """End the processes of a session, or run the command that removes something else."""
    if thing.isdigit():
        kill_processes(int(thing))
        return
    # When the tests were interrupted, it may still have been in the making.
    for _ in range(REMOVAL_ATTEMPTS):
        done = subprocess.run(thing.split(), check=False, capture_output=True)
        if done.returncode == 0:
            return
        time.sleep(1)


if __name__ == "__main__":
    # The last first: a network can be removed once its containers are gone.
    for thing in reversed(read_things()):
        end(thing)
