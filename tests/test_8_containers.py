"""Chapter 8's workers in containers, as `make chapter-8-up WORKERS=3` starts them.

make test-docker runs this.
"""

import gc
import re

import pytest
from celery import Celery, group
from support.assertions import WARM_STOP, ask_workers
from support.checkout import docker, needs_docker
from support.names import ENTER

from course.waiting import wait_until

pytest_plugins = "support.checkout"
pytestmark = needs_docker

# A task that takes its time and returns the container that ran it, added to a copy of the chapter.
NAP = """

@app.task
def nap(seconds):
    import socket
    import time
    time.sleep(seconds)
    return socket.gethostname()
"""


@pytest.fixture
def started(checkout):
    """A checkout whose chapter 8 runs in containers."""
    with (checkout.folder / "chapters/8-routing/tasks/math.py").open("a") as code:
        code.write(NAP)
    checkout.make("chapter-8-up WORKERS=3 ARGS='-c 2'")
    return checkout


@pytest.fixture
def client(started):
    """A client of the workers, which it waits for."""
    url = f"redis://127.0.0.1:{started.port}/0"
    app = Celery(broker=url, backend=url, set_as_current=False)
    wait_until(lambda: len(app.control.ping(timeout=2)) == 4, 60)
    return app


def service_of(container):
    return container["Config"]["Labels"]["com.docker.compose.service"]


def workers_of(checkout):
    """Return what Docker says about the containers of the service worker."""
    return [found for found in checkout.containers() if service_of(found) == "worker"]


def assert_services(checkout):
    """Fail unless three workers, and one for the ledger, run beside Redis, as the right user."""
    containers = checkout.containers()
    services = sorted(map(service_of, containers))
    assert services == ["bank", "ledger", "redis", "worker", "worker", "worker"], (
        "WORKERS=3 should start three workers, and one for the ledger, beside Redis,"
        f" but it started {services}."
    )
    published = ""
    for container in containers:
        user = container["Config"]["User"]
        assert service_of(container) == "redis" or user == "celery", (
            f"{service_of(container)} should run as the user celery, but it runs as {user!r}."
        )
        published += docker("port", container["Id"])
    wanted = f"6379/tcp -> 127.0.0.1:{checkout.port}"
    assert published.strip() == wanted, (
        f"Redis alone should be published, on loopback, but these are: {published}."
    )


def assert_queues(app):
    """Fail unless the ledger's worker alone consumes from its queue, and its task succeeds."""
    replies = ask_workers(app, "active_queues", 4)
    consumed = []
    for queues in replies.values():
        for queue in queues:
            consumed.append(queue["name"])
    assert sorted(consumed) == ["celery"] * 3 + ["ledger"] + ["rates"] * 3, (
        "Three workers should consume from celery and rates, and one from ledger, but they consume"
        " from"
        f" {sorted(consumed)}."
    )
    enter_request = app.signature(ENTER, ["pay", 2000], app=app)
    balance = enter_request.apply_async(queue="ledger").get(timeout=30)
    assert balance == 2000.0, (
        f"The ledger's worker should return the balance 2000.0, but it returned {balance}."
    )


def assert_group_outlives_a_stop(app, workers):
    """Fail unless three workers finish a group although one of them is stopped."""
    nap = app.signature("tasks.math.nap", [0.1], app=app)
    result = group([nap] * 300).apply_async()
    wait_until(lambda: result.completed_count() >= 60, 60)
    docker("stop", "-t", str(WARM_STOP), workers[0]["Id"])
    # A worker that exits in the instant in which it takes a message takes that along.
    wait_until(lambda: result.completed_count() >= 299, 60)
    hosts = [done.get() for done in result.results if done.ready()]
    assert len(hosts) >= 299, (
        f"All 300 results should arrive although a worker was stopped, but {len(hosts)} arrived."
    )
    names = sorted(worker["Config"]["Hostname"] for worker in workers)
    assert sorted(set(hosts)) == names, (
        f"The workers {names} should share the group, but {sorted(set(hosts))} ran it."
    )
    result.clear()


def test_three_workers_share_a_group_and_one_is_stopped(started, client):
    assert_services(started)
    logs = started.terminal("make logs")
    assert_queues(client)
    assert_group_outlives_a_stop(client, workers_of(started))
    gc.collect()  # a result unsubscribes when it is deleted, which needs the server
    started.make("down")
    logs.ends()
    shown = set(re.findall(r"(worker[-_]\d+) .*math\.nap\[", logs.text()))
    assert len(shown) == 3, (
        f"make logs should show the tasks of three workers, but it shows those of {shown}."
    )
    left = [container["Name"] for container in started.containers()]
    assert not left, f"make down should remove all containers, but it left {left}."
