"""Docker containers as the nodes of the suites: `make test-docker`.

The Redis containers are pytest-celery's, one for the broker and one for the result backend; the workers run in the image
of the Dockerfile. pytest-celery's own fixtures make all of them anew for each test: here tests share them, as they share
processes in nodes.py. Ports are published on loopback only, where pytest-celery takes every address of the machine.
"""

import os
import subprocess
import uuid
from datetime import datetime

import docker
import pytest
from course import ROOT, TESTS, free_port
from nodes import ChapterWorker, refuse_where_shared
from pytest_celery import CeleryWorkerContainer, RedisContainer

IMAGE = f"celery-course-worker:{os.environ.get('STACK', 'pinned')}"


def prepare():
    """Build the image of the worker. Raises pytest.UsageError where there is no engine, or no image."""
    # The Docker client for Python does not know the contexts of the command.
    context = "{{.Endpoints.docker.Host}}"
    if "DOCKER_HOST" not in os.environ and (host := ask("context", "inspect", "--format", context)):
        os.environ["DOCKER_HOST"] = host
    if not ask("version", "--format", "{{.Server.Version}}"):
        raise pytest.UsageError(
            "No Docker engine answers: start Docker, or type make test, which needs none."
        )
    print("Building the image of the worker.", flush=True)
    stack = IMAGE.partition(":")[2]
    command = ["docker", "build", "--quiet", "--tag", IMAGE, "--build-arg", f"STACK={stack}", str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise pytest.UsageError(f"The image of the worker could not be built:\n{done.stdout}{done.stderr}")


def ask(*words):
    """Return what a docker command printed, or nothing where it failed or is not there."""
    try:
        return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class RedisDatabase(RedisContainer):
    """One database of a Redis container."""

    def __init__(self, container, database, shared, remove):
        super().__init__(container)
        self.remove = remove
        self.vhost_number = str(database)
        self.shared = shared

    @property
    def vhost(self):
        return self.vhost_number

    @property
    def port(self):
        return int(self.attrs["HostConfig"]["PortBindings"]["6379/tcp"][0]["HostPort"])

    def kill(self, signal="SIGKILL"):
        refuse_where_shared(self)
        super().kill(signal)

    def restart(self, timeout=10):
        refuse_where_shared(self)
        super().restart(timeout)

    def teardown(self):
        if not self.shared:
            self.remove(self._container)


class DockerWorker(ChapterWorker, CeleryWorkerContainer):
    def __init__(self, container, arguments, remove):
        super().__init__(container)
        self.arguments = arguments
        self.remove = remove

    @property
    def hostname(self):
        return self.attrs["Config"]["Hostname"]

    @property
    def status(self):
        self.reload()
        return super().status

    def stdout(self):
        return self.read(stderr=False)

    def stderr(self):
        return self.read(stdout=False)

    def logs(self):
        return self.stdout() + self.stderr()

    def read(self, **streams):
        """What it logged since its last start."""
        self.reload()
        start = datetime.fromisoformat(self.attrs["State"]["StartedAt"][:19] + "+00:00")
        return self._container.logs(since=start.timestamp(), **streams).decode(errors="replace")

    def kill_process(self, pid):
        """Kill one process of the node, which has a number of its own in there."""
        self.exec_run(["sh", "-c", f"kill -9 {pid}"])

    def teardown(self):
        self.remove(self._container)


class Containers:
    """Makes the nodes of a pytest process, as nodes.Processes does."""

    def __init__(self, keeper, folder):
        self.keeper = keeper
        self.client = docker.from_env()
        self.started = {}
        self.shared = None
        self.network = f"course-{uuid.uuid4().hex[:12]}"
        keeper.watch(f"docker network rm {self.network}")
        self.client.networks.create(self.network)

    def run(self, **options):
        """Start a container of which nothing is left when the tests end, in whatever way."""
        name = f"course-{uuid.uuid4().hex[:12]}"
        self.keeper.watch(removal(name))
        container = self.client.containers.run(name=name, network=self.network, detach=True, **options)
        self.started[container.id] = container
        return container

    def remove(self, container):
        if self.started.pop(container.id, None):
            container.remove(force=True, v=True)
            self.keeper.forget(removal(container.name))

    def redis(self):
        # A port that we choose stays the same when the container is restarted.
        port = free_port()
        command = RedisContainer.command("--databases", "1000")
        return self.run(
            image=RedisContainer.image(), command=command, ports={"6379/tcp": ("127.0.0.1", port)}
        )

    def databases(self, number, own):
        """Return a broker and a result backend: databases of the shared servers, or of servers of their own."""
        if not own and not self.shared:
            self.shared = self.redis(), self.redis()
        servers = (self.redis(), self.redis()) if own else self.shared
        databases = [RedisDatabase(server, number, not own, self.remove) for server in servers]
        for database in databases:
            while not database.ready():
                pass
        return databases

    def worker(self, name, command, folder, variables):
        """Start a worker; it is not waited for."""
        # Under their own names, so that what holds for a path here holds there.
        volumes = {str(path): {"bind": str(path), "mode": "ro"} for path in (folder, TESTS)}
        container = self.run(
            image=IMAGE, command=command, volumes=volumes, working_dir=str(folder), environment=variables
        )
        return DockerWorker(container, command, self.remove)

    def python(self, worker, source):
        """The command of a Python where the worker runs."""
        return ["docker", "exec", "--interactive", worker.id, "python", "-c", source]

    def close(self):
        for container in list(self.started.values()):
            self.remove(container)
        command = f"docker network rm {self.network}"
        self.client.networks.get(self.network).remove()
        self.keeper.forget(command)


def removal(name):
    return f"docker rm --force --volumes {name}"
