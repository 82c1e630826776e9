"""Check a learner's attempt step by step, in the lesson's order, up to the first step that fails.

The steps are the tests that are marked `step`. pytest runs them in a process of its own, where this file is a plugin that
reports on a pipe; whatever the attempt does to that process, the one here survives and says so.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from multiprocessing.connection import Pipe

from course import import_probe
from course.chapters import CHAPTERS, ROOT, display_path, find_chapter, find_folder, number_of
from course.environment import APP, PROGRAMS, environment

SECONDS = 10  # that a step may take, and so may importing the files
COLOURS = {"✓": 32, "✗": 31, "·": 2}


@contextmanager
def started(*words, stderr=subprocess.DEVNULL, **options):
    """Start a process, and end it with what the attempt has started there."""
    nowhere = dict.fromkeys(("stdin", "stdout"), subprocess.DEVNULL)
    process = subprocess.Popen(words, stderr=stderr, process_group=0, **nowhere, **options)
    try:
        yield process
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def import_problem(folder, chapter):
    """Return what keeps the attempt's modules, those that the chapter has too, from being imported, or ""."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*.py"))]
    if hiding := [path for path in paths if str(path) in ("celery.py", "loguru.py", "redis.py")]:
        return f"{hiding[0]} hides the package of that name: rename it, or move it into a package."
    tops = {path.stem for path in chapter.iterdir()}
    names = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if path.parts[0].removesuffix(".py") in tops and not re.search(r"(^|/)(\.|test)", str(path))
    }
    if APP not in {name.partition(".")[0] for name in names}:
        wanted, there = next(chapter.glob(f"{APP}*")).name, ", ".join(map(str, paths[:3]))
        return f"This folder should have {wanted}; it has {there or 'nothing yet'}."
    words = [
        PROGRAMS / "python",
        import_probe.__file__,
        str(SECONDS),
        *sorted(names, key=lambda name: name.count(".")),
    ]
    env = environment("redis://127.0.0.1:1/0")
    with started(*words, stderr=subprocess.PIPE, cwd=folder, env=env) as python:
        # However much it prints, the end is what counts.
        tail = subprocess.Popen(
            ["tail", "-c", "40000"], stdin=python.stderr, stdout=subprocess.PIPE
        )
        status = python.wait()
    said = tail.communicate()[0].decode(errors="replace")
    late = status == -signal.SIGALRM or "\nTimeout (0:" in f"\n{said}"
    places = re.findall(rf'File "{re.escape(str(folder))}/(.+?)", line (\d+)', said)
    place = "{}, line {}: ".format(*places[0 if late else -1]) if places else ""
    if status == import_probe.IMPORTED:
        return ""
    if late:
        return f"{place}importing this should finish within {SECONDS} seconds, and didn't: does it loop, or wait?"
    if "Traceback" in said:
        return place + next(line for line in reversed(said.splitlines()) if line.strip())
    return f"Importing the files made Python exit (status {status}): does one of them call exit at its top level?"


def reports(reader, *attempt):
    """Yield the steps as a list, "" for each that passed, and a sentence for the one that failed."""
    yield import_problem(*attempt)
    seconds = 3 * SECONDS  # the first includes the start
    with suppress(EOFError, OSError):
        while reader.poll(seconds):
            yield reader.recv()
            seconds = SECONDS
        yield f"This should end, and did not within {seconds} seconds: does your code loop, or wait for something?"
    yield "Something made Python exit: does your code call exit?"


def show(mark, text, sentence=""):
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = f"\033[{COLOURS[mark]}m{mark}\033[0m" if coloured else mark
    print(f" {shown} {text}", *sentence.splitlines()[:1], sep="\n      ", flush=True)


def main(number, verb=""):
    begin, folder = time.monotonic(), find_folder(number, "my")
    lesson = ROOT / "chapters" / find_chapter(number) / "README.md"
    text, short = lesson.read_text(), display_path(folder)
    print(f"{text.partition(chr(10))[0].removeprefix('# ')} · {short}\n", flush=True)
    told = f"`import {APP}` in make chapter-{number}-shell DIR={short} shows all that Python says"
    steps, done = [("the files can be imported", "your-turn", told)], 0
    reader, writer = Pipe(duplex=False)
    pipe = writer.fileno()
    # redis 3.2 imports distutils, and setuptools' takes longer than Python's.
    env = os.environ | {"DIR": str(folder), "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
    # The steps get ready while the files are imported for a first time. What they have started, the reaper ends.
    with started(
        sys.executable,
        "-m",
        "course",
        "steps",
        number,
        str(pipe),
        cwd=ROOT,
        env=env,
        pass_fds=[pipe],
    ):
        writer.close()
        for found in reports(reader, folder, lesson.parent):
            if isinstance(found, list):
                steps += found
            elif found:
                break
            else:
                show("✓", steps[done][0])
                done += 1
                if done == len(steps) > 1:
                    break
    left = [] if not found else steps[done:] or steps
    for at, (name, _, _) in enumerate(left):
        show("·" if at else "✗", name, "" if at else found)
    count = f"{done - 1} of {len(steps) - 1} · " if done else ""
    print(f"\n{count}{time.monotonic() - begin:.1f} s")
    compare = f"make chapter-{number}-diff DIR={short}"
    if left:
        own = "" if short == f"my/{lesson.parent.name}" else f" DIR={short}"
        print(f"lesson   {lesson.relative_to(ROOT)}#{left[0][1]}")
        hint = left[0][2] if verb == "hint" else f"make chapter-{number}-hint{own}"
        print(f"hint     {hint}")
        print(f"compare  {compare}")
        sys.exit(1)
    print("\nYou now know:\n")
    print(text.partition("## What you now know\n")[2].partition("\n## ")[0].strip())
    print(f"\nCompare: {compare}")
    after = [each for each in map(number_of, CHAPTERS) if each > int(number)]
    print(f"Next: make chapter-{after[0]}-start" if after else "That was the last chapter.")


def watch(number, _):
    import watchfiles

    logging.disable()  # it would tell of each process
    folder = os.environ["DIR"] = str(find_folder(number, "my"))
    command = f"'{sys.executable}' '{__file__}' {number}"
    how = {"target": command, "target_type": "command", "watch_filter": watchfiles.PythonFilter()}
    # Where the folder is gone, the callback ends this with a sentence.
    watchfiles.run_process(folder, callback=lambda _: print() or find_folder(number, "my"), **how)
