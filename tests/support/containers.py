"""Docker containers as the nodes of the suites: `make test-docker`.

The Redis container is pytest-celery's, published on loopback only; the workers run in the image of the Dockerfile.
Tests share them, as they share processes in nodes.py.
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
from course.containers import command_output, docker_problem
from course.environment import STACK, free_port
from course.waiting import wait_until

IMAGE = f"celery-course-worker:{STACK}"
REMOVE = "docker rm --force --volumes "


def prepare():
    """Build the image of the worker. Raises pytest.UsageError where there is no engine, or no image."""
    if failure := docker_problem():
        raise pytest.UsageError(f"{failure} make test does without.")
    # The Docker client for Python does not know the contexts of the command.
    host = command_output("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    os.environ.setdefault("DOCKER_HOST", host.strip())
    print("Building the image of the worker.", flush=True)
    command = [
        "docker",
        "build",
        "--quiet",
        "--tag",
        IMAGE,
        "--build-arg",
        f"STACK={STACK}",
        str(ROOT),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise pytest.UsageError(
            f"The image of the worker could not be built:\n{done.stdout}{done.stderr}"
        )


class DatabaseContainer(RedisContainer):
    """One database of a Redis container."""

    vhost = port = None  # properties where they are inherited from

    def __init__(self, container, port, database, factory):
        super().__init__(container)
        self.port, self.vhost, self.factory = port, str(database), factory
        wait_until(self.ready, 30)

    def start(self):
        self._container.start()

    def teardown(self):
        self.factory.remove(self.name)


class WorkerContainer(CeleryWorkerContainer):
    patience = 120  # seconds, until it is ready: the lessons start some twenty at once

    def __init__(self, container, command, factory):
        super().__init__(container)
        self.command, self.factory = command, factory

    @property
    def status(self):
        time.sleep(0.2)  # it is asked in loops, and the engine has others to start
        self.reload()
        return super().status

    def logs(self):
        """Return what it logged since its last start."""
        self.reload()
        start = datetime.fromisoformat(self.attrs["State"]["StartedAt"]).timestamp()
        return self._container.logs(since=start).decode(errors="replace")

    def kill_process(self, pid):
        """Kill one process of the node, by the number that it has in there."""
        self.exec_run(["sh", "-c", f"kill -9 {pid}"])

    def teardown(self):
        self.factory.remove(self.name)


class ContainerFactory:
    """Makes the nodes of a pytest process, as nodes.ProcessFactory does."""

    def __init__(self, reaper, folder):
        self.reaper, self.client, self.shared = reaper, docker.from_env(), None
        self.network = f"course-{uuid.uuid4().hex[:12]}"
        reaper.watch(f"docker network rm {self.network}")
        self.client.networks.create(self.network)

    def run(self, *command, **options):
        """Start a container of which nothing is left when the tests end, in whatever way."""
        name = f"course-{uuid.uuid4().hex[:12]}"
        self.reaper.watch(REMOVE + name)
        return self.client.containers.run(
            *command, name=name, network=self.network, detach=True, **options
        )

    def remove(self, name):
        subprocess.run((REMOVE + name).split(), check=True, capture_output=True)
        self.reaper.forget(REMOVE + name)

    def server(self):
        port = (
            free_port()
        )  # the same when the container is restarted, which one of Docker's choice is not
        command = RedisContainer.command("--databases", "1000")
        return self.run(
            RedisContainer.image(), command, ports={"6379/tcp": ("127.0.0.1", port)}
        ), port

    def database(self, number, own):
        """Return a broker, which is the result backend too: a database of the shared server, or of one of its own."""
        if not own:
            self.shared = self.shared or self.server()
        return DatabaseContainer(*(self.server() if own else self.shared), number, self)

    def worker(self, name, command, folder, variables):
        """Start a worker; it is not waited for."""
        # Under their own names, so that what holds for a path here holds there.
        options = {
            "working_dir": str(folder),
            "volumes": [f"{folder}:{folder}", f"{TESTS}:{TESTS}:ro"],
        }
        options["user"] = str(os.getuid())  # a chapter writes into its folder, as the tests do
        options["hostname"] = socket.gethostname()  # which a lesson's shell takes for the worker's
        return WorkerContainer(
            self.run(IMAGE, command, environment=variables, **options), command, self
        )

    def python(self, worker):
        """Return the command of a Python prompt where the worker runs, in a terminal that does not repeat what is typed."""
        variables = [
            f"--env={name}" for name in ("LOGURU_COLORIZE", "NO_COLOR", "TERM")
        ]  # as they are here
        return [
            "docker",
            "exec",
            "-it",
            *variables,
            worker.id,
            "sh",
            "-c",
            "stty -echo && exec python",
        ]
