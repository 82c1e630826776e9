"""Chapter 7's workers in Docker containers, as `make chapter-7-up WORKERS=3` starts them: `make test-docker` runs this."""

import gc
import re

from celery import Celery, group
from support.assertions import WARM_STOP
from support.checkout import docker

from course.waiting import wait_until

pytest_plugins = "checkout"

# A task that lasts, and tells which container ran it. It is added to a copy of the chapter.
NAP = """

@app.task
def nap(seconds):
    import socket
    import time
    time.sleep(seconds)
    return socket.gethostname()
"""


def test_three_workers_share_a_group_and_one_is_stopped(checkout):
    with (checkout.folder / "chapters/7-routing/tasks/math.py").open("a") as code:
        code.write(NAP)
    checkout.make("chapter-7-up WORKERS=3 ARGS='-c 2'")
    containers = checkout.containers()
    services = [each["Config"]["Labels"]["com.docker.compose.service"] for each in containers]
    workers = [found for found, name in zip(containers, services, strict=True) if name == "worker"]
    assert sorted(services) == ["ledger", "redis", "worker", "worker", "worker"], (
        f"WORKERS=3 should start three workers, and one for the ledger, beside Redis; there are {services}."
    )
    users = {
        found["Config"]["User"]
        for found, name in zip(containers, services, strict=True)
        if name != "redis"
    }
    assert users == {"celery"}, f"The workers should run as the user celery, they run as {users}."
    published = "".join(docker("port", each["Id"]) for each in containers).strip()
    wanted = f"6379/tcp -> 127.0.0.1:{checkout.port}"
    assert published == wanted, (
        f"Redis alone should be published, on loopback; there are {published}."
    )
    logs = checkout.terminal("make logs")
    url = f"redis://127.0.0.1:{checkout.port}/0"
    app = Celery(broker=url, backend=url, set_as_current=False)
    wait_until(lambda: len(app.control.ping(timeout=2)) == 4, 60)
    found = app.control.inspect(timeout=10, limit=4).active_queues() or {}
    taken = sorted(queue["name"] for queues in found.values() for queue in queues)
    assert taken == ["celery"] * 3 + ["ledger"], (
        f"The ledger's worker alone should take its queue: {taken}."
    )
    balance = app.signature("tasks.ledger.enter_request", ["pay", 2000], app=app).apply_async(
        queue="ledger"
    )
    assert balance.get(timeout=30) == 2000.0, "The ledger's worker should keep an amount."
    result = group(
        app.signature("tasks.math.nap", [0.1], app=app) for _ in range(300)
    ).apply_async()
    wait_until(lambda: result.completed_count() >= 60, 60)
    docker("stop", "-t", str(WARM_STOP), workers[0]["Id"])
    # A worker that ends in the instant in which it takes a message takes that along.
    wait_until(lambda: result.completed_count() >= 299, 60)
    hosts = [each.get() for each in result.results if each.ready()]
    assert len(hosts) >= 299, (
        f"All 300 results should come, though a worker was stopped; {len(hosts)} came."
    )
    names = sorted(each["Config"]["Hostname"] for each in workers)
    assert sorted(set(hosts)) == names, f"All of {names} should share the group, {set(hosts)} did."
    result.clear()  # while the server that is told of it is there
    gc.collect()
    checkout.make("down")
    logs.ends()
    told = set(re.findall(r"(worker[-_]\d+) .*math\.nap\[", logs.text()))
    assert len(told) == 3, (
        f"make logs should show the tasks of three workers, it shows those of {told}."
    )
    left = [each["Name"] for each in checkout.containers()]
    assert not left, f"make down should remove all containers, it left {left}."
