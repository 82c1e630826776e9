"""A plugin of pytest that runs the steps of a chapter on a learner's attempt, and reports each on a pipe."""

import os
import sys
from multiprocessing.connection import Connection

from course.chapters import ROOT


class Steps:
    """The plugin."""

    def __init__(self, pipe):
        self.send, self.last = Connection(pipe, readable=False).send, {}

    def pytest_collection_modifyitems(self, items):
        steps = {}
        items[:] = [item for item in items if item.get_closest_marker("step")]
        for item in items:
            text, anchor = item.get_closest_marker("step").args
            steps[text] = (anchor, " ".join(item.function.__doc__.split()))
            self.last[text] = item.nodeid
        self.send([(f"{at}. {text}", *steps[text]) for at, text in enumerate(steps, 1)])

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.send(str(report.longrepr)[:1000])
        elif report.when == "call" and report.nodeid in self.last.values():
            self.send("")


def run_steps(number, pipe):
    import pytest

    os.chdir(ROOT)
    options = ["-s", "-o", "addopts=", "--assert=plain", "-x", f"--chapter={number}"]
    options += [f"-pno:{plugin}" for plugin in ("valkey", "xdist", "cacheprovider", "terminal")]
    sys.exit(pytest.main(options, plugins=[Steps(int(pipe))]))
