"""Local processes as the servers and workers of tests, behind the interface of pytest-celery.

A test asks for pytest-celery's `celery_setup`; its `worker`, `broker` and `backend` have the usual
`logs`, `assert_log_exists`, `kill` and `restart`. With `make test-docker`, containers.py makes
containers instead. What runs a command inside a container doesn't work on a process, such as
`worker.get_running_processes_info()`.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal as signals
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from celery.app.utils import find_app
from pytest_celery import CeleryTestContainer, CeleryTestWorker
from redis import StrictRedis
from support import forked
from support.assertions import WARM_STOP, describe
from support.celery_internals import forget_tasks_of_other_apps

from course.chapters import NOT_CODE, display_path
from course.environment import APP, PROGRAMS, URLS, environment, free_port
from course.server import launch_server
from course.waiting import wait_until

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
# What a copy of a chapter leaves out.
IGNORED = shutil.ignore_patterns(*NOT_CODE)
# What nothing reads while Celery is being imported: a forked process may have these variables.
READ_AFTER_IMPORT = {
    *URLS,
    "BANK_URL",
    "PYTHONPATH",
    "SLOW_TASKS_LOOK",
    "SLOW_TASKS_SETTINGS",
    "TWO_SETTINGS",
}
LARGEST_LOG = 20_000_000  # bytes


class Worker(CeleryTestWorker):
    """A worker as tests see it."""

    def wait_for_log(self, log, message="", timeout=30):
        """Wait as pytest-celery does, but look fifty times a second instead of once."""
        found = wait_until(lambda: log in self.logs(), timeout)
        assert found, message or f"The worker should log {log!r}."


@contextmanager
def stopped(worker):
    """Let a worker's main process stand still in the block: what is due waits until the end."""
    worker.kill("SIGSTOP")
    try:
        yield
    finally:
        worker.kill("SIGCONT")


class ProcessContainer(CeleryTestContainer):
    """A process group behind the interface of a container.

    Its log is a file with stdout and stderr. A subclass launches the process.
    """

    ready_timeout = 60  # seconds

    def __init__(self, reaper, name, log):
        # The inherited constructor wraps a container of the Docker client: it isn't called.
        self.reaper = reaper
        self._name = name
        self.log = log
        self.start()

    @property
    def name(self):
        return self._name

    @property
    def id(self):
        return str(self.process.pid)

    @property
    def status(self):
        if self.process.poll() is None:
            return "running"
        return "exited"

    def launch(self):
        """Return the process as a Popen, the leader of its group."""
        raise NotImplementedError

    def start(self):
        self.process = self.launch()
        self.reaper.watch(self.process.pid)

    def reload(self):
        """Do nothing: the status is always current."""

    def logs(self):
        size = self.log.stat().st_size
        assert size < LARGEST_LOG, (
            f"A worker should print little, but this one has printed {size} bytes: by what?"
        )
        return self.log.read_text(errors="replace")

    def kill(self, signal="SIGKILL"):
        """Send a signal, as `docker kill` does; SIGKILL reaches the children too."""
        if self.status == "exited":
            return
        if isinstance(signal, str):
            signal = signals.Signals[signal]
        if signal == signals.SIGKILL:
            os.killpg(self.process.pid, signal)
            self.process.wait()
        else:
            os.kill(self.process.pid, signal)

    def kill_process(self, pid):
        """Kill one process of the node."""
        os.kill(pid, signals.SIGKILL)

    def restart(self, timeout=WARM_STOP):
        self.kill("SIGTERM")
        wait_until(lambda: self.status == "exited", timeout)
        self.teardown()
        self.start()

    def teardown(self):
        # A worker that was killed leaves its children in the group.
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signals.SIGKILL)
        self.process.wait()
        self.reaper.forget(self.process.pid)


class ServerContainer(ProcessContainer):
    """An embedded server on a free port, with nothing kept on disk."""

    def __init__(self, reaper, logs):
        self.port = free_port()
        self.folder = Path(logs) / f"server-{self.port}"
        self.folder.mkdir()
        super().__init__(reaper, self.folder.name, self.folder / "valkey.log")

    def launch(self):
        return launch_server(self.port, self.folder, databases=1000, appendonly="no")


class Database:
    """One database of a server, as a broker or a result backend. All else is the server's."""

    def __init__(self, server, number):
        self.server = server
        self.number = number

    def __getattr__(self, name):
        return getattr(self.server, name)

    @property
    def celeryconfig(self):
        port = self.server.port
        url = f"redis://127.0.0.1:{port}/{self.number}"
        return {"url": url, "host_url": url, "port": port, "vhost": str(self.number)}

    @property
    def client(self):
        # By default, redis 8 waits 5 seconds: too short for 10 MB on a busy machine.
        url = self.celeryconfig["url"]
        return StrictRedis.from_url(url, decode_responses=True, socket_timeout=30)


class WorkerProcess(ProcessContainer):
    """A worker, or another program that is started in a chapter's folder."""

    def __init__(self, reaper, name, logs, command, folder, variables):
        self.command = command
        self.folder = folder
        self.variables = variables
        super().__init__(reaper, name, Path(logs) / f"{name}.log")

    def launch(self):
        env = environment()
        env["PYTHONUNBUFFERED"] = "1"  # its log shows at once what a terminal shows
        env |= self.variables
        env["TMPDIR"] = str(self.log.parent)  # for what it leaves when it is killed
        with self.log.open("wb") as log:
            if can_be_forked(self.command, self.variables):
                return forked.Forked(self.reaper, self.command, self.folder, env, self.log)
            program, *options = self.command
            return subprocess.Popen(
                [str(PROGRAMS / program), *options],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def can_be_forked(command, variables):
    """Return whether a process that has imported Celery may run this command with these variables.

    An attempt's may not: its learner is told what goes wrong when its worker imports Celery.
    """
    if command[0] != "celery" or os.environ.get("DIR") or not forked.IS_POSSIBLE:
        return False
    return READ_AFTER_IMPORT.issuperset(variables)


class ProcessFactory:
    """Makes the nodes of a pytest process, as containers.ContainerFactory makes containers."""

    def __init__(self, reaper, folder):
        self.reaper = reaper
        self.folder = folder
        self.shared_server = None

    def database(self, number, own):
        """Return a database that is both broker and result backend.

        It is on the server that tests share, or with own=True on a new one.
        """
        if own:
            return Database(ServerContainer(self.reaper, self.folder), number)
        if not self.shared_server:
            self.shared_server = ServerContainer(self.reaper, self.folder)
        return Database(self.shared_server, number)

    def worker(self, name, command, folder, variables):
        """Start a worker without waiting for it, and return its node."""
        return WorkerProcess(self.reaper, name, self.folder, command, folder, variables)

    # Where workers find a bank that a test starts.
    bank_host = "127.0.0.1"

    def python(self, worker):
        """Return the command of a Python prompt where a worker runs."""
        return [str(PROGRAMS / "python"), "-q"]


class AppUnderTest:
    """A folder with an app, a database for it, and the workers that run its tasks.

    variables is what workers get in their environment, env is the environment of a client here:
    a server in a container has two addresses.
    """

    numbers = itertools.count(1)

    def __init__(
        self,
        nodes,
        folder,
        count=1,
        slow_tasks=False,
        settings=(),
        args=(),
        env=(),
        server=False,
        more=(),
    ):
        """Start `count` workers, and one with each of the options in `more`, without waiting.

        slow_tasks=True starts them on slow_tasks.py with these settings. args are added to their
        options, env to their environment, from which a value of None removes a variable.
        server=True gives them a server of their own.
        """
        self.nodes = nodes
        self.folder = Path(folder)
        self.args = list(args)
        self.has_own_server = server
        self.module = APP
        self.database = next(self.numbers)
        self.broker = self.backend = nodes.database(self.database, own=server)
        self.workers = []
        self.others = []
        changes = dict(env)
        if slow_tasks:
            self.module = "slow_tasks"
            changes["PYTHONPATH"] = str(SUPPORT)
            changes["SLOW_TASKS_SETTINGS"] = json.dumps(dict(settings))
        self.bank_port = free_port()
        self.variables = self.make_variables("url", changes)
        self.env = environment() | self.make_variables("host_url", changes)
        for number in range(1, count + 1):
            self.add_worker(["-n", f"worker{number}@%h"] if count > 1 else [])
        for options in more:
            self.add_worker(options)

    def make_variables(self, kind, changes):
        """Return the URLs of this kind and the changes as environment variables."""
        url = self.broker.celeryconfig[kind]
        variables = dict.fromkeys(URLS, url)
        variables["BANK_URL"] = f"http://{self.nodes.bank_host}:{self.bank_port}"
        variables |= changes
        return {name: value for name, value in variables.items() if value is not None}

    def add_worker(self, args=()):
        """Start one more worker without waiting for it; its args win over those of all workers."""
        command = ["celery", "-A", self.module, "worker", "--loglevel=info", "-c", "2"]
        command += [*self.args, *args]
        name = f"{self.folder.name}-{self.database}-worker-{len(self.workers) + 1}"
        worker = self.nodes.worker(name, command, self.folder, self.variables)
        self.workers.append(worker)
        return worker

    def start(self, *command):
        """Start another program in the folder, such as beat, without waiting; return its node."""
        program = Path(command[0]).name
        name = f"{self.folder.name}-{self.database}-{program}-{len(self.others) + 1}"
        node = self.nodes.worker(name, list(command), self.folder, self.variables)
        self.others.append(node)
        return node

    def enter(self, monkeypatch):
        """Import the app from its folder, with its database in the environment, and return it.

        Until the end of the test, this is the current folder. Fails with a sentence if the app
        can't be imported.
        """
        for name in (*URLS, "BANK_URL", "SLOW_TASKS_SETTINGS"):
            if name in self.env:
                monkeypatch.setenv(name, self.env[name])
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(str(self.folder))
        forget_tasks_of_other_apps()
        try:
            app = find_app(self.module)
            app.loader.import_default_modules()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the app's code raises
            raise AssertionError(
                f"In {display_path(self.folder)}, `-A {self.module}` should find an app, "
                f"but it raised {describe(error)}"
            ) from None
        app.set_current()
        app.set_default()
        return app

    def forget_modules(self):
        """Make Python import the modules of this folder anew."""
        for name, module in list(sys.modules.items()):
            is_here = module_path(module).startswith(f"{self.folder}/")
            if is_here or name == "slow_tasks":
                del sys.modules[name]

    def close(self):
        """End the workers, the other programs, and the server if it is the app's own."""
        for node in (*self.workers, *self.others):
            node.teardown()
        if self.has_own_server:
            self.broker.teardown()


def module_path(module):
    """Return the path of a module's file; of its folder, if it is a package without __init__.py."""
    file = getattr(module, "__file__", None)
    if not file:
        file = next(iter(getattr(module, "__path__", ())), "")
    return file
