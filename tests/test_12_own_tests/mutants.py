"""Run pytest in each of these folders, a few at a time: mutants.py SECONDS FOLDER...

The folders are copies of a folder whose tests are graded; each copy has a bug. A run is forked from
this process, because importing pytest and Celery takes longer than such tests. A run ends at its
first failure, or at a test that takes longer than these seconds. The file `outcome` beside its
folder has the tests that passed, the one that failed, and why.
"""

import gc
import json
import os
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path

# Runs need these modules. None of them reads the environment or starts a thread.
import celery.worker.consumer  # noqa: F401
import kombu.transport.memory  # noqa: F401
import pytest
from celery.app.backends import by_name

by_name("cache")  # this looks for the backends of other packages, too
for plugin in entry_points(group="pytest11"):
    plugin.load()

RUNS_AT_A_TIME = (os.cpu_count() or 1) + 1
OPTIONS = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


class Outcome:
    """The plugin that writes a run's file `outcome`."""

    def __init__(self, path, seconds=0):
        self.path = path
        self.seconds = seconds
        self.passed = []
        self.running = "pytest"

    def limit(self):
        """Start to count the seconds that a test may take."""
        signal.signal(signal.SIGALRM, self.stop)
        signal.alarm(self.seconds)

    def stop(self, *_):
        self.write(self.running, f"it didn't end within {self.seconds} seconds")
        os._exit(1)

    def pytest_runtest_logstart(self, nodeid):
        self.running = nodeid
        self.limit()

    def write(self, failed="", why=""):
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"passed": self.passed, "failed": failed, "why": why}))
        new.rename(self.path)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.write(report.nodeid, first_line(report))
            os._exit(1)  # doesn't wait for a worker
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report):
        self.pytest_runtest_logreport(report)


def first_line(report):
    """Return the line of a failure that says what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext
    if crash:
        text = crash.message
    lines = text.splitlines() or [""]
    for line in lines:
        if line.startswith("E "):
            return line[2:].strip()
    return lines[0]


def run(folder, seconds):
    """Run the tests of a folder in this process, and exit."""
    os.chdir(folder)
    with (folder.parent / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    outcome = Outcome(folder.parent / "outcome", seconds)
    outcome.limit()
    status = pytest.main([*OPTIONS, f"--basetemp={folder.parent / 'temp'}"], plugins=[outcome])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        outcome.write()
    os._exit(status)


def write_missing_outcome(folder):
    """Write the outcome of a run that has ended without writing it."""
    path = folder.parent / "outcome"
    if path.exists():
        return
    printed = [line for line in (folder.parent / "log").read_text().split("\n") if line.strip()]
    if printed:
        why = printed[-1]
    else:
        why = "it printed nothing"
    Outcome(path).write("pytest", why)


def main(seconds, *folders):
    """Run the tests in these folders; each test may take these seconds."""
    del sys.path[0]  # the tests must not import modules from this folder
    gc.freeze()  # pytest collects garbage when it ends: not among what is imported here
    waiting = [Path(folder).resolve() for folder in folders]
    running = {}
    while waiting or running:
        while waiting and len(running) < RUNS_AT_A_TIME:
            folder = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                run(folder, int(seconds))
            running[pid] = folder
        pid, _ = os.wait()
        write_missing_outcome(running.pop(pid))


if __name__ == "__main__":
    main(*sys.argv[1:])
