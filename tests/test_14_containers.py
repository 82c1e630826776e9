"""Chapter 14's compose.yml in Docker, as `make chapter-14-up` starts it: make test-docker."""

import json
import subprocess
import time
from collections import Counter
from urllib.request import Request, urlopen

from support.checkout import docker

from course.containers import compose_program
from course.environment import STACK, free_port
from course.waiting import wait_until

pytest_plugins = "support.checkout"

CHAPTER = "chapters/14-production"
SERVICES = ["beat", "flower", "ledger", "redis", "web", "worker"]
SECONDS_BETWEEN_CRASHES = 5
PASSWORD = "swordfish"
NEW_TASK = """

@app.task
def neg_request(x):
    return -x
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

def wait(left, seconds):
    end = time.monotonic() + seconds
    while left and time.monotonic() < end:
        time.sleep(1)
        with web.celery.connection_for_write() as connection:
            connection.default_channel.qos.restore_visible(num=100)
        left = {number: id for number, id in left.items() if is_missing(id)}
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
    gone = wait(record, 60)
    for number, id in gone.items():
        send(number, id)
    lost = wait(gone, 30)
counts = {"sent": len(record), "refused": refused, "gone": len(gone), "lost": len(lost)}
print(json.dumps(counts))
"""
COUNT_ENTRIES = """
import sqlite3
query = "SELECT count(*), total(amount) FROM entries"
print(*sqlite3.connect("ledger.db").execute(query).fetchone())
"""


def service_of(container):
    return container["Config"]["Labels"]["com.docker.compose.service"]


class Production:
    """The chapter's containers, in a copy of the checkout."""

    def __init__(self, checkout):
        self.checkout = checkout
        self.folder = checkout.folder / CHAPTER
        self.ports = {"web": free_port(), "flower": free_port()}
        self.load_name = f"celery-course-load-{self.ports['web']}"
        self.port_variables = {
            "WEB_PORT": str(self.ports["web"]),
            "FLOWER_PORT": str(self.ports["flower"]),
        }

    def up(self, options=""):
        variables = [f"{name}={port}" for name, port in self.port_variables.items()]
        self.checkout.make(f"chapter-14-up {' '.join(variables)} {options}")

    def compose(self, *words, output=subprocess.DEVNULL):
        """Start a compose command as a learner types it in the chapter's folder; return it.

        It runs on the project that make has started.
        """
        project = self.by_service()["redis"]["Config"]["Labels"]["com.docker.compose.project"]
        return subprocess.Popen(
            [*compose_program(), "-p", project, *words],
            cwd=self.folder,
            env=self.checkout.env | self.port_variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def assert_compose(self, *words):
        """Fail unless a compose command succeeds within two minutes."""
        status = self.compose(*words).wait(120)
        assert status == 0, (
            f"compose {' '.join(words)} should exit with 0, but it exited with {status}."
        )

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
        """Fail unless all services are healthy within a minute."""
        wait_until(lambda: not self.unhealthy(), 60)
        unhealthy = self.unhealthy()
        assert not unhealthy, (
            f"All services should be healthy within a minute {when}, but these aren't:"
            f" {', '.join(unhealthy)}."
        )

    def crash(self, service):
        """Kill a service's first process from outside, as a system without memory does.

        Fail unless it is started again within 20 seconds.
        """
        state = self.by_service()[service]["State"]
        image = f"celery-course-production:{STACK}"
        shell = ["--user=0", "--entrypoint=sh", image, "-c"]
        docker("run", "--rm", "--pid=host", *shell, f"kill -9 {state['Pid']}")

        def is_back():
            return self.by_service()[service]["State"]["StartedAt"] > state["StartedAt"]

        assert wait_until(is_back, 20), (
            f"The service {service} should start again within 20 seconds when it is killed,"
            " but it didn't."
        )

    def ask(self, path, numbers=None):
        """GET a path of the page, or POST numbers to it; return what the JSON says."""
        data = None
        if numbers:
            data = json.dumps(numbers).encode()
        url = f"http://127.0.0.1:{self.ports['web']}{path}"
        request = Request(url, data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as response:
            return json.load(response)


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


def assert_password_hidden(name, container):
    """Fail if Docker shows the password of a service, or if its image has it."""
    log = subprocess.run(
        ["docker", "logs", container["Id"]], capture_output=True, text=True, check=True
    )
    processes = docker("top", container["Id"], "-o", "uid,pid,args")
    shown = json.dumps(container) + processes + log.stdout + log.stderr
    assert PASSWORD not in shown, (
        f"Docker should not show the password of {name}, but its inspect, top or logs do."
    )
    image = container["Config"]["Image"]
    if image.startswith("redis"):
        return
    files = docker("run", "--rm", "--entrypoint=ls", image, "-A", "/app").split()
    assert "redis_password" not in files, (
        f"The image {image} should not have the password, but it has the file redis_password."
    )


def assert_running(production):
    """Fail unless the services are secured, and the page and Flower work."""
    for name, container in production.by_service().items():
        assert_secured(production, name, container)
        assert_password_hidden(name, container)
    redis = production.by_service()["redis"]["Id"]
    reply = docker("exec", redis, "redis-cli", "ping").strip()
    assert reply.startswith("NOAUTH"), (
        f"Redis should require a password, but without one it replies {reply}."
    )
    id = production.ask("/sums", [1, 2, 3])["id"]
    wanted = {"state": "SUCCESS", "result": 6}
    wait_until(lambda: production.ask(f"/sums/{id}") == wanted, 10)
    found = production.ask(f"/sums/{id}")
    assert found == wanted, f"The page should answer {wanted} for a sum, but it answered {found}."
    metrics_url = f"http://127.0.0.1:{production.ports['flower']}/metrics"
    with urlopen(metrics_url, timeout=10) as response:
        metrics = response.read().decode()
    for name in "flower_worker_online", "flower_events_total", "flower_task_runtime_seconds":
        assert name in metrics, f"Flower should have the metric {name}, but it doesn't."


def update_workers(production):
    """Give the workers a new version, as the lesson does; fail if anything else is replaced."""
    with (production.folder / "tasks/math.py").open("a") as code:
        code.write(NEW_TASK)
    before = production.by_service()
    cancel = ["exec", "-T", "worker", "celery", "-A", "tasks", "control", "cancel_consumer"]
    production.assert_compose("build", "worker")
    production.assert_compose(*cancel, "celery")
    production.assert_compose(*cancel, "ledger")
    time.sleep(2)
    production.assert_compose("up", "-d", "--no-deps", "worker", "ledger")
    replaced = set()
    for name, container in production.by_service().items():
        if container["Id"] != before[name]["Id"]:
            replaced.add(name)
    assert replaced == {"worker", "ledger"}, (
        f"An update should replace the workers alone, but it replaced {replaced}."
    )


def start_load(production):
    """Start LOAD beside the services; return its process once its container runs."""
    run = ["run", "--rm", "-T", "--no-deps", "--name", production.load_name]
    load = production.compose(*run, "worker", "python", "-c", LOAD, output=subprocess.PIPE)

    def is_running():
        return docker("ps", "--quiet", f"--filter=name={production.load_name}")

    assert wait_until(is_running, 30), (
        "The load's container should run within 30 seconds, but it doesn't."
    )
    return load


def stop_load(production, load):
    """Let LOAD send no more tasks, and wait for the results; return its counts."""
    assert load.poll() is None, (
        f"The load should run until the update is over, but it exited with {load.poll()}."
    )
    docker("kill", "--signal=USR1", production.load_name)
    output, _ = load.communicate(timeout=150)
    print(output)  # for pytest -s
    return json.loads(output)


def kill_each(production):
    """Send twenty tasks a second while each service crashes in turn and the workers are updated."""
    load = start_load(production)
    time.sleep(SECONDS_BETWEEN_CRASHES)
    for service in SERVICES:
        begin = time.monotonic()
        production.crash(service)
        time.sleep(max(0, begin + SECONDS_BETWEEN_CRASHES - time.monotonic()))
    update_workers(production)
    found = stop_load(production, load)
    assert found["lost"] == 0, (
        f"Every task should have a result, some after they were sent again, but the counts are"
        f" {found}."
    )
    # At most one message for each kill of a worker and of Redis, and one result that was lost.
    assert found["gone"] <= 4, (
        f"A kill should lose one message at most, and an update none, but the counts are {found}."
    )
    ledger = production.by_service()["ledger"]["Id"]
    count = found["sent"] // 2
    wanted = f"{count} {float(count)}"
    entries = docker("exec", ledger, "python", "-c", COUNT_ENTRIES).strip()
    assert entries == wanted, (
        f"Each entry should be in the ledger once, {wanted} in all, but the count and the total are"
        f" {entries}."
    )
    production.assert_healthy("after they were killed")


def kill_by_docker(production):
    """A service stays down after `docker kill`, until `make chapter-14-up` starts it again."""
    before = production.by_service()
    docker("kill", before["beat"]["Id"])
    time.sleep(3)
    status = production.by_service()["beat"]["State"]["Status"]
    assert status == "exited", (
        f"A service should stay down after docker kill, but beat is {status}."
    )
    production.up("WORKERS=2")
    counts = Counter(map(service_of, production.containers()))
    assert counts == Counter([*SERVICES, "worker"]), (
        f"WORKERS=2 should start a second worker, but the containers are {dict(counts)}."
    )
    redis = production.by_service()["redis"]
    assert redis["Id"] == before["redis"]["Id"], (
        "make chapter-14-up should leave alone what runs, but it replaced Redis."
    )
    production.assert_healthy("after make chapter-14-up")


def assert_compose_file_is_right(production):
    done = subprocess.run(
        [*compose_program(), "config", "--quiet"],
        cwd=production.folder,
        env=production.checkout.env,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert not output, f"compose should find nothing wrong with compose.yml, but it says: {output}"


def test_production(checkout):
    production = Production(checkout)
    (production.folder / "redis_password").write_text(PASSWORD + "\n")
    # Hand out sooner what a killed worker held.
    config = production.folder / "celeryconfig.py"
    settings = config.read_text()
    config.write_text(settings.replace('"visibility_timeout": 100', '"visibility_timeout": 5'))
    assert_compose_file_is_right(production)
    production.up()
    production.assert_healthy("after the start")
    logs = checkout.terminal("make logs")
    assert_running(production)
    kill_each(production)
    kill_by_docker(production)
    checkout.make("down")
    left = [container["Name"] for container in production.containers()]
    assert not left, f"make down should remove all containers, but it left {left}."
    logs.ends()
    shown = logs.text()
    for text in "tasks.math.add_request", "tasks.ledger.enter_request", "web":
        assert text in shown, f"make logs should show what all services log, but {text} is missing."
