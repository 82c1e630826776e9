"""Ends what the tests started once they are gone, in whatever way: Ctrl-C, SIGKILL, a closed terminal.

The tests name what they start: process groups by number, and Docker's containers and networks by the command that
removes them. This process waits for the end of its stdin, which comes when the tests end, and ends what is left.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time


class Reaper:
    """The side of the tests."""

    def __init__(self):
        # In a session of its own, where Ctrl-C does not reach it.
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, thing, sign="+"):
        print(sign, thing, file=self.process.stdin, flush=True)

    def forget(self, thing):
        self.watch(thing, "-")

    def close(self):
        self.process.communicate()


def reap():
    things = {}
    for line in sys.stdin:
        sign, _, thing = line.strip().partition(" ")
        things.pop(thing, None)
        if sign == "+":
            things[thing] = True
    # The last first: a network can be removed when its containers are.
    for thing in reversed(things):
        if thing.isdigit():
            with contextlib.suppress(OSError):
                os.killpg(int(thing), signal.SIGKILL)
        else:
            # It may still be in the making, when the tests were interrupted then.
            for _ in range(20):
                if not subprocess.run(thing.split(), check=False, capture_output=True).returncode:
                    break
                time.sleep(1)


if __name__ == "__main__":
    reap()
