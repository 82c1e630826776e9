"""Docker containers as the servers and workers of tests: `make test-docker`.

The Redis container is pytest-celery's, published on loopback only. Workers run in the image of the
Dockerfile. Tests share containers as they share the processes of nodes.py.
"""

import os
import socket
import subprocess
import time
import uuid
from datetime import datetime

import docker
import pytest
from pytest_celery import CeleryWorkerContainer, RedisContainer
from support.nodes import TESTS

from course.chapters import ROOT
from course.containers import docker_problem
from course.environment import STACK, command_output, free_port
from course.waiting import wait_until

IMAGE = f"celery-course-worker:{STACK}"
REMOVE = "docker rm --force --volumes "


def prepare():
    """Build the image of the worker. Raises a UsageError if there is no engine, or on failure."""
    problem = docker_problem()
    if problem:
        raise pytest.UsageError(f"{problem} make test needs no engine.")
    # The Docker client for Python doesn't read the contexts of the docker command.
    host = command_output("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    os.environ.setdefault("DOCKER_HOST", host.strip())
    print("Building the image of the worker.", flush=True)
    command = ["docker", "build", "--quiet", "--tag", IMAGE]
    command += ["--build-arg", f"STACK={STACK}", str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise pytest.UsageError(
            f"The image of the worker could not be built:\n{done.stdout}{done.stderr}"
        )


class DatabaseContainer(RedisContainer):
    """One database of a Redis container."""

    # The inherited ones are properties, which can't be set.
    vhost = None
    port = None

    def __init__(self, container, port, number, factory):
        super().__init__(container)
        self.port = port
        self.vhost = str(number)
        self.factory = factory
        wait_until(self.ready, 60)

    def start(self):
        self._container.start()

    def teardown(self):
        self.factory.remove(self.name)


class WorkerContainer(CeleryWorkerContainer):
    """A worker in a container."""

    ready_timeout = 120  # seconds: the lessons start some twenty at once

    def __init__(self, container, command, factory):
        super().__init__(container)
        self.command = command
        self.factory = factory

    @property
    def status(self):
        time.sleep(0.2)  # tests ask in loops, while the engine starts other containers
        self.reload()
        return super().status

    def logs(self):
        """Return what the worker has logged since its last start."""
        self.reload()
        start = datetime.fromisoformat(self.attrs["State"]["StartedAt"]).timestamp()
        return self._container.logs(since=start).decode(errors="replace")

    def kill_process(self, pid):
        """Kill one process of the node, by its PID in the container."""
        self.exec_run(["sh", "-c", f"kill -9 {pid}"])

    def teardown(self):
        self.factory.remove(self.name)


class ContainerFactory:
    """Makes the nodes of a pytest process, as nodes.ProcessFactory makes processes."""

    def __init__(self, reaper, folder):
        self.reaper = reaper
        self.client = docker.from_env()
        self.shared_server = None
        self.network = f"course-{uuid.uuid4().hex[:12]}"
        reaper.watch(f"docker network rm {self.network}")
        network = self.client.networks.create(self.network)
        network.reload()
        # Where containers find a bank that a test starts on this machine.
        self.bank_host = network.attrs["IPAM"]["Config"][0]["Gateway"]

    def run(self, *command, **options):
        """Start a container that the reaper removes when the tests end."""
        name = f"course-{uuid.uuid4().hex[:12]}"
        self.reaper.watch(REMOVE + name)
        return self.client.containers.run(
            *command, name=name, network=self.network, detach=True, **options
        )

    def remove(self, name):
        subprocess.run((REMOVE + name).split(), check=True, capture_output=True)
        self.reaper.forget(REMOVE + name)

    def start_server(self):
        """Start a Redis container; return it with its port on this machine."""
        # With a port of Docker's choice, a restart would change it.
        port = free_port()
        command = RedisContainer.command("--databases", "1000")
        ports = {"6379/tcp": ("127.0.0.1", port)}
        return self.run(RedisContainer.image(), command, ports=ports), port

    def database(self, number, own):
        """Return a database that is both broker and result backend.

        It is on the server that tests share, or with own=True on a new one.
        """
        if own:
            container, port = self.start_server()
            return DatabaseContainer(container, port, number, self)
        if not self.shared_server:
            self.shared_server = self.start_server()
        container, port = self.shared_server
        return DatabaseContainer(container, port, number, self)

    def worker(self, name, command, folder, variables):
        """Start a worker without waiting for it, and return its node."""
        container = self.run(
            IMAGE,
            command,
            environment=variables,
            working_dir=str(folder),
            # The same paths as on this machine.
            volumes=[f"{folder}:{folder}", f"{TESTS}:{TESTS}:ro"],
            user=str(os.getuid()),  # it writes into the folder, as the tests do
            hostname=socket.gethostname(),  # a lesson's shell takes it for the worker's
        )
        return WorkerContainer(container, command, self)

    def python(self, worker):
        """Return the command of a Python prompt where a worker runs, which doesn't echo."""
        # These variables are as in the lesson's own terminals.
        variables = ["--env=LOGURU_COLORIZE", "--env=NO_COLOR", "--env=TERM"]
        command = ["docker", "exec", "-it", *variables, worker.id]
        return [*command, "sh", "-c", "stty -echo && exec python"]
