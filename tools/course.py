"""Where the course's things are, and what each tool and test needs to start one. Standard library only.

usage: course.py NUMBER COMMAND [ARGUMENT...], to run a command in a chapter's folder, with the stack's programs first on PATH
"""

import os
import re
import shlex
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The module in which Celery finds the app, in each chapter: celery -A tasks.
APP = "tasks"
STACK = os.environ.get("STACK") or "pinned"
PROGRAMS = ROOT / (".venv" if STACK == "pinned" else f".venv-{STACK}") / "bin"
CHAPTER = re.compile(r"\d+-[a-z0-9-]+")
URLS = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
# What would lead a child process to another server, or make to another target.
FOREIGN = ("ARGS", "CELERY_", "DIR", "LOGURU_", "MAKE", "MFLAGS", "REDIS", "STACK")
# The file, and a text in it, without which there is nothing to run for a program.
NEEDS = {"beat": ("*.py", "beat_schedule|periodic"), "pytest": ("*test*.py", ""), "uvicorn": ("web.py", "")}


def number_of(chapter):
    """Return the number that a chapter's name begins with."""
    return int(chapter.partition("-")[0])


FOLDERS = [path.name for path in ROOT.glob("chapters/*") if path.is_dir()]
CHAPTERS = sorted(filter(CHAPTER.fullmatch, FOLDERS), key=number_of)
BEFORE = dict(zip(CHAPTERS[1:], CHAPTERS, strict=False))  # each but the first
WRITTEN = [line for path in ROOT.glob("chapters/*/.gitignore") for line in path.read_text().split()]
# What a copy of an app leaves out: what is hidden or compiled, and what chapters write, as their .gitignore files list it.
NOT_CODE = ("__pycache__", ".*", *{name.strip("/*") + "*" for name in WRITTEN})


def chapter(number):
    """Return the name of a chapter by its number, as make was told it; end with a sentence where there is none."""
    found = [name for name in CHAPTERS if name.partition("-")[0] == str(number)]
    if len(found) != 1:
        there = "more than one" if found else "no"
        sys.exit(f"There is {there} chapter {number}: the chapters are {', '.join(CHAPTERS)}.")
    return found[0]


def folder(number, home="chapters"):
    """Return the folder that DIR names, or that of a chapter in chapters/, or in my/ for a learner's attempt at it."""
    name, own = chapter(number), os.environ.get("DIR")
    path = Path(own or ROOT / home / name).expanduser().resolve()
    if not path.is_dir():
        start = f"make chapter-{number}-start" + (f" DIR={shlex.quote(own)}" if own else "")
        sys.exit(f"There is no folder {path}: {start} makes it.")
    return path


def short(path):
    """Return a path as a reader knows it and types it: from the top of the checkout, and quoted where a shell wants that."""
    path = Path(path)
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def port():
    """Return the port of the learner's Redis server: REDIS_PORT, or 6379."""
    text = os.environ.get("REDIS_PORT") or "6379"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"REDIS_PORT={text} is no port: set it to a number from 1 to 65535.")
    return int(text)


def free_port():
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(condition, seconds=10.0):
    """Call condition() fifty times a second until it is true, for at most that many seconds; return its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def environment(url=None):
    """Return the environment of a process of this stack that does not inherit the learner's server.

    Its programs are first on PATH, and its broker and result backend at the URL where one is given.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env["PATH"] = f"{PROGRAMS}{os.pathsep}{env.get('PATH', os.defpath)}"
    return env | dict.fromkeys(URLS, url) if url else env


def look(command):
    """End with a sentence where a program would do nothing, show a traceback, or wait for Redis without a word."""
    tops = [Path.cwd(), *(ROOT / "chapters" / name for name in CHAPTERS)]
    for word in NEEDS.keys() & set(command):
        name, sign = NEEDS[word]
        has = (top for top in tops if any(re.search(sign, f.read_text("latin-1")) for f in top.rglob(name)))
        if (first := next(has)) != tops[0]:
            sys.exit(f"{short(tops[0])} has nothing for {word}: {short(first)} is the first that has.")
    for word, usual in (("flower", 5555), ("uvicorn", 8000)):
        named = re.findall(r"--port[ =](\S+)", " ".join(command))
        named = [os.environ.get(f"{word.upper()}_PORT", usual), *named][-1]
        try:
            word in command and socket.create_server(("127.0.0.1", int(named))).close()
        except (OSError, OverflowError, ValueError):
            sys.exit(f"Port {named} is taken or not allowed: try another, as in ARGS=--port={usual + 1}.")
    waits = {"flower", "watch.py"} & set(command)
    if waits or port() != 6379:
        import worker

        app = worker.find_app()  # which points Celery to the port
        if waits and app:
            worker.connect(app.conf.broker_url, "broker_url", URLS[0])


def run(number, program, *options):
    """Become one of the stack's programs in the chapter's folder."""
    os.chdir(folder(number))
    os.environ["PATH"] = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    look([program, *options])
    # By its path: a folder with a colon in its name cannot be on PATH.
    program = str(PROGRAMS / program)
    os.execv(program, [program, *options])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    run(*sys.argv[1:])
