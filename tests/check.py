"""Check a learner's attempt step by step, in the lesson's order, up to the first step that fails.

usage: check.py NUMBER [hint | watch]

The steps are the tests that are marked `step`. pytest runs them in a process of its own, where this file is a plugin that
reports on a pipe; whatever the attempt does to that process, the one here survives and says so.
"""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import course

SECONDS = 10  # that a step may take; importing the files may take half of it
# Imports modules, and leaves with a status that no code of an attempt has by chance.
IMPORT = "import importlib, os, sys; [importlib.import_module(name) for name in sys.argv[1:]]; os._exit(66)"
COLOURS = {"✓": 32, "✗": 31, "·": 2}


def import_problem(folder):
    """Return what keeps the attempt's modules from being imported, in a sentence, or None."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*.py"))]
    paths = [path for path in paths if not any(part.startswith((".", "test")) for part in path.parts)]
    if not paths:
        return "This folder should have a Python file, and has none yet."
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    python = subprocess.Popen(
        [course.PROGRAMS / "python", "-c", IMPORT, *sorted(names, key=lambda name: name.count("."))],
        cwd=folder,
        env=course.environment("redis://127.0.0.1:1/0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    # However much it prints, the end is what counts.
    tail = subprocess.Popen(["tail", "-c", "4000"], stdin=python.stderr, stdout=subprocess.PIPE)
    timer = threading.Timer(SECONDS / 2, python.kill)
    timer.start()
    said = tail.communicate()[0].decode(errors="replace")
    status = python.wait()
    timer.cancel()
    if status == 66:
        return None
    if status == -9:
        return f"Importing the files should finish within {SECONDS / 2:.0f} seconds, and didn't: does one of them loop at its top level?"
    error = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    places = re.findall(rf'File "{re.escape(str(folder))}/(.+?)", line (\d+)', said)
    if not places or ": " not in error:
        return f"Importing the files made Python exit (status {status}): does one of them call exit at its top level?"
    return f"{places[-1][0]}, line {places[-1][1]}: {error}"


class Report:
    """The lines that a learner reads."""

    def __init__(self, number, folder):
        self.number, self.folder, self.begin = number, folder, time.monotonic()
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.lesson = course.ROOT / "chapters" / course.chapter(number) / "README.md"
        self.text = self.lesson.read_text()
        self.short = folder.relative_to(course.ROOT) if folder.is_relative_to(course.ROOT) else folder
        print(f"{self.text.partition(chr(10))[0].removeprefix('# ')} · {self.short}\n", flush=True)

    def show(self, mark, text, sentence=None):
        shown = f"\033[{COLOURS[mark]}m{mark}\033[0m" if self.colour else mark
        print(f" {shown} {text}", flush=True)
        for line in (sentence or "").splitlines()[:1]:
            print(f"      {line}", flush=True)

    def failed(self, count, anchor, hint=""):
        print(f"\n{count}{time.monotonic() - self.begin:.1f} s")
        print(f"lesson   {self.lesson.relative_to(course.ROOT)}#{anchor}")
        if hint:
            print(f"hint     {hint}")
        print(f"compare  make chapter-{self.number}-diff DIR={self.short}")
        sys.exit(1)

    def passed(self, steps):
        print(f"\n{steps} of {steps} · {time.monotonic() - self.begin:.1f} s\n\nYou now know:\n")
        print(self.text.partition("## What you now know\n")[2].partition("\n## ")[0].strip())
        after = course.CHAPTERS[course.CHAPTERS.index(course.chapter(self.number)) + 1 :]
        print(f"\nCompare: make chapter-{self.number}-diff DIR={self.short}")
        print(
            f"Next: make chapter-{course.number_of(after[0])}-start"
            if after
            else "That was the last chapter."
        )


def reports(reader):
    """Yield what the steps report, and a sentence where one of them takes too long."""
    unread, seconds = b"", 3 * SECONDS  # the first includes the start
    while select.select([reader], [], [], seconds)[0]:
        if not (more := os.read(reader, 65536)):
            return
        *lines, unread = (unread + more).split(b"\n")
        yield from map(json.loads, lines)
        seconds = SECONDS
    yield f"This step should finish within {seconds} seconds, and didn't: does your code loop, or wait for something?"


def main(number, hint=""):
    folder = course.attempt(number)
    report = Report(number, folder)
    reader, writer = os.pipe()
    env = os.environ | {"DIR": str(folder), "CHECK_PIPE": str(writer)}
    to = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    # The steps get ready while the files are imported for a first time.
    child = subprocess.Popen([sys.executable, __file__, "steps", number], env=env, pass_fds=[writer], **to)
    os.close(writer)
    if problem := import_problem(folder):
        child.kill()
        report.show("✗", "the files can be imported", problem)
        report.failed("", "your-turn")
    report.show("✓", "the files can be imported")
    steps, done, sentence = [], 0, None
    for found in reports(reader):
        if isinstance(found, list):
            steps = found
        elif found is None:
            done += 1
            report.show("✓", f"{done}. {steps[done - 1][0]}")
        else:
            sentence = found
            break
    child.kill()
    status = child.wait()
    if steps and done == len(steps):
        report.passed(done)
        return
    if sentence is None:
        sentence = f"Something made Python exit (status {status}): does your code call exit?"
    for at, (text, _, _) in enumerate(steps[done:]):
        report.show("·" if at else "✗", f"{done + at + 1}. {text}", None if at else sentence)
    _, anchor, told = steps[done] if steps else ("", "", sentence)
    report.failed(f"{done} of {len(steps)} · ", anchor, told if hint else f"make chapter-{number}-hint")


class Steps:
    """The plugin: reports the steps as a list, then None for each that passed, or the sentence of the one that failed."""

    def __init__(self, pipe):
        self.pipe, self.step_of, self.left = pipe, {}, Counter()

    def send(self, thing):
        os.write(self.pipe, json.dumps(thing).encode() + b"\n")

    def pytest_collection_modifyitems(self, items):
        steps = {}
        for item in list(items):
            marker = item.get_closest_marker("step")
            if not marker:
                items.remove(item)
                continue
            text, anchor = marker.args
            steps[text] = [text, anchor, " ".join(item.function.__doc__.split())]
            self.step_of[item.nodeid] = text
            self.left[text] += 1
        self.send(list(steps.values()))

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.send(str(report.longrepr))
        elif report.when == "teardown":
            self.left[self.step_of[report.nodeid]] -= 1
            if not self.left[self.step_of[report.nodeid]]:
                self.send(None)


def steps(number, *more):
    import pytest

    os.chdir(course.ROOT)
    options = [*more, "-o", "addopts=", "--assert=plain", "-x", f"--chapter={number}"]
    for plugin in ("valkey", "xdist", "cacheprovider", "timeout", "terminal"):
        options += ["-p", f"no:{plugin}"]
    sys.exit(pytest.main(options, plugins=[Steps(int(os.environ.pop("CHECK_PIPE")))]))


def watch(number):
    folder = course.attempt(number)
    os.chdir(course.ROOT)
    command = f"{sys.executable} tests/check.py {number}"
    os.environ["DIR"] = str(folder)
    os.execv(
        course.PROGRAMS / "watchfiles",
        ["watchfiles", "--filter", "python", "--target-type", "command", command, str(folder)],
    )


if __name__ == "__main__":
    try:
        first, *rest = sys.argv[1:]
        if first == "steps":
            steps(*rest)
        elif rest == ["watch"]:
            watch(first)
        else:
            main(first, *rest)
    except KeyboardInterrupt:
        sys.exit(130)
