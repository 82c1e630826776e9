"""Check a learner's attempt step by step, in the lesson's order, up to the first step that fails.

The steps are tests that are marked `step`. pytest runs them in another process, which reports on a
pipe (course/steps.py); whatever the attempt does to that process, this one survives and says so.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe
from pathlib import Path

from course import import_probe, progress
from course.chapters import (
    CHAPTERS,
    NOT_CODE,
    ROOT,
    display_path,
    find_chapter,
    find_folder,
    is_left_out,
    number_of,
)
from course.environment import APP, PROGRAMS, environment
from course.lesson import read_lesson
from course.waiting import STEP_SECONDS

FIRST_STEP_SECONDS = 3 * STEP_SECONDS  # with the start of pytest and the worker
IMPORT_SECONDS = 3 * STEP_SECONDS  # on a busy machine, FastAPI alone takes a third of that
COLOURS = {"✓": 32, "✗": 31, "·": 2, "★": 33, "☆": 2}
HIDE_PACKAGES = ("celery.py", "loguru.py", "redis.py")
IMPORT_STEP = {"name": "the files can be imported", "anchor": "your-turn", "star": False}


@contextmanager
def started(command, **options):
    """Start a process in a group; kill the group in the end, with what the attempt started."""
    silence = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(command, process_group=0, **silence, **options)
    try:
        yield process
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


# Importing the files


def find_modules(folder, chapter):
    """Return the names of the attempt's modules that belong to the chapter, packages first."""
    top_names = {path.stem for path in chapter.iterdir()}
    # The first is for the lesson's prompt, and may look for Redis; the second is for an image.
    top_names -= {"experiments", "fix_billiard"}
    names = set()
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[0] not in top_names or any(part.startswith((".", "test")) for part in parts):
            continue
        names.add(".".join(parts).removesuffix(".__init__"))
    return sorted(names, key=lambda name: (name.count("."), name))


def find_import_problem(folder, chapter):
    """Return what keeps the attempt's modules from being imported, in a sentence, or ""."""
    for name in HIDE_PACKAGES:
        if (folder / name).exists():
            return f"{name} hides the package of that name: rename it, or move it into a package."
    names = find_modules(folder, chapter)
    if not any(name == APP or name.startswith(f"{APP}.") for name in names):
        wanted = next(chapter.glob(f"{APP}*")).name
        there = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.py"))[:3]]
        return f"This folder should have {wanted}; it has {', '.join(there) or 'nothing yet'}."
    with tempfile.TemporaryDirectory() as temp:
        report = Path(temp, "report")
        return try_import(folder, names, report)


def try_import(folder, names, report):
    """Import these modules in another process; return what went wrong, or ""."""
    command = [PROGRAMS / "python", import_probe.__file__, report, str(IMPORT_SECONDS), *names]
    # No server answers there: an import needs none.
    env = environment("redis://127.0.0.1:1/0")
    with started(command, cwd=folder, env=env) as python:
        try:
            status = python.wait(IMPORT_SECONDS + STEP_SECONDS)
        except subprocess.TimeoutExpired:
            return f"Importing the files should finish within {IMPORT_SECONDS} seconds."
    text = ""
    if report.exists():
        text = report.read_text(errors="replace")
    if text.startswith("Timeout"):
        return describe_timeout(text, folder)
    try:
        found = json.loads(text)
    except ValueError:
        question = "does one of them call exit at its top level?"
        return f"Importing the files made Python exit (status {status}): {question}"
    if "error" not in found:
        return ""
    if found["place"]:
        return f"{found['place']}: {found['error']}"
    return found["error"]


def describe_timeout(text, folder):
    """Return a sentence for a traceback of faulthandler."""
    causes = "does it loop or wait, or is this machine very busy?"
    question = f"should finish within {IMPORT_SECONDS} seconds, and didn't: {causes}"
    place = re.search(rf'File "{re.escape(str(folder))}/(.+?)", line (\d+)', text)
    if place:
        return f"{place[1]}, line {place[2]}: importing this {question}"
    return f"Importing the files {question}"


# Running the steps


def receive(reader):
    """Yield the reports of the steps; the last may be a failure that is made up here."""
    seconds = FIRST_STEP_SECONDS
    begun = 0
    with suppress(EOFError, OSError):
        while reader.poll(seconds):
            report = reader.recv()
            yield report
            if report["what"] != "begin":
                continue
            begun += 1
            seconds = report["seconds"]
            if begun == 1:
                seconds = max(seconds, FIRST_STEP_SECONDS)
        question = "does your code loop or wait, or is this machine very busy?"
        sentence = f"This should end, and did not within {seconds} seconds: {question}"
        yield {"what": "failed", "sentence": sentence}
        return
    yield {"what": "failed", "sentence": "Something made Python exit: does your code call exit?"}


class Check:
    """One check of an attempt: its steps, and what it has shown of them."""

    def __init__(self, number):
        self.number = number
        self.name = find_chapter(number)
        self.folder = find_folder(number, "my")
        self.chapter = ROOT / "chapters" / self.name
        self.shown_folder = display_path(self.folder)
        self.lesson = read_lesson(self.name)
        self.interactive = sys.stdout.isatty()
        self.left = [IMPORT_STEP]  # the steps that are to be checked
        self.total = 0  # numbered steps
        self.passed = 0
        self.failed_step = None
        self.open_star = None

    def run(self):
        """Check the attempt; return whether all its numbered steps passed."""
        begin = time.monotonic()
        checked = progress.digest(self.folder)
        title = self.lesson.text.partition("\n")[0].removeprefix("# ")
        print(f"{title} · {self.shown_folder}\n", flush=True)
        self.show_running()
        self.run_steps()
        line = f"{time.monotonic() - begin:.1f} s"
        if self.total:
            line = f"{self.passed} of {self.total} · {line}"
        print(f"\n{line}")
        passed = self.failed_step is None
        progress.note_check(self.name, self.folder, passed, checked)
        return passed

    def run_steps(self):
        """Run the steps, and show each when it is done."""
        reader, writer = Pipe(duplex=False)
        pipe = str(writer.fileno())
        command = [sys.executable, "-m", "course", "steps", self.number, pipe]
        # redis 3.2 imports distutils, and setuptools' takes longer than Python's.
        env = os.environ | {"DIR": str(self.folder), "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
        # pytest starts while the files are imported. What it starts, the tests' reaper ends.
        with started(command, cwd=ROOT, env=env, pass_fds=[writer.fileno()]):
            writer.close()
            problem = find_import_problem(self.folder, self.chapter)
            if problem:
                self.show_failure(problem)
                return
            self.show_step("✓", IMPORT_STEP["name"])
            for report in receive(reader):
                self.show_report(report)
                if self.failed_step or not self.left:
                    return

    def show_report(self, report):
        """Show what a report says of the first step that is left."""
        if report["what"] == "steps":
            self.left = report["steps"]
            self.total = sum(not step["star"] for step in self.left)
        if report["what"] in ("steps", "begin"):
            self.show_running()
        elif self.left[0]["star"]:
            self.show_star(self.left.pop(0), report)
        elif report["what"] == "passed":
            self.show_step("✓", self.left.pop(0)["name"])
            self.passed += 1
        else:
            self.show_failure(report["sentence"])

    # What a check prints

    def write(self, text, indent="", mark=""):
        """Print a text with a coloured mark, wrapped between words at the terminal's width."""
        if self.interactive:
            width = max(40, shutil.get_terminal_size().columns)
            options = {"break_long_words": False, "break_on_hyphens": False}
            text = textwrap.fill(text, width, subsequent_indent=indent, **options)
        if mark:
            text = text.replace(mark, self.colour(mark), 1)
        print(text, flush=True)

    def show_step(self, mark, text, sentence=""):
        """Show a step with its mark, and below it the first line of a sentence."""
        if self.interactive:
            print("\r\033[K", end="")
        self.write(f" {mark} {text}", "   ", mark)
        for line in sentence.splitlines()[:1]:
            self.write(f"      {line}", "      ")

    def colour(self, mark):
        if not self.interactive or os.environ.get("NO_COLOR"):
            return mark
        return f"\033[{COLOURS[mark]}m{mark}\033[0m"

    def show_running(self):
        """Show the step that runs, in a terminal, on a line that the next one replaces."""
        if self.interactive and self.left:
            width = shutil.get_terminal_size().columns
            text = f" … {self.left[0]['name']}"
            print(f"\r\033[K{text[: width - 1]}", end="", flush=True)

    def show_failure(self, sentence):
        """Show the step that failed, and those that are left."""
        self.failed_step, *others = self.left
        self.show_step("✗", self.failed_step["name"], sentence)
        for step in others:
            if not step["star"]:
                self.show_step("·", step["name"])

    def show_star(self, step, report):
        if report["what"] == "passed":
            self.show_step("★", f"done: {step['text']}")
        else:
            self.show_step("☆", f"not yet: {step['text']}", report["sentence"])
            self.open_star = self.open_star or step

    def type_make(self, verb):
        """Return a command of make as the learner types it for this attempt."""
        command = f"make chapter-{self.number}-{verb}"
        if self.folder != ROOT / "my" / self.name:
            command += f" DIR={self.shown_folder}"
        return command

    def show_help(self, verb):
        """Show where a learner goes on after a step that failed."""
        self.show_way_on(self.failed_step, verb)
        print(f"compare  make chapter-{self.number}-diff DIR={self.shown_folder}")

    def show_way_on(self, step, verb):
        """Show where the lesson teaches a step, and its hint if the verb is hint."""
        lesson = f"chapters/{self.name}/README.md#{step['anchor']}"
        print(f"lesson   {lesson}")
        if verb == "hint":
            self.show_hint(step)
        else:
            print(f"hint     {self.type_make('hint')}")

    def show_hint(self, step):
        """Show a nudge the first time, and the hint the second."""
        if step is IMPORT_STEP:
            command = f"make chapter-{self.number}-shell DIR={self.shown_folder}"
            self.write(f"hint     `import {APP}` in {command} shows all that Python says", " " * 9)
        elif progress.nudge(self.folder, step["text"]):
            self.write(f"hint     {step['hint']}", " " * 9)
        else:
            heading = self.lesson.headings()[step["anchor"]]
            again = f"{self.type_make('hint')} once more gives a hint."
            nudge = f'read "{heading}" again: what does it do that your code doesn\'t? {again}'
            self.write(f"nudge    {nudge}", " " * 9)

    def show_pass(self, verb):
        """Show the way to the first star step that isn't done, then what the learner knows now."""
        if self.open_star:
            self.show_way_on(self.open_star, verb)
        print("\nYou now know:\n")
        known = self.lesson.text.partition("## What you now know\n")[2].partition("\n## ")[0]
        # A paragraph or a list's item is one line here, without marks for bold.
        known = re.sub(r"(?<=\S)\n *(?=[^\s-])", " ", known.replace("**", ""))
        for line in known.strip().splitlines():
            self.write(line, "  ")
        print(f"\nCompare: make chapter-{self.number}-diff DIR={self.shown_folder}")
        print(progress.count_done())
        position = CHAPTERS.index(self.name)
        for name in CHAPTERS[position + 1 : position + 2]:
            command = f"make chapter-{number_of(name)}-start"
            print(f"Next: read chapters/{name}/README.md, then type {command}")


def check(number, verb=""):
    """Check an attempt once; exit with status 1 unless all numbered steps pass."""
    attempt = Check(number)
    if attempt.run():
        attempt.show_pass(verb)
        return
    attempt.show_help(verb)
    sys.exit(1)


# Checking again each time that a file is saved


def run_in_background(number, folder):
    """Clear the screen and start a check."""
    if sys.stdout.isatty():
        print("\033[2J\033[H", end="")
    print("watching; save to check again; Ctrl-C ends\n", flush=True)
    env = os.environ | {"DIR": str(folder)}
    command = [sys.executable, "-m", "course", "check", number]
    return subprocess.Popen(command, cwd=ROOT, env=env)


def stop(process):
    """End a check as Ctrl-C does, with what it has started."""
    with suppress(OSError):
        process.send_signal(signal.SIGINT)
    process.wait()


def watch(number):
    """Check an attempt again each time that one of its files is saved, until Ctrl-C."""
    import watchfiles

    folder = find_folder(number, "my")

    def is_code(_, path):
        return not is_left_out(Path(path).relative_to(folder), NOT_CODE)

    process = run_in_background(number, folder)
    try:
        for _ in watchfiles.watch(folder, watch_filter=is_code, raise_interrupt=True):
            stop(process)
            find_folder(number, "my")  # exits with a sentence if the folder is gone
            process = run_in_background(number, folder)
    finally:
        stop(process)


def main(number, verb=""):
    """Check an attempt; the verb may be hint or watch."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if verb == "watch":
            watch(number)
        else:
            check(number, verb)
    except KeyboardInterrupt:
        sys.exit(130)
