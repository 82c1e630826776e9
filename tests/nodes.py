"""The one way in which tests start a server or a worker: local processes behind pytest-celery's interface.

A test asks for `celery_setup` as pytest-celery means it, and its `worker`, `broker` and `backend` have the usual `logs`,
`assert_log_exists`, `kill`, `restart`. `make test-docker` takes the containers of containers.py instead. What looks into
a container does not exist here: `worker.get_running_processes_info()`, which runs a command inside one, and its files.
"""

import gc
import json
import os
import signal as signals
import socket
import subprocess
import sys
from pathlib import Path

import course
import server
from celery import _state
from celery.app.utils import find_app
from course import environment, free_port, wait_until
from grading import described, short
from pytest_celery import CeleryTestContainer, CeleryTestWorker
from pytest_docker_tools.exceptions import ContainerFailed
from pytest_docker_tools.exceptions import TimeoutError as NodeTimeout
from redis import StrictRedis

TESTS = Path(__file__).resolve().parent
CELERYS_OWN = set(_state._on_app_finalizers)
# The folders of the apps that this process has imported.
ENTERED = set()


class Worker(CeleryTestWorker):
    """A worker as tests see it."""

    def hostname(self):
        arguments = self.container.arguments
        name = arguments[arguments.index("-n") + 1] if "-n" in arguments else "celery@%h"
        return name.replace("%h", self.container.hostname)

    def wait_for_log(self, log, message="", timeout=10):
        """As in pytest-celery, which looks once a second and not fifty times."""
        if not wait_until(lambda: log in self.logs(), timeout):
            raise NodeTimeout(message or f"{self.name()} did not log: {log}")


class WorkerNode:
    """What pytest-celery asks of a worker's container, for `celery worker` in a folder."""

    worker_name = worker_queue = staticmethod(lambda: "celery")
    log_level = staticmethod(lambda: "info")

    @property
    def celeryconfig(self):
        return {}

    @classmethod
    def version(cls):
        import celery

        return celery.__version__

    @property
    def ready_prompt(self):
        # The line "celery@host ready." is at INFO; the list of queues is always printed, a bit earlier.
        return "[queues]" if "--loglevel=warning" in self.arguments else " ready."

    def ready(self):
        """Wait until it is ready. pytest-celery's own waiting looks once a second."""
        ended = wait_until(lambda: self.ready_prompt in self.logs() or self.status == "exited", 30)
        if self.ready_prompt not in self.logs():
            kind = ContainerFailed if self.status == "exited" else NodeTimeout
            raise kind(self, "ended") if kind is ContainerFailed else kind("not ready after 30 seconds")
        return ended


class ProcessContainer(CeleryTestContainer):
    """A command that runs in a process group of its own, behind the interface of a container."""

    def __init__(self, reaper, name, logs):
        # Not the inherited constructor: that wraps a container of the Docker client.
        self.reaper = reaper
        self._name = name
        self.out, self.err = (Path(logs) / f"{name}.{stream}" for stream in ("out", "err"))
        self.start()

    def start(self):
        self.process = self.launch()
        self.pid = self.process.pid
        self.reaper.watch(self.pid)

    @property
    def name(self):
        return self._name

    @property
    def id(self):
        return str(self.pid)

    @property
    def status(self):
        return "running" if self.process.poll() is None else "exited"

    @property
    def attrs(self):
        return {"State": {"Status": self.status}}

    def reload(self):
        """Nothing to do: the status is always asked anew."""

    def stdout(self):
        return self.out.read_text(errors="replace")

    def stderr(self):
        return self.err.read_text(errors="replace")

    def logs(self):
        return self.stdout() + self.stderr()

    def kill(self, signal="SIGKILL"):
        """Send a signal, as `docker kill` does; SIGKILL reaches the children too, as in a container."""
        if self.status == "running":
            number = signals.Signals[signal] if isinstance(signal, str) else signal
            (os.killpg if number == signals.SIGKILL else os.kill)(self.pid, number)
            wait_until(lambda: self.status == "exited", 10 if number == signals.SIGKILL else 0)

    def restart(self, timeout=10):
        self.kill("SIGTERM")
        wait_until(lambda: self.status == "exited", timeout)
        self.teardown()
        self.start()
        self.ready()

    def teardown(self):
        # The group outlives its leader where a worker was killed and left its children.
        try:
            os.killpg(self.pid, signals.SIGKILL)
        except OSError:
            pass
        wait_until(lambda: self.status == "exited")
        self.reaper.forget(self.pid)


class ServerContainer(ProcessContainer):
    """An embedded server on a free port, with nothing kept on disk."""

    def __init__(self, reaper, logs):
        self.port = free_port()
        self.folder = Path(logs) / f"server-{self.port}"
        self.folder.mkdir()
        super().__init__(reaper, self.folder.name, logs)
        self.out = self.err = self.folder / "valkey.log"

    def launch(self):
        return server.launch(self.port, self.folder, databases=1000, appendonly="no")

    def ready(self):
        return wait_until(lambda: server.answers(self.port))


class DatabaseContainer(CeleryTestContainer):
    """One database of a server: a broker or a result backend, as far as an app can tell."""

    def __init__(self, server, database, shared):
        self.server, self.database, self.shared = server, database, shared
        self.url = f"redis://127.0.0.1:{server.port}/{database}"
        self.client = StrictRedis.from_url(self.url, decode_responses=True)
        self.celeryconfig = {
            "url": self.url,
            "host_url": self.url,
            "port": server.port,
            "vhost": str(database),
        }

    client = celeryconfig = None  # properties where they are inherited from

    name = property(lambda self: self.server.name)
    id = property(lambda self: self.server.id)
    status = property(lambda self: self.server.status)

    def reload(self):
        """Nothing to do."""

    def ready(self):
        return self.server.ready()

    def logs(self):
        return self.server.logs()

    def kill(self, signal="SIGKILL"):
        refuse_where_shared(self)
        self.server.kill(signal)

    def restart(self, timeout=10):
        refuse_where_shared(self)
        self.server.restart(timeout)

    def teardown(self):
        if not self.shared:
            self.server.teardown()


def refuse_where_shared(database):
    if database.shared:
        raise NotImplementedError("Many tests share this server: mark yours isolated(server=True).")


class WorkerProcess(WorkerNode, ProcessContainer):
    hostname = socket.gethostname()

    def __init__(self, reaper, name, logs, command, folder, variables):
        self.arguments, self.folder, self.variables = command, folder, variables
        super().__init__(reaper, name, logs)

    def launch(self):
        with self.out.open("wb") as out, self.err.open("wb") as err:
            return subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env=environment() | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def kill_process(self, pid):
        """Kill one process of the node."""
        os.kill(pid, signals.SIGKILL)


class ProcessFactory:
    """Makes the nodes of a pytest process; containers.ContainerFactory makes the same of Docker."""

    def __init__(self, reaper, folder):
        self.reaper, self.folder = reaper, folder
        self.shared = None

    def databases(self, number, own):
        """Return a broker and a result backend: a database of the shared server, or of one of their own."""
        if not own and not self.shared:
            self.shared = ServerContainer(self.reaper, self.folder)
        server = ServerContainer(self.reaper, self.folder) if own else self.shared
        database = DatabaseContainer(server, number, shared=not own)
        return database, database

    def worker(self, name, command, folder, variables):
        """Start a worker; it is not waited for."""
        return WorkerProcess(self.reaper, name, self.folder, command, folder, variables)

    def python(self, worker):
        """Return the command of a Python prompt where the worker runs."""
        return [str(course.PROGRAMS / "python")]

    def close(self):
        if self.shared:
            self.shared.teardown()


class AppUnderTest:
    """A folder with an app, a database for it, and the workers that serve it."""

    numbers = iter(range(1, 1000))

    def __init__(
        self,
        nodes,
        folder,
        count=1,
        slow_tasks=False,
        settings=None,
        args=(),
        env=None,
        without=(),
        server=False,
    ):
        """Start `count` workers, which are not waited for.

        slow_tasks=True starts them on slow_tasks.py with these settings; args and env are added to each, the variables
        of `without` taken away; server=True gives them a server of their own.
        """
        self.nodes = nodes
        self.folder = Path(folder)
        self.module = "slow_tasks" if slow_tasks else course.APP
        self.database = next(self.numbers)
        self.broker, self.backend = nodes.databases(self.database, own=server)
        self.url = self.broker.celeryconfig["host_url"]
        variables = dict(env or {})
        if slow_tasks:
            variables |= {"PYTHONPATH": str(TESTS), "SLOW_TASKS_SETTINGS": json.dumps(settings or {})}
        # What workers are given, and the environment of a client here: in containers a server has two addresses.
        pair = [self.broker.celeryconfig, self.backend.celeryconfig]
        self.variables, self.env = (
            {
                name: value
                for name, value in (dict(zip(course.URLS, urls, strict=True)) | variables).items()
                if name not in without
            }
            for urls in ([each["url"] for each in pair], [each["host_url"] for each in pair])
        )
        self.env = environment() | self.env
        self.args = list(args)
        self.workers = []
        for number in range(count):
            self.add_worker(["-n", f"worker{number + 1}@%h"] if count > 1 else [])

    def add_worker(self, args=()):
        """Start one more worker; it is not waited for."""
        args = [*self.args, *args]
        level = [] if any(arg.startswith("--loglevel") for arg in args) else ["--loglevel=info"]
        concurrency = [] if "-c" in args else ["-c", "2"]
        command = ["celery", "-A", self.module, "worker", *level, *concurrency, *args]
        name = f"{self.folder.name}-{self.database}-worker-{len(self.workers) + 1}"
        worker = self.nodes.worker(name, command, self.folder, self.variables)
        self.workers.append(worker)
        return worker

    def enter(self, monkeypatch):
        """Make the folder's modules importable, with its database in the environment; return the app."""
        for name in (*course.URLS, "SLOW_TASKS_SETTINGS"):
            if name in self.env:
                monkeypatch.setenv(name, self.env[name])
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(str(self.folder))
        self.forget_modules()
        # Celery gives an app the tasks of all apps that were imported before: these are other chapters' here.
        _state._on_app_finalizers.intersection_update(CELERYS_OWN)
        try:
            app = find_app(self.module)
            app.loader.import_default_modules()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the code under test raises
            raise AssertionError(
                f"In {short(self.folder)}, `-A {self.module}` should find an app, and raised {described(error)}"
            ) from None
        app.set_current()
        app.set_default()
        return app

    def forget_modules(self):
        """Make Python import anew what it has of this folder, and of those that were entered before."""
        ENTERED.add(f"{self.folder}{os.sep}")
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if file.startswith(tuple(ENTERED)) or name == "slow_tasks":
                del sys.modules[name]

    def close(self):
        gc.collect()  # a result that is deleted after its server has gone would look for it, for 20 seconds
        for node in (*self.workers, self.broker, self.backend):
            node.teardown()
