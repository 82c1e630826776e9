"""Ends what the tests started once they are gone, in whatever way: Ctrl-C, SIGKILL, a closed terminal.

The tests name each process group that they start; this process waits for the end of its stdin,
which comes when the tests end, and kills the groups that are left.
"""

import os
import signal
import subprocess
import sys


class Keeper:
    """The side of the tests."""

    def __init__(self):
        # In a session of its own, where Ctrl-C does not reach it.
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, group):
        self.send(f"+{group}")

    def forget(self, group):
        self.send(f"-{group}")

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def keep():
    groups = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    keep()
