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
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, thing):
        self.send(f"+{thing}")

    def forget(self, thing):
        self.send(f"-{thing}")

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def reap():
    things = {}
    for line in sys.stdin:
        sign, thing = line[0], line[1:].strip()
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
