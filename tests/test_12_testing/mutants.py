"""Run a folder's tests, and again with each bug: mutants.py REPORTS SECONDS BUG...

pytest collects the tests of the current folder once. Each run is a fork of that process, because
importing Celery and collecting takes longer than such tests. A run ends at its first failure, or at
a test that takes longer than these seconds. For each run, a line of JSON goes to the file
descriptor REPORTS: the bug, what bugs.py says of it, how many tests passed, the test that failed or
"", and why it failed.
"""

import gc
import json
import os
import runpy
import signal
import sys
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pytest
from celery.app.backends import by_name

# What tests import, and a worker when it starts: nothing here reads the environment.
MODULES = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.concurrency.solo",
    "celery.events.receiver",
    "celery.worker.autoscale",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "http.server",
    "kombu.transport.memory",
)
BUGS = Path(__file__).with_name("bugs.py")
RUNS_AT_A_TIME = (os.cpu_count() or 1) + 1
# Forks can't share a file that captures their output. A native traceback takes the least time.
OPTIONS = ["-s", "-n0", "--tb=native", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
REPORTED = 70  # the status of a run that has reported


class Mutants:
    """The plugin."""

    def __init__(self, reports, seconds, bugs):
        self.reports = reports
        self.seconds = seconds
        self.bugs = bugs
        self.plants = {}  # the functions of bugs.py, which need the app
        self.bug = ""  # in this process
        self.passed = 0
        self.running = "pytest"

    # In the first process

    def pytest_runtestloop(self, session):
        """Run the tests in forks of this process."""
        signal.alarm(0)
        gc.freeze()  # a fork that collects garbage would copy all that was imported here
        running = {self.fork(session, ""): ""}
        sys.path.append(os.getcwd())  # bugs.py needs the app, even if no test does
        self.plants = runpy.run_path(str(BUGS))
        for bug in self.bugs:
            if len(running) == RUNS_AT_A_TIME:
                self.wait(running)
            running[self.fork(session, bug)] = bug
        while running:
            self.wait(running)
        return True

    def fork(self, session, bug):
        """Run the tests with a bug in another process; return its id."""
        pid = os.fork()
        if pid == 0:
            self.run(session, bug)
        return pid

    def wait(self, running):
        """Wait until a run has ended."""
        pid, status = os.wait()
        bug = running.pop(pid)
        status = os.waitstatus_to_exitcode(status)
        if status != REPORTED:
            self.report(bug, "a test", f"it ended its process with status {status}")

    # In each process

    def pytest_collectreport(self, report):
        self.pytest_runtest_logreport(report)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.end(report.nodeid, first_line(report))
        if report.when == "call" and report.passed:
            self.passed += 1

    def report(self, bug, failed="", why=""):
        outcome = {"bug": bug, "passed": self.passed, "failed": failed, "why": why[:1000]}
        if bug in self.plants:
            outcome["about"] = " ".join(self.plants[bug].__doc__.split())
        os.write(self.reports, f"{json.dumps(outcome)}\n".encode())

    def end(self, failed="", why=""):
        """Report this run and end its process, without waiting for a worker."""
        self.report(self.bug, failed, why)
        os._exit(REPORTED)

    def limit(self):
        """Begin to count the seconds that a test may take."""
        signal.signal(signal.SIGALRM, self.stop)
        signal.alarm(self.seconds)

    def stop(self, *_):
        self.end(self.running, f"it didn't end within {self.seconds} seconds")

    # In a fork

    def run(self, session, bug):
        """Plant the bug, run the tests, and end the process."""
        self.bug = bug
        temp = Path("../temp", bug or "none").resolve()
        temp.mkdir(parents=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(temp)  # for tmp_path
        try:
            if bug:
                self.plants[bug]()
            for item, next_item in pairwise([*session.items, None]):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=next_item)
            self.end()
        finally:  # only an exception leads here
            self.end(self.running, f"it raised {sys.exception()!r}")

    def pytest_runtest_logstart(self, nodeid):
        self.running = nodeid
        self.limit()


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


def main(reports, seconds, *bugs):
    for name in MODULES:
        import_module(name)
    by_name("cache")  # this looks for the backends of other packages, too
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    del sys.path[0]  # the tests must not import modules from this file's folder
    mutants = Mutants(int(reports), int(seconds), bugs)
    mutants.limit()
    pytest.main(OPTIONS, plugins=[mutants])


if __name__ == "__main__":
    main(*sys.argv[1:])
