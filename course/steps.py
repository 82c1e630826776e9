"""A plugin of pytest that runs the steps of a chapter on a learner's attempt and reports on a pipe.

Each report is a dict; its "what" is steps (the list), begin, passed or failed. A failed step ends
the run, a failed star step doesn't.
"""

import os
import sys
from multiprocessing.connection import Connection

from course.chapters import ROOT
from course.waiting import STEP_SECONDS


def describe_step(item, marker):
    """Return what a check shows of a step."""
    text, anchor = marker.args
    hint = " ".join((item.function.__doc__ or "").split())
    return {"text": text, "anchor": anchor, "hint": hint}


class Steps:
    """The plugin."""

    def __init__(self, pipe):
        self.pipe = Connection(pipe, readable=False)
        self.steps = {}  # each test's step, by its node id; a step may have several tests
        self.last_tests = {}  # by the step's text
        self.patience = {}  # seconds, by node id
        self.stars = set()  # texts
        self.begun = set()
        self.failed = set()

    def pytest_collection_modifyitems(self, session, items):
        """Keep the steps in their order, and the star steps after them."""
        numbered = []
        starred = []
        for item in items:
            patient = item.get_closest_marker("patient")
            if patient:
                self.patience[item.nodeid] = patient.args[0]
            if item.get_closest_marker("step"):
                self.steps[item.nodeid] = describe_step(item, item.get_closest_marker("step"))
                numbered.append(item)
            elif item.get_closest_marker("star"):
                self.steps[item.nodeid] = describe_step(item, item.get_closest_marker("star"))
                self.stars.add(self.steps[item.nodeid]["text"])
                starred.append(item)
        items[:] = numbered + starred
        self.session = session
        self.send_steps(items)

    def send_steps(self, items):
        shown = {}
        number = 0
        for item in items:
            step = self.steps[item.nodeid]
            self.last_tests[step["text"]] = item.nodeid
            if step["text"] in shown:
                continue
            is_star = step["text"] in self.stars
            name = f"★ {step['text']}"
            if not is_star:
                number += 1
                name = f"{number}. {step['text']}"
            shown[step["text"]] = {**step, "name": name, "star": is_star}
        self.pipe.send({"what": "steps", "steps": list(shown.values())})

    def pytest_runtest_logstart(self, nodeid):
        text = self.steps[nodeid]["text"]
        if text not in self.begun:
            self.begun.add(text)
            self.pipe.send({"what": "begin", "seconds": self.patience.get(nodeid, STEP_SECONDS)})

    def pytest_runtest_logreport(self, report):
        text = self.steps[report.nodeid]["text"]
        if text in self.failed:
            return
        if report.failed:
            self.failed.add(text)
            self.pipe.send({"what": "failed", "sentence": str(report.longrepr)[:1000]})
            if text not in self.stars:
                self.session.shouldstop = "a step failed"
        elif report.nodeid == self.last_tests[text] and is_result(report):
            self.pipe.send({"what": "passed"})


def is_result(report):
    """Return whether a report is the one that decides a test that hasn't failed."""
    return report.when == "call" or (report.when == "setup" and report.skipped)


def run_steps(number, pipe):
    """Run the steps of a chapter on the folder that DIR names; exit with pytest's status."""
    import pytest

    os.chdir(ROOT)
    options = ["-s", "-o", "addopts=", "--assert=plain", f"--chapter={number}"]
    for plugin in ("valkey", "xdist", "cacheprovider", "terminal"):
        options += ["-p", f"no:{plugin}"]
    sys.exit(pytest.main(options, plugins=[Steps(int(pipe))]))
