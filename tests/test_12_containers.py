"""Chapter 12's compose.yml in Docker, as `make chapter-12-up` starts it: `make test-docker` runs this."""

import json
import os
import subprocess
import time
from collections import Counter
from urllib.request import Request, urlopen

from support.checkout import docker

from course.containers import compose_program
from course.environment import STACK, free_port
from course.waiting import wait_until

pytest_plugins = "checkout"

CHAPTER = "chapters/12-production"
SERVICES = ["beat", "flower", "ledger", "redis", "web", "worker"]
# Of load, in which each service is killed in turn.
SECONDS = int(os.environ.get("CHAPTER_12_SECONDS") or 45)
PASSWORD = "swordfish"
NEW_TASK = """

@app.task
def neg_request(x):
    return -x
"""
# A client as the page's server is: it has a record of what it sends, doesn't wait for a Redis that is down, and at the
# end sends again what has no answer. Before that it hands out what killed workers held, as a worker does now and then.
LOAD = f"""
import json, time, uuid
import web
from celery.result import denied_join_result
from tasks import add_request, enter_request

def send(number, id):
    task, arguments = (enter_request, [str(number), 1]) if number % 2 else (add_request, [number, number])
    task.apply_async(arguments, task_id=id)

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
        left = {{number: id for number, id in left.items() if is_missing(id)}}
    return left

record, refused, begin = {{}}, 0, time.monotonic()
with denied_join_result():
    for number in range({SECONDS} * 20):
        time.sleep(max(0, begin + number / 20 - time.monotonic()))
        record[number] = str(uuid.uuid4())
        while True:
            try:
                send(number, record[number])
                break
            except Exception:
                refused += 1
                time.sleep(0.2)
    sent = time.monotonic() - begin
    gone = wait(record, 60)
    for each in gone.items():
        send(*each)
    lost = wait(gone, 30)
print(json.dumps(dict(sent=len(record), seconds=sent, refused=refused, gone=len(gone), lost=len(lost))))
"""
COUNT = "import sqlite3; print(*sqlite3.connect('ledger.db').execute('SELECT count(*), total(amount) FROM entries').fetchone())"


class Production:
    """The chapter's containers, in a copy of the checkout."""

    def __init__(self, checkout):
        self.checkout, self.folder = checkout, checkout.folder / CHAPTER
        self.ports = {"WEB_PORT": free_port(), "FLOWER_PORT": free_port()}

    def up(self, options=""):
        ports = " ".join(f"{name}={port}" for name, port in self.ports.items())
        self.checkout.make(f"chapter-12-up {ports} {options}")

    def compose(self, *words, **options):
        """Start a compose command as it is typed in the chapter's folder, on the project that make has started."""
        project = self.all()["redis"]["Config"]["Labels"]["com.docker.compose.project"]
        env = self.checkout.env | {name: str(port) for name, port in self.ports.items()}
        command = [*compose_program(), "-p", project, *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, text=True, **options
        )

    def list(self):
        """Return what Docker says about each container."""
        label = f"--filter=label=com.docker.compose.project.working_dir={self.folder.resolve()}"
        service = "--filter=label=com.docker.compose.oneoff=False"
        ids = docker("ps", "--all", "--quiet", label, service).split()
        return json.loads(docker("inspect", *ids)) if ids else []

    def all(self):
        """The same by service."""
        return {
            each["Config"]["Labels"]["com.docker.compose.service"]: each for each in self.list()
        }

    def unwell(self):
        """Return the services that aren't healthy, as text."""
        states = {name: each["State"] for name, each in self.all().items()}
        return ", ".join(
            name for name in SERVICES if '"Status": "healthy"' not in json.dumps(states.get(name))
        )

    def within_a_minute(self, when):
        wait_until(lambda: not self.unwell(), 60)
        unwell = self.unwell()
        assert not unwell, (
            f"All services should be healthy within a minute {when}; these aren't: {unwell}."
        )

    def crash(self, service):
        """Kill the first process of a service from outside, as a system without memory does; wait until it is back."""
        state = self.all()[service]["State"]
        kill = [
            "--user=0",
            "--entrypoint=sh",
            f"celery-course-production:{STACK}",
            "-c",
            f"kill -9 {state['Pid']}",
        ]
        docker("run", "--rm", "--pid=host", *kill)
        back = wait_until(
            lambda: self.all()[service]["State"]["StartedAt"] > state["StartedAt"], 20
        )
        assert back, (
            f"The service {service} should start again when it is killed, and doesn't within 20 seconds."
        )

    def ask(self, path, numbers=None):
        data = numbers and json.dumps(numbers).encode()
        url = f"http://127.0.0.1:{self.ports['WEB_PORT']}{path}"
        with urlopen(
            Request(url, data, {"Content-Type": "application/json"}), timeout=10
        ) as answer:
            return json.load(answer)


def run(production):
    """Who runs, what listens, what is limited, and who knows the password."""
    for name, each in production.all().items():
        config, host = each["Config"], each["HostConfig"]
        lines = docker("top", each["Id"], "-o", "uid,pid,args").splitlines()[1:]
        users = {line.split()[0] for line in lines}
        assert not users & {"0", "root"}, (
            f"{name} should not run as root, its processes are {lines}."
        )
        assert host["ReadonlyRootfs"] and host["Memory"], (
            f"{name} should have a read-only root and limited memory."
        )
        ports = {"web": "WEB_PORT", "flower": "FLOWER_PORT"}
        wanted = [f"127.0.0.1:{production.ports[ports[name]]}"] if name in ports else []
        found = [line.split()[-1] for line in docker("port", each["Id"]).splitlines()]
        assert found == wanted, f"{name} should be published as {wanted}, it is as {found}."
        log = subprocess.run(
            ["docker", "logs", each["Id"]], capture_output=True, text=True, check=True
        )
        shown = json.dumps(each) + "".join(lines) + log.stdout + log.stderr
        assert PASSWORD not in shown, (
            f"Nobody should read the password in what Docker tells of {name}."
        )
        image = config["Image"]
        if not image.startswith("redis"):
            files = docker("run", "--rm", "--entrypoint=ls", image, "-A", "/app").split()
            assert "redis_password" not in files, (
                f"The image should not have the password, it has {files}."
            )
    redis = production.all()["redis"]["Id"]
    said = docker("exec", redis, "redis-cli", "ping").strip()
    assert said.startswith("NOAUTH"), f"Redis should want a password, and without one says {said}."
    id = production.ask("/sums", [1, 2, 3])["id"]
    done = {"state": "SUCCESS", "result": 6}
    wait_until(lambda: production.ask(f"/sums/{id}") == done, 10)
    found = production.ask(f"/sums/{id}")
    assert found == done, f"The page should tell {done} of a sum, it tells {found}."
    with urlopen(
        f"http://127.0.0.1:{production.ports['FLOWER_PORT']}/metrics", timeout=10
    ) as answer:
        told = answer.read().decode()
    for name in "flower_worker_online", "flower_events_total", "flower_task_runtime_seconds":
        assert name in told, f"Flower should have the metric {name}."


def kill_each(production):
    """Twenty tasks a second, while each service crashes in turn and the workers get a new version."""
    words = ["run", "--rm", "-T", "--no-deps", "worker", "python", "-c", LOAD]
    load = production.compose(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    pause = SECONDS / (len(SERVICES) + 2)
    time.sleep(pause)
    for service in SERVICES:
        began = time.monotonic()
        production.crash(service)
        time.sleep(max(0, began + pause - time.monotonic()))
    with (production.folder / "tasks/math.py").open("a") as code:
        code.write(NEW_TASK)
    before = {name: each["Id"] for name, each in production.all().items()}
    to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cancel = ["exec", "-T", "worker", "celery", "-A", "tasks", "control", "cancel_consumer"]
    for words in ["build", "worker"], [*cancel, "celery"], [*cancel, "ledger"]:
        assert not production.compose(*words, **to).wait(120), (
            f"{words} should succeed while tasks arrive."
        )
    time.sleep(2)
    update = production.compose("up", "-d", "--no-deps", "worker", "ledger", **to).wait(120)
    assert not update and load.poll() is None, "The workers should be replaced while tasks arrive."
    new = {name for name, each in production.all().items() if each["Id"] != before[name]}
    assert new == {"worker", "ledger"}, (
        f"An update should replace the workers alone, it replaced {new}."
    )
    said, _ = load.communicate(timeout=SECONDS + 120)
    found = json.loads(said)
    print(found)  # for -s
    assert not found["lost"], (
        f"Every task should have a result, some after it was sent again: {found}"
    )
    # One with each kill of a worker and of Redis, at most, and one whose result could not be told.
    assert found["gone"] <= 4, (
        f"A kill should take one message with it at most, and an update none: {found}"
    )
    ledger = production.all()["ledger"]["Id"]
    wanted = f"{found['sent'] // 2} {found['sent'] / 2}"
    entries = docker("exec", ledger, "python", "-c", COUNT).strip()
    assert entries == wanted, (
        f"Each entry should be in the ledger once, {wanted} in all; there are {entries}."
    )
    production.within_a_minute("after they were killed")


def kill_by_docker(production):
    """`docker kill` is a wish; `make chapter-12-up` fulfils the other."""
    before = production.all()
    docker("kill", before["beat"]["Id"])
    time.sleep(3)
    status = production.all()["beat"]["State"]["Status"]
    assert status == "exited", f"A service should stay down after docker kill; beat is {status}."
    production.up("WORKERS=2")
    counts = Counter(
        each["Config"]["Labels"]["com.docker.compose.service"] for each in production.list()
    )
    assert counts == Counter(SERVICES) + Counter(["worker"]), (
        f"There should be a second worker: {counts}."
    )
    after = production.all()
    assert after["redis"]["State"] == before["redis"]["State"] or (
        after["redis"]["Id"] == before["redis"]["Id"]
    ), "What runs should be left alone."
    production.within_a_minute("after make chapter-12-up")


def test_production(checkout):
    production = Production(checkout)
    (production.folder / "redis_password").write_text(PASSWORD + "\n")
    # What a killed worker held may be handed out again sooner.
    config = production.folder / "celeryconfig.py"
    config.write_text(
        config.read_text().replace('"visibility_timeout": 100', '"visibility_timeout": 5')
    )
    config = [*compose_program(), "config", "--quiet"]
    done = subprocess.run(
        config, cwd=production.folder, env=checkout.env, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert not said, f"compose should find nothing wrong with compose.yml, and says: {said}"
    production.up()
    production.within_a_minute("after the start")
    logs = checkout.terminal("make logs")
    for part in run, kill_each, kill_by_docker:
        part(production)
    checkout.make("down")
    left = [each["Name"] for each in production.list()]
    assert not left, f"make down should remove all containers, it left {left}."
    logs.ends()
    shown = logs.text()
    assert (
        "tasks.math.add_request" in shown
        and "tasks.ledger.enter_request" in shown
        and "web" in shown
    ), "make logs should show what all services log."
