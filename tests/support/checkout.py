"""A copy of the checkout, and terminals in which to type a learner's commands there."""

import contextlib
import json
import shutil
import signal
import subprocess

import pexpect
import psutil
import pytest
from celery import Celery
from redis import StrictRedis
from support.reaper import find_processes

from course.chapters import ROOT
from course.environment import PROGRAMS, STACK, free_port, inherit_environment
from course.server import is_serving
from course.waiting import wait_until

NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".course", "my", "__pycache__", ".*_cache")


def hear_hangup():
    """End when the terminal closes, even if the tests run under nohup, which ignores that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Terminal(pexpect.spawn):
    """A shell in a terminal, and a command that is typed there.

    Ctrl-C and the end of the terminal reach the command as in a real one.
    """

    def __init__(self, command, folder, env):
        super().__init__(
            "sh",
            ["-i"],
            cwd=folder,
            env=env,
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
            preexec_fn=hear_hangup,
        )
        self.str_last_chars = 5000  # of the output, in a failure
        self.sendline(command)

    def text(self):
        """Return what the terminal has shown since the last text that was expected."""
        if not self.closed:
            self.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=0)
        return self.before

    def processes(self):
        """Return the terminal's processes, without the shell and without zombies."""
        self.text()  # reads what they print: a process whose output nobody reads stands still
        return [process for process in find_processes(self.pid) if process.pid != self.pid]

    def kill(self):
        """Kill all processes of the terminal."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.ends()

    def ends(self):
        """Fail unless the command ends, with all that it has started here."""
        # On a busy machine, a warm stop takes longer than assertions.WARM_STOP.
        ended = wait_until(lambda: not self.processes(), 60)
        assert ended, f"No process should be left in the terminal, which shows:\n{self.text()}"


class Checkout:
    """A copy of the checkout, with a port of its own."""

    def __init__(self, folder, linked):
        """Copy the checkout into a folder. What is linked is a link to what this checkout has."""
        self.folder = shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        (self.folder / ".course").mkdir()
        for name in linked:
            (self.folder / name).symlink_to(ROOT / name)
        self.port = free_port()
        self.data = self.folder / ".course" / "redis" / str(self.port)
        self.env = inherit_environment()
        self.env |= {"REDIS": "embedded", "REDIS_PORT": str(self.port), "STACK": STACK}
        # By default, redis 8 waits 5 seconds: too short for 10 MB on a busy machine.
        self.redis = StrictRedis(port=self.port, decode_responses=True, socket_timeout=30)
        self.client = Celery(
            "client", broker=f"redis://127.0.0.1:{self.port}/0", set_as_current=False
        )
        self.terminals = []

    def make(self, command, sentence="", fails=False, **env):
        """Type a make command; fail unless it succeeds and prints this sentence.

        With fails=True, it must fail instead, and print no more than the sentence.
        """
        text, status = pexpect.run(
            f"make {command}",
            timeout=120 if fails else 600,  # an image may have to be built
            cwd=self.folder,
            env=self.env | env,
            encoding="utf-8",
            withexitstatus=True,
        )
        assert sentence in text, f"make {command} should print {sentence!r}:\n{text}"
        if not fails:
            assert status == 0, f"make {command} should succeed, not return {status}:\n{text}"
            return
        assert status, f"make {command} should fail, not return {status}:\n{text}"
        lines = [line for line in text.splitlines() if line and not line.startswith("make: ***")]
        is_brief = len(lines) <= 2 or command == "setup"
        assert is_brief and "Traceback" not in text, (
            f"make {command} should fail in one sentence:\n{text}"
        )

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

    def gives(self, task_id, wanted):
        """Fail unless the result of a task is this within a minute."""
        meta = wait_until(lambda: self.redis.get(f"celery-task-meta-{task_id}"), 60)
        shown = "\n".join(terminal.text() for terminal in self.terminals)
        assert meta, f"The task should return {wanted}, but there is no result:\n{shown}"
        found = json.loads(meta)["result"]
        assert found == wanted, f"The task should return {wanted}, not {found}:\n{shown}"

    def edit(self, file, old, new):
        """Replace a text in a file of the chapters."""
        path = self.folder / "chapters" / file
        assert old in path.read_text(), f"{file} should have {old!r}."
        path.write_text(path.read_text().replace(old, new, 1))

    def kill_server(self):
        """Kill the server on this copy's port."""
        psutil.Process(self.redis.info("server")["process_id"]).kill()
        wait_until(lambda: not is_serving(self.port))

    def containers(self):
        """Return what `docker inspect` says about the containers of this copy."""
        label = f"com.docker.compose.project.working_dir={self.folder.resolve()}"
        ids = docker("ps", "--all", "--quiet", f"--filter=label={label}").split()
        if not ids:
            return []
        return json.loads(docker("inspect", *ids))

    def end(self):
        """End the terminals and the servers of this copy."""
        for terminal in self.terminals:
            terminal.kill()
            terminal.close()
        if is_serving(self.port):
            self.kill_server()  # make stop can't stop one that requires a password
        self.make("stop REDIS_PORT=")


needs_docker = pytest.mark.skipif(
    "not config.option.docker", reason="needs a Docker engine: make test-docker"
)


def docker(*words):
    """Return the output of a docker command; raise an exception if it fails."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(request, tmp_path):
    """A copy of the checkout for containers, which are removed when the tests end."""
    checkout = Checkout(tmp_path / "course", [PROGRAMS.parent.name])
    down = f"make -C {checkout.folder} down REDIS_PORT={checkout.port} ARGS=--volumes"
    request.getfixturevalue("nodes").reaper.watch(down)
    return checkout
