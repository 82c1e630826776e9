"""The stack that the course runs on, the learner's port, and child processes."""

import os
import socket
import subprocess
import sys
from functools import cache
from itertools import cycle

from course.chapters import ROOT

# The module in which Celery finds each chapter's app: celery -A tasks.
APP = "tasks"
STACK = os.environ.get("STACK") or "pinned"
# Celery 5.1.2 with the required client; False on the current Celery.
PINNED = STACK == "pinned"
PROGRAMS = ROOT / (".venv" if PINNED else f".venv-{STACK}") / "bin"
URLS = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
# Variables that would lead a child process to another server, or make to another target.
STRIPPED_PREFIXES = ("ARGS", "CELERY_", "DIR", "LOGURU_", "MAKE", "MFLAGS", "REDIS", "STACK")
# A socket that this process keeps open: see claim_ports.
CLAIMS = []


def redis_port():
    """Return the learner's port, REDIS_PORT or 6379; exit with a sentence if it is not a port."""
    text = os.environ.get("REDIS_PORT") or "6379"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"REDIS_PORT={text} is no port: set it to a number from 1 to 65535.")
    return int(text)


def port_url():
    """Return the URL of database 0 of the learner's Redis server."""
    return f"redis://127.0.0.1:{redis_port()}/0"


@cache
def claim_ports():
    """Claim a hundred ports for this process; return an endless iterator over them.

    They are below the ports that systems give to outgoing connections. The claim is a UDP socket
    on the first of them, which the system closes when the process ends. Raises RuntimeError if
    other processes have claimed all.
    """
    for first in range(20000, 32700, 100):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
        else:
            CLAIMS.append(claim)
            return cycle(range(first, first + 100))
    raise RuntimeError("All ports from 20000 to 32699 are claimed by tests: end some of them.")


def free_port():
    """Return a port of 127.0.0.1 that nothing listens on and that other tests don't take."""
    for port in claim_ports():
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def command_output(*command):
    """Return what a command prints, or None if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def inherit_environment(*also_stripped):
    """Return this process' environment without what would lead a child process elsewhere."""
    env = {}
    for name, value in os.environ.items():
        if not name.startswith((*STRIPPED_PREFIXES, *also_stripped)):
            env[name] = value
    return env


def environment(url=None):
    """Return the environment of a child process that doesn't use the learner's server.

    The stack's programs are first on PATH. With a URL, it is the broker and the result backend.
    """
    env = inherit_environment()
    env["PATH"] = f"{PROGRAMS}{os.pathsep}{env.get('PATH', os.defpath)}"
    if url:
        env |= dict.fromkeys(URLS, url)
    return env
