"""Chapter 14's compose.yml in Docker, by the commands of its lesson: make test-docker."""

import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64encode
from collections import Counter
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pexpect
import pytest
from support.checkout import docker, needs_docker

from course.chapters import ROOT
from course.containers import compose_program
from course.environment import free_port
from course.waiting import wait_until

pytestmark = needs_docker
CHAPTER = "chapters/14-production"
SERVICES = ["bank", "beat", "flower", "ledger", "rates", "redis", "web", "worker"]
# What has a new image in an update.
UPDATED = ["beat", "flower", "ledger", "rates", "web", "worker"]
SECONDS_BETWEEN_CRASHES = 5
PASSWORD = "sword/fish@#%41"  # what a URL must quote
LOGIN = "admin:herring"
IMAGE = "celery-course-production"
CRASH = (
    "docker compose exec redis sh -c"
    " 'REDISCLI_AUTH=$(cat /run/secrets/redis_password) redis-cli debug segfault'"
)
# For an engine that has the older program alone.
DOCKER = """#!/bin/sh
[ "$1" = compose ] || exec {docker} "$@"
shift
exec {compose} "$@"
"""
NEW_TASK = """

@app.task
def neg_request(x):
    return -x
"""
ASK_NEW_TASK = """
from tasks.math import neg_request
print(neg_request.delay(4).get(timeout=20))
"""
# A client like the page's server, which sends twenty tasks a second until it receives SIGUSR1. It
# records what it sends, doesn't wait for a Redis that is down, and at the end sends again what has
# no result. Before that it restores what killed workers held, as a worker does now and then.
LOAD = """
import itertools, json, signal, time, uuid
import web
from celery.result import denied_join_result
from tasks import add_request, enter_request

record = {}
refused = 0
stopping = False

def stop(*_):
    global stopping
    stopping = True

def send(number, id):
    if number % 2:
        enter_request.apply_async([str(number), 1], task_id=id)
    else:
        add_request.apply_async([number, number], task_id=id)

def send_until_accepted(number, id):
    global refused
    while True:
        try:
            return send(number, id)
        except Exception:
            refused += 1
            time.sleep(0.2)

def is_missing(id):
    try:
        return web.celery.backend.get_task_meta(id)["status"] != "SUCCESS"
    except Exception:
        return True

def wait(left):
    # until all have a result, or for a minute none has got one
    end = time.monotonic() + 60
    while left and time.monotonic() < end:
        time.sleep(1)
        with web.celery.connection_for_write() as connection:
            connection.default_channel.qos.restore_visible(num=100)
        missing = {number: id for number, id in left.items() if is_missing(id)}
        if len(missing) < len(left):
            end = time.monotonic() + 60
        left = missing
    return left

signal.signal(signal.SIGUSR1, stop)
begin = time.monotonic()
with denied_join_result():
    for number in itertools.count():
        if stopping:
            break
        time.sleep(max(0, begin + number / 20 - time.monotonic()))
        record[number] = str(uuid.uuid4())
        send_until_accepted(number, record[number])
    gone = wait(record)
    for number, id in gone.items():
        send(number, id)
    lost = wait(gone)
counts = {"sent": len(record), "refused": refused, "gone": len(gone), "lost": len(lost)}
print(json.dumps(counts))
"""
COUNT_ENTRIES = """
import sqlite3
query = "SELECT count(*), total(amount) FROM entries"
print(*sqlite3.connect("ledger.db").execute(query).fetchone())
"""
REMOVE = """cd {folder}
docker compose down --volumes
docker rmi --force --no-prune $(docker images --quiet {image})
"""


def service_of(container):
    return container["Config"]["Labels"]["com.docker.compose.service"]


class Production:
    """The app in containers, started in a folder that is a copy of the chapter's."""

    def __init__(self, reaper, folder, **variables):
        self.folder = folder
        self.ports = {"web": free_port(), "flower": free_port()}
        self.load_name = f"celery-course-load-{self.ports['web']}"
        self.image = f"celery-course-test-{self.ports['web']}"
        self.env = os.environ | variables
        self.env |= {
            "WEB_PORT": str(self.ports["web"]),
            "FLOWER_PORT": str(self.ports["flower"]),
            "PATH": f"{self.make_docker()}{os.pathsep}{os.environ['PATH']}",
        }
        # Nobody else's image is replaced.
        self.edit("compose.yml", IMAGE, self.image)
        removal = folder.parent / "remove.sh"
        removal.write_text(REMOVE.format(folder=folder, image=self.image))
        self.removal = f"env PATH={self.env['PATH']} sh {removal}"
        reaper.watch(self.removal)

    def make_docker(self):
        """Make a program that knows `docker compose`; return its folder."""
        folder = self.folder.parent / "bin"
        folder.mkdir()
        program = folder / "docker"
        compose = " ".join(compose_program())
        program.write_text(DOCKER.format(docker=shutil.which("docker"), compose=compose))
        program.chmod(0o755)
        return folder

    def edit(self, file, old, new):
        """Replace a text in a file of the copy."""
        text = (self.folder / file).read_text()
        assert old in text, f"{file} should have {old!r}."
        (self.folder / file).write_text(text.replace(old, new))

    def type(self, line, may_fail=False):
        """Type a line of the lesson in the folder; fail unless it succeeds."""
        lesson = (ROOT / CHAPTER / "README.md").read_text()
        assert f"\n$ {line}\n" in lesson, f"The lesson should have the line: $ {line}"
        return self.run(line, may_fail)

    def run(self, line, may_fail=False):
        """Run a line in a terminal; return what it prints, or fail unless it succeeds."""
        text, status = pexpect.run(
            "sh",
            args=["-c", line],
            timeout=900,  # an image may have to be built
            cwd=self.folder,
            env=self.env,
            encoding="utf-8",
            withexitstatus=True,
        )
        assert may_fail or status == 0, f"{line} should succeed, but it returned {status}:\n{text}"
        return text

    def keep_passwords(self):
        """Make the two passwords as the lesson does, and write known ones in their place."""
        self.type("mkdir -m 700 secrets")
        self.type("openssl rand -hex 32 > secrets/redis_password")
        self.type('echo "admin:$(openssl rand -hex 16)" > secrets/flower_login')
        self.type("chmod 644 secrets/*")
        secrets = self.folder / "secrets"
        mode = secrets.stat().st_mode & 0o777
        assert mode == 0o700, f"Only the owner should get into secrets, but its mode is {mode:o}."
        length = len((secrets / "redis_password").read_text())
        assert length == 65, f"The password should have 64 characters, but the file has {length}."
        (secrets / "redis_password").write_text(PASSWORD + "\n")
        (secrets / "flower_login").write_text(LOGIN + "\n")

    def containers(self):
        """Return what Docker says about each container of a service."""
        label = f"--filter=label=com.docker.compose.project.working_dir={self.folder.resolve()}"
        service = "--filter=label=com.docker.compose.oneoff=False"
        ids = docker("ps", "--all", "--quiet", label, service).split()
        if not ids:
            return []
        return json.loads(docker("inspect", *ids))

    def by_service(self):
        """Return what Docker says about one container of each service, by its name."""
        return {service_of(container): container for container in self.containers()}

    def unhealthy(self):
        """Return the services that aren't healthy."""
        containers = self.by_service()
        unhealthy = []
        for name in SERVICES:
            state = containers.get(name, {}).get("State", {})
            if state.get("Health", {}).get("Status") != "healthy":
                unhealthy.append(name)
        return unhealthy

    def assert_healthy(self, when):
        """Fail unless all services are healthy within two minutes."""
        wait_until(lambda: not self.unhealthy(), 120)
        unhealthy = self.unhealthy()
        assert not unhealthy, (
            f"All services should be healthy within two minutes {when}, but these aren't:"
            f" {', '.join(unhealthy)}."
        )

    def crash(self, service):
        """Kill a service's first process from outside, as a system without memory does."""
        state = self.by_service()[service]["State"]
        image = self.by_service()["worker"]["Config"]["Image"]
        shell = ["--user=0", "--entrypoint=sh", image, "-c"]
        docker("run", "--rm", "--pid=host", *shell, f"kill -9 {state['Pid']}")
        self.assert_started_after(service, state["StartedAt"])

    def assert_started_after(self, service, start):
        """Fail unless a service is started again within 30 seconds after an earlier start."""

        def is_back():
            return self.by_service()[service]["State"]["StartedAt"] > start

        assert wait_until(is_back, 60), (
            f"The service {service} should start again within 30 seconds when it crashes,"
            " but it didn't."
        )

    def ask(self, path, numbers=None):
        """GET a path of the page, or POST numbers to it; return what the JSON says."""
        data = None
        if numbers:
            data = json.dumps(numbers).encode()
        url = f"http://127.0.0.1:{self.ports['web']}{path}"
        request = Request(url, data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as response:
            return json.load(response)

    def assert_adds(self, when):
        """Fail unless the page's server and a worker add up within twenty seconds."""
        id = self.ask("/sums", [1, 2, 3])["id"]
        wanted = {"state": "SUCCESS", "result": 6}
        wait_until(lambda: self.ask(f"/sums/{id}") == wanted, 60)
        found = self.ask(f"/sums/{id}")
        assert found == wanted, (
            f"The page should answer {wanted} for a sum {when}, but it answered {found}."
        )

    def python(self, service, code):
        """Run Python in a container of a service; return what it prints."""
        return docker("exec", self.by_service()[service]["Id"], "python", "-c", code).strip()


def assert_secured(production, name, container):
    """Fail if a service runs as root, may write to its root, or has no limit on memory."""
    lines = docker("top", container["Id"], "-o", "uid,pid,args").splitlines()[1:]
    users = {line.split()[0] for line in lines}
    assert not users & {"0", "root"}, (
        f"{name} should not run as root, but its processes are {lines}."
    )
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"], f"{name} should have a read-only root, but it doesn't."
    assert host["Memory"], f"{name} should have a limit on memory, but it has none."
    wanted = []
    if name in production.ports:
        wanted = [f"127.0.0.1:{production.ports[name]}"]
    found = [line.split()[-1] for line in docker("port", container["Id"]).splitlines()]
    assert found == wanted, f"{name} should be published as {wanted}, but it is as {found}."


def assert_passwords_hidden(name, container):
    """Fail if Docker shows a password of a service, or if its image has one."""
    log = subprocess.run(
        ["docker", "logs", container["Id"]], capture_output=True, text=True, check=True
    )
    processes = docker("top", container["Id"], "-o", "uid,pid,args")
    shown = json.dumps(container) + processes + log.stdout + log.stderr
    for secret in (PASSWORD, LOGIN):
        assert secret not in shown, (
            f"Docker should not show a password of {name}, but its inspect, top or logs do."
        )
    image = container["Config"]["Image"]
    if image.startswith("redis"):
        return
    files = docker("run", "--rm", "--entrypoint=ls", image, "-A", "/app").split()
    for unwanted in ("secrets", ".venv", ".env"):
        assert unwanted not in files, (
            f"The image {image} should have the app alone, but it has {unwanted}."
        )


WRITE = """
import pathlib
for folder in "/data", "/tmp", "/app", "/var/tmp":
    try:
        pathlib.Path(folder, "new").touch()
        print(folder, end=" ")
    except OSError:
        pass
"""


def assert_writes(production):
    """Fail unless the services may write where the lesson says, and nowhere else."""
    for service, wanted in {"worker": "/tmp", "ledger": "/data /tmp", "flower": "/tmp"}.items():
        found = production.python(service, WRITE)
        assert found == wanted, f"{service} should write to {wanted} alone, but it does to {found}."


def status_of(url, login=None):
    """GET a URL, with a login if there is one; return the status of the response."""
    request = Request(url)
    if login:
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    try:
        with urlopen(request, timeout=30) as response:
            return response.status
    except HTTPError as error:
        return error.code


def assert_flower_wants_its_login(production):
    url = f"http://127.0.0.1:{production.ports['flower']}"
    found = status_of(url), status_of(url, "admin:guess"), status_of(url, LOGIN)
    assert found == (401, 401, 200), (
        "Flower should answer 401 without a login and with a wrong one, and 200 with the right one,"
        f" but it answered {found}."
    )
    with urlopen(f"{url}/metrics", timeout=30) as response:
        metrics = response.read().decode()
    for name in "flower_worker_online", "flower_events_total", "flower_task_runtime_seconds":
        assert name in metrics, f"Flower should have the metric {name}, but it doesn't."


RATE = """
from tasks import rate_request
print(rate_request.delay("USD").get(timeout=20))
"""


def assert_running(production):
    """Fail unless the services are secured, and the page, Flower and the bank work."""
    for name, container in production.by_service().items():
        assert_secured(production, name, container)
        assert_passwords_hidden(name, container)
    assert_writes(production)
    redis = production.by_service()["redis"]["Id"]
    reply = docker("exec", redis, "redis-cli", "ping").strip()
    assert reply.startswith("NOAUTH"), (
        f"Redis should require a password, but without one it replies {reply}."
    )
    production.assert_adds("after the start")
    rate = production.python("web", RATE)
    assert rate == "1.16", f"rate_request should return the bank's 1.16, but it returned {rate}."
    assert_flower_wants_its_login(production)


def start_load(production):
    """Start LOAD beside the services; return its process once its container runs."""
    command = ["docker", "compose", "run", "--rm", "-T", "--no-deps"]
    command += ["--name", production.load_name, "worker", "python", "-c", LOAD]
    load = subprocess.Popen(
        command,
        cwd=production.folder,
        env=production.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def is_running():
        return docker("ps", "--quiet", f"--filter=name={production.load_name}")

    assert wait_until(is_running, 60), (
        "The load's container should run within a minute, but it doesn't."
    )
    return load


def stop_load(production, load):
    """Let LOAD send no more tasks, and wait for the results; return its counts."""
    assert load.poll() is None, (
        f"The load should run until the update is over, but it exited with {load.poll()}."
    )
    docker("kill", "--signal=USR1", production.load_name)
    output, _ = load.communicate(timeout=600)
    print(output)  # for pytest -s
    return json.loads(output)


def tags_of(production):
    """Return the tag of each service's image."""
    tags = {}
    for name, container in production.by_service().items():
        tags[name] = container["Config"]["Image"].rpartition("-")[2]
    return tags


def assert_version(production, wanted):
    """Fail unless all of the app runs from the image with this tag."""
    tags = tags_of(production)
    for name in UPDATED:
        assert tags[name] == wanted, (
            f"{name} should run version {wanted}, but it runs {tags[name]}."
        )


def update(production):
    """Bring a new version and go back, as the lesson does; fail if Redis is replaced."""
    with (production.folder / "tasks/math.py").open("a") as code:
        code.write(NEW_TASK)
    before = production.by_service()["redis"]["Id"]
    production.type("echo TAG=2 > .env")
    production.type("docker compose build worker")
    production.type("sh update.sh")
    assert_version(production, "2")
    assert production.python("worker", ASK_NEW_TASK) == "-4", "The new task should be known."
    production.type("echo TAG=1 > .env")
    production.type("sh update.sh")
    assert_version(production, "1")
    assert production.by_service()["redis"]["Id"] == before, (
        "An update should leave Redis alone, but it replaced it."
    )


def kill_each(production):
    """Send twenty tasks a second while each service crashes in turn and the app is updated."""
    load = start_load(production)
    time.sleep(SECONDS_BETWEEN_CRASHES)
    for service in SERVICES:
        begin = time.monotonic()
        production.crash(service)
        time.sleep(max(0, begin + SECONDS_BETWEEN_CRASHES - time.monotonic()))
    update(production)
    found = stop_load(production, load)
    assert found["lost"] == 0, (
        f"Every task should have a result, some after they were sent again, but the counts are"
        f" {found}."
    )
    # At most one message for each kill of a worker and of Redis, and one result that was lost.
    assert found["gone"] <= 4, (
        f"A kill should lose one message at most, and an update none, but the counts are {found}."
    )
    count = found["sent"] // 2
    wanted = f"{count} {float(count)}"
    entries = production.python("ledger", COUNT_ENTRIES)
    assert entries == wanted, (
        f"Each entry should be in the ledger once, {wanted} in all, but the count and the total are"
        f" {entries}."
    )
    production.assert_healthy("after they were killed")


def crash_redis_by_hand(production):
    """Crash Redis as the lesson does."""
    start = production.by_service()["redis"]["State"]["StartedAt"]
    production.type(CRASH, may_fail=True)
    production.assert_started_after("redis", start)
    production.assert_healthy("after Redis has crashed")
    production.assert_adds("after Redis has crashed")


def kill_by_docker(production):
    """A service stays down after `docker kill`, until it is started again, with more workers."""
    before = production.by_service()
    docker("kill", before["beat"]["Id"])
    time.sleep(3)
    status = production.by_service()["beat"]["State"]["Status"]
    assert status == "exited", (
        f"A service should stay down after docker kill, but beat is {status}."
    )
    production.type("echo WORKERS=3 >> .env")
    production.type("docker compose up -d")
    counts = Counter(map(service_of, production.containers()))
    assert counts == Counter([*SERVICES, "worker", "worker"]), (
        f"WORKERS=3 should start two more workers, but the containers are {dict(counts)}."
    )
    redis = production.by_service()["redis"]
    assert redis["Id"] == before["redis"]["Id"], (
        "docker compose up should leave alone what runs, but it replaced Redis."
    )
    production.assert_healthy("after docker compose up")


@pytest.fixture
def produce(nodes, tmp_path):
    """A function that makes a Production in a folder; what it starts is removed in the end."""
    made = []

    def produce(folder, **variables):
        made.append(Production(nodes.reaper, folder, **variables))
        return made[-1]

    yield produce
    for production in made:
        subprocess.run(production.removal.split(), check=False, capture_output=True)
        nodes.reaper.forget(production.removal)


def copy_chapter(folder):
    """Copy the chapter's folder, without what it has written."""
    ignored = shutil.ignore_patterns("__pycache__", "secrets", ".env", "*.db*")
    return shutil.copytree(ROOT / CHAPTER, folder, ignore=ignored)


def test_production(produce, tmp_path):
    production = produce(copy_chapter(tmp_path / f"sums-{free_port()}"))
    # Hand out sooner what a killed worker held.
    production.edit("celeryconfig.py", '"visibility_timeout": 100', '"visibility_timeout": 5')
    production.keep_passwords()
    found = production.run("docker compose config --quiet")
    assert not found, f"compose should find nothing wrong with compose.yml, but it says: {found}"
    production.type("docker compose up -d --build")
    production.assert_healthy("after the start")
    assert_running(production)
    crash_redis_by_hand(production)
    kill_each(production)
    kill_by_docker(production)


def test_make_and_compose_find_the_same_containers(produce, tmp_path):
    """The folder is elsewhere. Whatever make starts, a command in the folder finds."""
    folder = copy_chapter(tmp_path / f"copy-{free_port()}")
    production = produce(folder)
    production.keep_passwords()
    make = f"make --no-print-directory -C {ROOT} DIR={folder}"
    production.run(f"{make} chapter-14-up")
    production.assert_healthy("after make chapter-14-up")
    listed = production.type("docker compose ps")
    for name in SERVICES:
        assert re.search(rf"{folder.name}.{name}.1", listed), (
            f"docker compose ps should list {name}, but it lists: {listed}"
        )
    other = copy_chapter(tmp_path / "other" / folder.name)
    up = ["make", "-C", ROOT, f"DIR={other}", "chapter-14-up"]
    text = subprocess.run(up, check=False, capture_output=True, text=True).stderr
    sentence = f"The containers of {folder} have the same project name"
    assert sentence in text, f"make chapter-14-up should print {sentence!r}, but it printed {text}"
    production.run(f"{make} down")
    left = [container["Name"] for container in production.containers()]
    assert not left, f"make down should remove all containers, but it left {left}."


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_tag_runs_alone(produce, tmp_path):
    """A checkout of the tag has the learner's .venv at its top, and no course."""
    folder = tmp_path / f"tag-{free_port()}"
    for command in (
        f"git clone --quiet {ROOT} {folder}",
        f"sh {folder}/tools/tags.sh",
        f"git -C {folder} checkout --quiet chapter-14",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    (folder / ".venv").mkdir()
    production = produce(folder)
    production.keep_passwords()
    production.type("docker compose up -d --build")
    production.assert_healthy("after the start from the tag")
    assert_passwords_hidden("worker", production.by_service()["worker"])
    production.assert_adds("after the start from the tag")
