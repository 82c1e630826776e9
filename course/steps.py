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
    seconds = STEP_SECONDS
    patient = item.get_closest_marker("patient")
    if patient:
        seconds = patient.args[0]
    star = marker.name == "star"
    return {"text": text, "anchor": anchor, "hint": hint, "seconds": seconds, "star": star}


class Steps:
    """The plugin."""

    def __init__(self, pipe):
        self.pipe = Connection(pipe, readable=False)
        self.steps = {}  # each test's step, by its node id; a step may have several tests
        self.last_tests = {}  # by the step's text
        self.begun = set()
        self.failed = set()

    def pytest_collection_modifyitems(self, session, items):
        """Keep the steps in their order, and the star steps after them."""
        kept = {"step": [], "star": []}
        for item in items:
            for kind, chosen in kept.items():
                marker = item.get_closest_marker(kind)
                if marker:
                    self.steps[item.nodeid] = describe_step(item, marker)
                    chosen.append(item)
        items[:] = kept["step"] + kept["star"]
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
            name = f"★ {step['text']}"
            if not step["star"]:
                number += 1
                name = f"{number}. {step['text']}"
            shown[step["text"]] = {**step, "name": name}
        self.pipe.send({"what": "steps", "steps": list(shown.values())})

    def pytest_runtest_logstart(self, nodeid):
        step = self.steps[nodeid]
        if step["text"] not in self.begun:
            self.begun.add(step["text"])
            self.pipe.send({"what": "begin", "seconds": step["seconds"]})

    def pytest_runtest_logreport(self, report):
        step = self.steps[report.nodeid]
        text = step["text"]
        if text in self.failed:
            return
        if report.failed:
            self.failed.add(text)
            self.pipe.send({"what": "failed", "sentence": str(report.longrepr)[:1000]})
            if not step["star"]:
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
