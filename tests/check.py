"""Check a learner's attempt step by step, in the lesson's order, up to the first step that fails.

usage: check.py NUMBER [hint | watch]

The steps are the tests that are marked `step`. pytest runs them in a process of its own, where this file is a plugin that
reports on a pipe; whatever the attempt does to that process, the one here survives and says so.
"""

import atexit
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import course

SECONDS = 10  # that a step may take, and so may importing the files
# Imports modules, and leaves with a status that no code of an attempt has by chance. Late, it says where it stands.
IMPORT = f"""import faulthandler, importlib, os, signal, sys
signal.alarm({2 * SECONDS}); faulthandler.dump_traceback_later({SECONDS}, exit=True)
[importlib.import_module(name) for name in sys.argv[1:]]
os._exit(66)"""
NOWHERE = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
COLOURS = {"✓": 32, "✗": 31, "·": 2}


def import_problem(folder, chapter):
    """Return what keeps the attempt's modules, those that the chapter has too, from being imported, or None."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*.py"))]
    if hiding := [path for path in paths if str(path) in ("celery.py", "loguru.py", "redis.py")]:
        return f"{hiding[0]} hides the package of that name: rename it, or move it into a package."
    tops = {path.stem for path in chapter.iterdir()}
    names = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if path.parts[0].removesuffix(".py") in tops and not re.search(r"(^|/)(\.|test)", str(path))
    }
    if course.APP not in {name.partition(".")[0] for name in names}:
        wanted, there = next(chapter.glob(f"{course.APP}*")).name, ", ".join(map(str, paths[:3]))
        return f"This folder should have {wanted}; it has {there or 'nothing yet'}."
    words = [course.PROGRAMS / "python", "-c", IMPORT, *sorted(names, key=lambda name: name.count("."))]
    to = NOWHERE | {"stderr": subprocess.PIPE, "cwd": folder}
    python = subprocess.Popen(words, env=course.environment("redis://127.0.0.1:1/0"), process_group=0, **to)
    # However much it prints, the end is what counts.
    tail = subprocess.Popen(["tail", "-c", "40000"], stdin=python.stderr, stdout=subprocess.PIPE)
    try:
        status = python.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(python.pid, signal.SIGKILL)  # what it has started would hold the pipe
    said = tail.communicate()[0].decode(errors="replace")
    late = status == -signal.SIGALRM or "\nTimeout (0:" in f"\n{said}"
    places = re.findall(rf'File "{re.escape(str(folder))}/(.+?)", line (\d+)', said)
    place = "{}, line {}: ".format(*places[0 if late else -1]) if places else ""
    if status == 66:
        return None
    if late:
        return f"{place}importing this should finish within {SECONDS} seconds, and didn't: does it loop, or wait?"
    if "Traceback" in said:
        return place + next(line for line in reversed(said.splitlines()) if line.strip())
    return f"Importing the files made Python exit (status {status}): does one of them call exit at its top level?"


class Report:
    """The lines that a learner reads."""

    def __init__(self, number, folder):
        self.number, self.folder, self.begin = number, folder, time.monotonic()
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.lesson = course.ROOT / "chapters" / course.chapter(number) / "README.md"
        self.text = self.lesson.read_text()
        self.short = course.short(folder)
        self.own = "" if self.short == f"my/{self.lesson.parent.name}" else f" DIR={self.short}"
        print(f"{self.text.partition(chr(10))[0].removeprefix('# ')} · {self.short}\n", flush=True)

    def show(self, mark, text, sentence=None):
        shown = f"\033[{COLOURS[mark]}m{mark}\033[0m" if self.colour else mark
        print(f" {shown} {text}", flush=True)
        for line in (sentence or "").splitlines()[:1]:
            print(f"      {line}", flush=True)

    def failed(self, count, anchor, hint):
        print(f"\n{count}{time.monotonic() - self.begin:.1f} s")
        print(f"lesson   {self.lesson.relative_to(course.ROOT)}#{anchor}")
        print(f"hint     {hint}")
        print(f"compare  make chapter-{self.number}-diff DIR={self.short}")
        sys.exit(1)

    def passed(self, steps):
        print(f"\n{steps} of {steps} · {time.monotonic() - self.begin:.1f} s\n\nYou now know:\n")
        print(self.text.partition("## What you now know\n")[2].partition("\n## ")[0].strip())
        print(f"\nCompare: make chapter-{self.number}-diff DIR={self.short}")
        after = [each for each in map(course.number_of, course.CHAPTERS) if each > int(self.number)]
        print(f"Next: make chapter-{after[0]}-start" if after else "That was the last chapter.")


def reports(reader):
    """Yield what the steps report, and a sentence where one of them takes too long."""
    unread, seconds = b"", 3 * SECONDS  # the first includes the start
    while select.select([reader], [], [], seconds)[0]:
        if not (more := os.read(reader, 65536)):
            return
        *lines, unread = (unread + more).split(b"\n")
        yield from map(json.loads, lines)
        seconds = SECONDS
    yield f"This should end, and did not within {seconds} seconds: does your code loop, or wait for something?"


def main(number, hint=""):
    folder = course.folder(number, "my")
    report = Report(number, folder)
    reader, writer = os.pipe()
    # redis 3.2 imports distutils, and setuptools' takes longer than Python's.
    env = os.environ | {"DIR": str(folder), "CHECK_PIPE": str(writer), "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
    # The steps get ready while the files are imported for a first time.
    words = [sys.executable, __file__, number, "steps"]
    child = subprocess.Popen(words, env=env, pass_fds=[writer], process_group=0, **NOWHERE)
    atexit.register(os.killpg, child.pid, signal.SIGKILL)  # with what the attempt has forked
    os.close(writer)
    command = f"make chapter-{number}-hint{report.own}"
    if problem := import_problem(folder, report.lesson.parent):
        report.show("✗", "the files can be imported", problem)
        more = f"`import {course.APP}` in make chapter-{number}-shell DIR={report.short} shows all that Python says"
        report.failed("", "your-turn", more if hint else command)
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
        if sentence or (steps and done == len(steps)):
            break  # what the steps have started, the reaper ends
    if steps and done == len(steps):
        return report.passed(done)
    sentence = sentence or "Something made Python exit: does your code call exit?"
    for at, (text, _, _) in enumerate(steps[done:]):
        report.show("·" if at else "✗", f"{done + at + 1}. {text}", None if at else sentence)
    _, anchor, told = steps[done] if steps else ("", "", sentence)
    report.failed(f"{done} of {len(steps)} · ", anchor, told if hint else command)


class Steps:
    """The plugin: reports the steps as a list, then None for each that passed, or the sentence of the one that failed."""

    def __init__(self, pipe):
        self.pipe, self.step_of, self.left = pipe, {}, Counter()

    def send(self, thing):
        os.write(self.pipe, json.dumps(thing).encode() + b"\n")

    def pytest_collection_modifyitems(self, items):
        steps = {}
        items[:] = [item for item in items if item.get_closest_marker("step")]
        for item in items:
            text, anchor = item.get_closest_marker("step").args
            steps[text] = [text, anchor, " ".join(item.function.__doc__.split())]
            self.step_of[item.nodeid] = text
            self.left[text] += 1
        self.send(list(steps.values()))

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.send(str(report.longrepr)[:1000])
        elif report.when == "call":
            self.left[self.step_of[report.nodeid]] -= 1
            if not self.left[self.step_of[report.nodeid]]:
                self.send(None)


def steps(number, _):
    import pytest

    os.chdir(course.ROOT)
    options = ["-s", "-o", "addopts=", "--assert=plain", "-x", f"--chapter={number}"]
    options += [f"-pno:{plugin}" for plugin in ("valkey", "xdist", "cacheprovider", "terminal")]
    sys.exit(pytest.main(options, plugins=[Steps(int(os.environ.pop("CHECK_PIPE")))]))


def watch(number, _):
    import watchfiles

    logging.disable()  # it would tell of each process
    folder = os.environ["DIR"] = str(course.folder(number, "my"))
    command = f"'{sys.executable}' '{__file__}' {number}"
    how = {"target": command, "target_type": "command", "watch_filter": watchfiles.PythonFilter()}
    # Where the folder is gone, the callback ends this with a sentence.
    watchfiles.run_process(folder, callback=lambda _: print() or course.folder(number, "my"), **how)


if __name__ == "__main__":
    number, verb = [*sys.argv[1:], ""][:2]
    try:
        {"watch": watch, "steps": steps}.get(verb, main)(number, verb)
    except KeyboardInterrupt:
        sys.exit(130)
