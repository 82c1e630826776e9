"""docker-compose.yml on a real engine, as chapter 5's lesson has it: `make test-docker` runs this."""

import json
import os
import shutil
import subprocess
import time

import pytest
from course import ROOT, expect, free_port, short
from lessons import Lesson
from test_lessons import edited_copy

CHAPTER = "5-canvas"
FILES = ["Makefile", "Dockerfile", ".dockerignore", "docker-compose.yml", "tools", "chapters", ".course"]
# What the lesson types at the prompt, once the workers are there, with a word in the middle, when one of them is to end.
SCRIPT = """
import json, time
from celery import group
from tasks.math import add_request, app
end = time.monotonic() + 60
while len(app.control.ping(timeout=2)) < 3 and time.monotonic() < end: pass

result = group(add_request.s(i, i) for i in range(300)).delay()
print("sent", flush=True)
end = time.monotonic() + 60
while not result.ready() and time.monotonic() < end: time.sleep(0.5)
print(json.dumps([result.completed_count(), sorted({each.worker for each in result.results if each.ready()})]))
"""


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture
def stack(course, tmp_path, request):
    """A copy of the course with the lesson's changes, on a port and as a compose project of its own."""
    if not request.config.getoption("--docker"):
        pytest.skip("needs a Docker engine: make test-docker")
    folder = tmp_path / "course"
    folder.mkdir()
    for name in FILES + [path.name for path in ROOT.glob("requirements*.txt")]:
        (folder / name).symlink_to(ROOT / name) if name == ".course" else copy(ROOT / name, folder / name)
    chapter = folder / "chapters" / CHAPTER
    [session] = [each for each in Lesson(chapter / "README.md").sessions()[0] if each.workers == 3]
    edited, problems = edited_copy(session, chapter, tmp_path)
    expect(not problems, "\n".join(problems))
    shutil.rmtree(chapter)
    edited.rename(chapter)
    stack = Stack(folder, str(free_port()))
    removal = ["down", "--volumes", "--rmi", "local", "--timeout", "1"]
    command = f"env COMPOSE_PROJECT_NAME={stack.project} sh {folder}/tools/compose.sh {' '.join(removal)}"
    course.start()
    course.keeper.watch(command)
    yield stack
    subprocess.run(command.split(), check=True, capture_output=True)
    course.keeper.forget(command)


def copy(source, target):
    shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy(source, target)


class Stack:
    def __init__(self, folder, port):
        self.folder = folder
        self.project = f"course-test-{port}"
        self.env = os.environ | {"REDIS_PORT": port, "COMPOSE_PROJECT_NAME": self.project}
        for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "MAKEFLAGS", "MAKELEVEL"):
            self.env.pop(name, None)

    def make(self, *words):
        """Start a make command; its output is in one stream."""
        return subprocess.Popen(
            ["make", *words],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def done(self, *words):
        process = self.make(*words)
        output, _ = process.communicate(timeout=600)
        expect(process.returncode == 0, f"`make {' '.join(words)}` should end well, and said: {output}")

    def containers(self):
        """Each container there is, as docker inspect has it, after its service."""
        ids = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        found = json.loads(" ".join(docker("inspect", *ids))) if ids else []
        return [(each["Config"]["Labels"]["com.docker.compose.service"], each) for each in found]


def test_three_workers_and_one_stopped(stack):
    stack.done("chapter-5-up", "WORKERS=3", "ARGS=-c 2")
    containers = stack.containers()
    workers = [each for service, each in containers if service == "worker"]
    expect(len(workers) == 3, f"WORKERS=3 should start three workers, it started {len(workers)}.")
    users = {each["Config"]["User"] for each in workers}
    expect(users == {"celery"}, f"The workers should not run as root, they run as {users}.")
    hosts = {
        binding["HostIp"]
        for _, each in containers
        for bindings in each["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    expect(hosts == {"127.0.0.1"}, f"Ports should be published on loopback only, they are on {hosts}.")

    prompt = stack.make("chapter-5-shell")
    prompt.stdin.write(SCRIPT)
    prompt.stdin.close()
    said = prompt.stdout.readline()
    expect(said == "sent\n", f"The prompt should reach the workers, it said {said!r}")
    begin = time.monotonic()
    docker("stop", workers[0]["Id"])
    seconds = time.monotonic() - begin
    expect(
        seconds < 10, f"A warm stop should take less than the 10 s of Docker's patience, it took {seconds}."
    )
    answer = prompt.stdout.read()
    prompt.wait()
    wanted = sorted(f"celery@{each['Config']['Hostname']}" for each in workers)
    expect(answer.startswith("["), f"The prompt should count the results, it said {answer}")
    count, names = json.loads(answer)
    # A message on its way to the worker in the instant of its end is lost, as the lesson says.
    expect(count >= 299, f"All 300 results should come, though one of the workers was stopped; {count} did.")
    expect(names == wanted, f"The results should come from {wanted}, they come from {names}.")
    stack.done("down")
    left = [service for service, _ in stack.containers()]
    expect(not left, f"make down should remove the containers, there are {left} in {short(stack.folder)}.")
