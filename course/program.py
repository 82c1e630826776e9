"""Become one of the stack's programs in a chapter's folder: beat, Flower, the web page, pytest."""

import os
import re
import socket
import sys
from pathlib import Path

from course.chapters import CHAPTERS, ROOT, display_path, find_folder
from course.environment import PROGRAMS
from course.flower import require_password

# The file, and a pattern in it, without which a program has nothing to run in a folder.
NEEDED_FILES = {
    "beat": ("*.py", "beat_schedule|periodic"),
    "pytest": ("*test*.py", ""),
    "uvicorn": ("web.py", ""),
}
USUAL_PORTS = {"flower": 5555, "uvicorn": 8000}
# These end in a traceback, or wait in silence, without a server.
NEED_SERVER = {"flower", "purge", "watch.py"}


def has_needed(top, program):
    """Return whether a folder has the file that this program needs."""
    name, pattern = NEEDED_FILES[program]
    return any(re.search(pattern, path.read_text("latin-1")) for path in top.rglob(name))


def check_folder(program):
    """Exit with a sentence if the current folder has nothing for this program."""
    here = Path.cwd()
    if has_needed(here, program):
        return
    for name in CHAPTERS:
        if has_needed(ROOT / "chapters" / name, program):
            first = f"chapters/{name} is the first that has."
            sys.exit(f"{display_path(here)} has nothing for {program}: {first}")
    sys.exit(f"{display_path(here)} has nothing for {program}.")


def check_port(program, command):
    """Exit with a sentence if the port that this program will listen on is taken."""
    port = os.environ.get(f"{program.upper()}_PORT", USUAL_PORTS[program])
    for named in re.findall(r"--port[ =](\S+)", " ".join(command)):
        port = named
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except (OSError, OverflowError, ValueError):
        other = USUAL_PORTS[program] + 1
        sys.exit(f"Port {port} is taken or not allowed: try another, as in ARGS=--port={other}.")


def check_server():
    """Exit with a sentence if the broker of the app in the current folder cannot serve."""
    from course.preflight import connect, find_app

    app = find_app()
    if app:
        connect(app, "broker_url")


def enter_folder(folder):
    """Work in a folder, with the stack's programs first on PATH."""
    os.chdir(folder)
    os.environ["PATH"] = f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def become(program, words):
    """Run one of the stack's programs instead of this process."""
    # By its path, because a folder with a colon in its name can't be on PATH.
    path = str(PROGRAMS / program)
    os.execv(path, [path, *words])


def run_program(number, *command):
    """Become a program in the chapter's folder, once it is known to find what it needs there."""
    enter_folder(find_folder(number))
    words = set(command)
    for program in NEEDED_FILES.keys() & words:
        check_folder(program)
    for program in USUAL_PORTS.keys() & words:
        check_port(program, command)
    if NEED_SERVER & words:
        check_server()
    if "flower" in words:
        require_password(command)
    become(command[0], command[1:])
