"""The stack that the course runs on, the learner's port, and what child processes inherit."""

import os
import socket
import sys

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


def redis_port():
    """Return the learner's port, REDIS_PORT or 6379; exit with a sentence if it is not a port."""
    text = os.environ.get("REDIS_PORT") or "6379"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"REDIS_PORT={text} is no port: set it to a number from 1 to 65535.")
    return int(text)


def port_url():
    """Return the URL of database 0 of the learner's Redis server."""
    return f"redis://127.0.0.1:{redis_port()}/0"


def free_port():
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(url=None):
    """Return the environment of a child process that doesn't use the learner's server.

    The stack's programs are first on PATH. With a URL, it is the broker and the result backend.
    """
    env = {}
    for name, value in os.environ.items():
        if not name.startswith(STRIPPED_PREFIXES):
            env[name] = value
    env["PATH"] = f"{PROGRAMS}{os.pathsep}{env.get('PATH', os.defpath)}"
    if url:
        env |= dict.fromkeys(URLS, url)
    return env
