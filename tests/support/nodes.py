"""The one way in which tests start a server or a worker: local processes behind pytest-celery's interface.

A test asks for `celery_setup` as pytest-celery means it, and its `worker`, `broker` and `backend` have the usual `logs`,
`assert_log_exists`, `kill`, `restart`. `make test-docker` takes the containers of containers.py instead. What looks into
a container does not exist here: `worker.get_running_processes_info()`, which runs a command inside one, and its files.
"""

import contextlib
import copy
import itertools
import json
import os
import shutil
import signal as signals
import subprocess
import sys
from pathlib import Path

from celery import _state
from celery.app.utils import find_app
from celery.result import AsyncResult
from pytest_celery import CeleryTestContainer, CeleryTestWorker
from redis import StrictRedis
from support import forked
from support.assertions import describe

from course.chapters import NOT_CODE, display_path
from course.environment import APP, PROGRAMS, URLS, environment, free_port
from course.server import launch_server
from course.waiting import wait_until

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
CELERYS_OWN = set(_state._on_app_finalizers)
# A worker with any other variable is not forked: Celery reads some of them when it is imported.
OURS = {*URLS, "PYTHONPATH", "SLOW_TASKS_LOOK", "SLOW_TASKS_SETTINGS", "TWO_SETTINGS"}
IGNORED = shutil.ignore_patterns(*NOT_CODE)
# A result that is deleted after its server has gone would look for it, for 20 seconds.
del AsyncResult.__del__


class Worker(CeleryTestWorker):
    """A worker as tests see it."""

    def wait_for_log(self, log, message="", timeout=10):
        """As in pytest-celery, which looks once a second and not fifty times."""
        assert wait_until(lambda: log in self.logs(), timeout), (
            message or f"The worker should log {log!r}."
        )


class ProcessContainer(CeleryTestContainer):
    """A process group behind the interface of a container. Its logs are a file, of stdout and stderr together."""

    def __init__(self, reaper, name, log):
        # Not the inherited constructor: that wraps a container of the Docker client.
        self.reaper, self._name, self.log = reaper, name, log
        self.start()

    def start(self):
        self.process = self.launch()
        self.reaper.watch(self.process.pid)

    name = property(lambda self: self._name)
    id = property(lambda self: str(self.process.pid))
    status = property(lambda self: "running" if self.process.poll() is None else "exited")

    def reload(self):
        """Nothing to do: the status is always asked anew."""

    def logs(self):
        size = self.log.stat().st_size // 1_000_000
        assert size < 20, (
            f"A worker should print little, and this one has printed {size} MB: what prints so much?"
        )
        return self.log.read_text(errors="replace")

    def kill(self, signal="SIGKILL"):
        """Send a signal, as `docker kill` does; SIGKILL reaches the children too, as in a container."""
        if self.status == "running":
            number = signals.Signals[signal] if isinstance(signal, str) else signal
            (os.killpg if number == signals.SIGKILL else os.kill)(self.process.pid, number)
            if number == signals.SIGKILL:
                self.process.wait()

    patience = 30  # seconds, until it is ready

    def kill_process(self, pid):
        """Kill one process of the node."""
        os.kill(pid, signals.SIGKILL)

    def restart(self, timeout=10):
        self.kill("SIGTERM")
        wait_until(lambda: self.status == "exited", timeout)
        self.teardown()
        self.start()

    def teardown(self):
        # The group outlives its leader where a worker was killed and left its children.
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

    def database(self, number):
        """Return one database of this server: a broker or a result backend, as far as an app can tell."""
        view = copy.copy(self)
        view.number = number
        return view

    @property
    def celeryconfig(self):
        url = f"redis://127.0.0.1:{self.port}/{self.number}"
        return {"url": url, "host_url": url, "port": self.port, "vhost": str(self.number)}

    @property
    def client(self):
        # redis 8 waits 5 seconds, which is too short for 10 MB on a busy machine.
        return StrictRedis.from_url(
            self.celeryconfig["url"], decode_responses=True, socket_timeout=30
        )


class WorkerProcess(ProcessContainer):
    def __init__(self, reaper, name, logs, command, folder, variables):
        self.command, self.folder, self.variables = command, folder, variables
        # What an attempt may do to an import is told to its learner.
        fresh = os.environ.get("DIR") or variables.keys() - OURS
        self.forked = command[0] == "celery" and forked.POSSIBLE and not fresh
        super().__init__(reaper, name, Path(logs) / f"{name}.log")

    def launch(self):
        # Its log is a file, where it would keep back what a terminal shows at once; killed, it leaves its temporary files.
        env = (
            environment()
            | {"PYTHONUNBUFFERED": "1"}
            | self.variables
            | {"TMPDIR": str(self.log.parent)}
        )
        with self.log.open("wb") as log:
            if self.forked:
                return forked.Forked(self.reaper, self.command, self.folder, env, self.log)
            to = {
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": log,
                "start_new_session": True,
            }
            command = [str(PROGRAMS / self.command[0]), *self.command[1:]]
            return subprocess.Popen(command, cwd=self.folder, env=env, **to)


class ProcessFactory:
    """Makes the nodes of a pytest process; containers.ContainerFactory makes the same of Docker."""

    def __init__(self, reaper, folder):
        self.reaper, self.folder, self.shared = reaper, folder, None

    def database(self, number, own):
        """Return a broker, which is the result backend too: a database of the shared server, or of one of its own."""
        if own:
            return ServerContainer(self.reaper, self.folder).database(number)
        self.shared = self.shared or ServerContainer(self.reaper, self.folder)
        return self.shared.database(number)

    def worker(self, name, command, folder, variables):
        """Start a worker; it is not waited for."""
        return WorkerProcess(self.reaper, name, self.folder, command, folder, variables)

    def python(self, worker):
        """Return the command of a Python prompt where the worker runs."""
        return [str(PROGRAMS / "python"), "-q"]


class AppUnderTest:
    """A folder with an app, a database for it, and the workers that serve it."""

    numbers = itertools.count(1)

    def __init__(
        self, nodes, folder, count=1, slow_tasks=False, settings=(), args=(), env=(), server=False
    ):
        """Start `count` workers, which are not waited for.

        slow_tasks=True starts them on slow_tasks.py with these settings; args and env are added to each, and the variables
        that env sets to None are taken away; server=True gives them a server of their own.
        """
        self.nodes, self.folder, self.args, self.own = nodes, Path(folder), list(args), server
        self.module = "slow_tasks" if slow_tasks else APP
        self.database = next(self.numbers)
        self.broker = self.backend = nodes.database(self.database, own=server)
        slow = (
            {"PYTHONPATH": str(SUPPORT), "SLOW_TASKS_SETTINGS": json.dumps(dict(settings))}
            if slow_tasks
            else {}
        )

        def with_urls(kind):
            urls = dict.fromkeys(URLS, self.broker.celeryconfig[kind])
            return {
                name: value
                for name, value in (urls | dict(env) | slow).items()
                if value is not None
            }

        # What workers are given, and the environment of a client here: in containers a server has two addresses.
        self.variables, self.env = with_urls("url"), environment() | with_urls("host_url")
        self.workers, self.others = [], []
        for number in range(count):
            self.add_worker(["-n", f"worker{number + 1}@%h"] if count > 1 else [])

    def add_worker(self, args=()):
        """Start one more worker; it is not waited for."""
        # The last of an option counts.
        command = [
            "celery",
            "-A",
            self.module,
            "worker",
            "--loglevel=info",
            "-c",
            "2",
            *self.args,
            *args,
        ]
        name = f"{self.folder.name}-{self.database}-worker-{len(self.workers) + 1}"
        self.workers.append(self.nodes.worker(name, command, self.folder, self.variables))
        return self.workers[-1]

    def start(self, *command):
        """Start another of the stack's programs in the folder, such as beat; return its node, which is not waited for."""
        name = f"{self.folder.name}-{self.database}-{Path(command[0]).name}-{len(self.others) + 1}"
        self.others.append(self.nodes.worker(name, list(command), self.folder, self.variables))
        return self.others[-1]

    def enter(self, monkeypatch):
        """Make the folder's modules importable, with its database in the environment; return the app."""
        for name in {*URLS, "SLOW_TASKS_SETTINGS"} & self.env.keys():
            monkeypatch.setenv(name, self.env[name])
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(str(self.folder))
        # Celery gives an app the tasks of all apps that were imported before: these are other chapters' here.
        _state._on_app_finalizers.intersection_update(CELERYS_OWN)
        try:
            app = find_app(self.module)
            app.loader.import_default_modules()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the code under test raises
            sentence = f"In {display_path(self.folder)}, `-A {self.module}` should find an app, and raised {describe(error)}"
            raise AssertionError(sentence) from None
        app.set_current()
        app.set_default()
        return app

    def forget_modules(self):
        """Make Python import anew what it has of this folder."""
        for name, module in list(sys.modules.items()):
            # A package without an __init__.py has a path alone.
            file = getattr(module, "__file__", None) or next(
                iter(getattr(module, "__path__", ())), ""
            )
            if f"{file}/".startswith(f"{self.folder}/") or name == "slow_tasks":
                del sys.modules[name]

    def close(self):
        for node in (*self.workers, *self.others, *([self.broker] if self.own else [])):
            node.teardown()
