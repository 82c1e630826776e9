"""Run pytest in each of these folders, a few at a time: mutants.py FOLDER...

The folders are copies of one whose tests are graded, with a bug in each. A run is forked from this process, because it
takes longer to import pytest and Celery than to run such tests. It ends at its first failure, and notes in the file
`outcome` beside its folder which tests passed, which one failed, and why.
"""

import gc
import json
import os
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path

# What the runs need, so that they find it imported. Nothing of this looks at the environment or begins a thread.
import celery.worker.consumer  # noqa: F401
import kombu.transport.memory  # noqa: F401
import pytest
from celery.app.backends import by_name

by_name("cache")  # looks for other packages' backends, too
for plugin in entry_points(group="pytest11"):
    plugin.load()

SECONDS = 60  # that a run may take, on a machine with much else to do
AT_A_TIME = (os.cpu_count() or 1) + 1
OPTIONS = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


class Outcome:
    """The plugin of a run."""

    def __init__(self, path):
        self.path, self.passed = path, []

    def note(self, failed="", why=""):
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"passed": self.passed, "failed": failed, "why": why}))
        new.rename(self.path)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            lines = (crash.message if crash else report.longreprtext).splitlines() or [""]
            self.note(
                report.nodeid,
                next((line[2:].strip() for line in lines if line[:2] == "E "), lines[0]),
            )
            os._exit(1)  # and wait for no worker
        if report.when == "call" and report.passed:
            self.passed.append(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


def run(folder):
    """Run the tests in this process, which ends with them."""
    signal.alarm(SECONDS)
    os.chdir(folder)
    with (folder.parent / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    outcome = Outcome(folder.parent / "outcome")
    status = pytest.main([*OPTIONS, f"--basetemp={folder.parent / 'temp'}"], plugins=[outcome])
    if status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        outcome.note()
    os._exit(status)


def main(*folders):
    del sys.path[0]  # ours: nothing of this course is for the tests to import
    gc.freeze()  # pytest collects garbage when it ends: not in all that is imported here
    waiting, running = [Path(folder).resolve() for folder in folders], {}
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            folder = waiting.pop(0)
            if not (pid := os.fork()):
                run(folder)
            running[pid] = folder
        pid, status = os.wait()
        path = running.pop(pid).parent / "outcome"
        if not path.exists():
            said = path.with_name("log").read_text().split("\n")
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            why = (
                f"it didn't end within {SECONDS} seconds"
                if late
                else next(filter(str.strip, said[::-1]), "it said nothing")
            )
            Outcome(path).note("pytest", why)


if __name__ == "__main__":
    main(*sys.argv[1:])
