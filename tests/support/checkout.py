"""A copy of the checkout in which a learner's commands are typed, and the terminals that they are typed in."""

import contextlib
import json
import os
import shutil
import subprocess

import pexpect
import psutil
import pytest
from celery import Celery
from redis import StrictRedis

from course.chapters import ROOT
from course.environment import PROGRAMS, STACK, STRIPPED_PREFIXES, free_port
from course.server import is_serving
from course.waiting import wait_until

NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".course", "my", "__pycache__", ".*_cache")


class Terminal(pexpect.spawn):
    """A shell in a terminal, and a command typed there: Ctrl-C and the window's closing reach it as in a real one."""

    def __init__(self, command, folder, env):
        super().__init__(
            "sh", ["-i"], cwd=folder, env=env, encoding="utf-8", codec_errors="replace"
        )
        self.str_last_chars = 5000  # that a failure shows
        self.sendline(command)

    def text(self):
        """Return what the terminal has shown, behind what was expected last."""
        if not self.closed:
            self.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=0)
        return self.before

    def processes(self):
        """Return the terminal's processes, without the shell."""
        self.text()  # a process waits where nobody reads what it prints
        found = []
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(OSError):
                if (
                    os.getsid(process.pid) == self.pid != process.pid
                    and process.info["status"] != "zombie"
                ):
                    found.append(process)
        return found

    def kill(self):
        """SIGKILL for all that runs in the terminal."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.ends()

    def ends(self):
        """Fail unless the command ends, with all that it started here: WARM_STOP in grading.py, and a busy machine."""
        ended = wait_until(lambda: not self.processes(), 60)
        assert ended, f"No process should be left in the terminal, which shows:\n{self.text()}"


class Checkout:
    """A copy of the checkout, with links to what is installed already and a port of its own."""

    def __init__(self, folder, linked):
        self.folder = shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        (self.folder / ".course").mkdir()
        for name in linked:
            (self.folder / name).symlink_to(ROOT / name)
        self.port = free_port()
        self.data = self.folder / ".course" / "redis" / str(self.port)
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(STRIPPED_PREFIXES)
        }
        self.env |= {"REDIS": "embedded", "REDIS_PORT": str(self.port), "STACK": STACK}
        # redis 8 waits 5 seconds, which is too short for 10 MB on a busy machine.
        self.redis = StrictRedis(port=self.port, decode_responses=True, socket_timeout=30)
        self.client = Celery(
            "client", broker=f"redis://127.0.0.1:{self.port}/0", set_as_current=False
        )
        self.terminals = []

    def make(self, command, sentence="", fails=False, **env):
        """Type a make command; fail unless it ends well, or with fails=True in one sentence, and prints this one."""
        options = {
            "cwd": self.folder,
            "env": self.env | env,
            "encoding": "utf-8",
            "withexitstatus": True,
        }
        # An image may have to be built.
        text, status = pexpect.run(f"make {command}", timeout=30 if fails else 600, **options)
        lines = [line for line in text.splitlines() if line and not line.startswith("make: ***")]
        brief = not fails or ("Traceback" not in text and (len(lines) <= 2 or command == "setup"))
        as_wanted = status is not None and (status > 0) == fails and sentence in text and brief
        end = "fail in one sentence" if fails else "end well"
        assert as_wanted, f"make {command} should {end} and say {sentence!r}:\n{text}"

    def terminal(self, command, **env):
        """Type a command in a terminal of its own and leave it running."""
        self.terminals.append(Terminal(command, self.folder, self.env | env))
        return self.terminals[-1]

    def worker(self, number, options="-c 1 --without-mingle --without-gossip", **env):
        """Type `make chapter-N-worker` in a terminal and wait until the worker is ready."""
        terminal = self.terminal(f"make chapter-{number}-worker ARGS='{options}'", **env)
        terminal.expect(r" ready\.")
        return terminal

    def add(self, x, y):
        """Call the task of chapter 2; return its id."""
        return self.client.send_task("tasks.add", (x, y)).id

    def gives(self, id, wanted):
        """Fail unless a task gives this within 20 seconds."""
        meta = wait_until(lambda: self.redis.get(f"celery-task-meta-{id}"), 20)
        shown = "\n".join(each.text() for each in self.terminals)
        found = meta and json.loads(meta)["result"]
        assert found == wanted, f"The task should give {wanted}, not {found}:\n{shown}"

    def edit(self, file, old, new):
        """Replace a text in a file of the chapters."""
        path = self.folder / "chapters" / file
        assert old in path.read_text(), f"{file} should have {old!r}."
        path.write_text(path.read_text().replace(old, new, 1))

    def kill_server(self):
        psutil.Process(self.redis.info("server")["process_id"]).kill()
        wait_until(lambda: not is_serving(self.port))

    def containers(self):
        """Return what Docker says about the containers of this checkout."""
        label = f"com.docker.compose.project.working_dir={self.folder.resolve()}"
        ids = docker("ps", "--all", "--quiet", f"--filter=label={label}").split()
        return json.loads(docker("inspect", *ids)) if ids else []

    def end(self):
        for terminal in self.terminals:
            terminal.kill()
            terminal.close()
        if is_serving(self.port):
            self.kill_server()  # make stop doesn't know one that wants a password
        self.make("stop REDIS_PORT=")


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(request, tmp_path):
    """A copy of the checkout, on whose port no containers are yet."""
    if not request.config.option.docker:
        pytest.skip("needs a Docker engine: make test-docker")
    checkout = Checkout(tmp_path / "course", [PROGRAMS.parent.name])
    # The reaper removes what is left, in whatever way the tests end.
    down = f"make -C {checkout.folder} down REDIS_PORT={checkout.port} ARGS=--volumes"
    request.getfixturevalue("nodes").reaper.watch(down)
    return checkout
