"""Chapter 12: what each way to stop a worker does to the task that runs, and to those that the worker holds."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery
from redis.exceptions import ConnectionError
from support.assertions import WARM_STOP, wait_until_ready
from support.nodes import AppUnderTest

from course.environment import STACK
from course.waiting import wait_until

PINNED = STACK == "pinned"
# What is finished, what is in the queue, what is in unacked.
FINISHES, GOES_BACK, IS_HELD = (1, 3, 0), (0, 4, 0), (0, 0, 4)
WAYS = {
    "TERM": (["SIGTERM"], {}, FINISHES),
    "INT": (["SIGINT"], {}, FINISHES),
    "QUIT": (["SIGQUIT"], {}, GOES_BACK),
    "INT twice": (["SIGINT", "SIGINT"], {}, GOES_BACK),
    "TERM with REMAP_SIGTERM=SIGQUIT": (
        ["SIGTERM"],
        {"env": {"REMAP_SIGTERM": "SIGQUIT"}},
        GOES_BACK,
    ),
    "KILL": (["SIGKILL"], {}, IS_HELD),
    "TERM twice": (["SIGTERM", "SIGTERM"], {}, GOES_BACK if PINNED else FINISHES),
    "QUIT with worker_soft_shutdown_timeout": (
        ["SIGQUIT"],
        {"settings": {"worker_soft_shutdown_timeout": 10}},
        GOES_BACK if PINNED else FINISHES,
    ),
    "TERM to all processes": (["group"], {}, GOES_BACK),
}


def found_after(signals, under):
    """Send four tasks to a worker of one process, and these signals while the first runs; return the counts."""
    [worker] = under.workers
    wait_until_ready(worker)
    url = under.broker.celeryconfig["host_url"]
    app = Celery(broker=url, backend=url, set_as_current=False)
    redis = under.broker.client
    results = [app.send_task("slow.nap", [5]) for _ in range(4)]
    wait_until(lambda: redis.hlen("unacked") == 4 and "nap of" in worker.logs(), 20)
    for number, each in enumerate(signals):
        if number:
            time.sleep(1.5)  # until the first is heeded
        if each == "group":
            os.killpg(int(worker.id), signal.SIGTERM)
        else:
            worker.kill(each)
    if not wait_until(lambda: worker.status == "exited", WARM_STOP):
        return "a worker that is still there"
    done = sum(app.backend.get_task_meta(result.id)["status"] == "SUCCESS" for result in results)
    return done, redis.llen("celery"), redis.hlen("unacked")


@pytest.fixture(scope="module")
def outcomes(request, nodes, folder):
    """What each way has led to: all at the same time, since they mostly wait."""
    args, docker = ["-c", "1", "--without-mingle", "--without-gossip"], request.config.option.docker
    ways = {name: way for name, way in WAYS.items() if not (docker and way[0] == ["group"])}
    under = [
        AppUnderTest(nodes, folder, slow_tasks=True, args=args, **more)
        for _, more, _ in ways.values()
    ]
    with ThreadPoolExecutor(len(ways)) as pool:
        found = pool.map(found_after, [signals for signals, *_ in ways.values()], under)
        found = dict(zip(ways, found, strict=True))
    yield found
    for each in under:
        each.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_a_stop_does(outcomes, way):
    if way not in outcomes:
        pytest.skip("a container's signals go to its first process: make test")
    *_, wanted = WAYS[way]
    done, waiting, _ = wanted
    # Now and then, Celery 5.1 takes once more what it has just given back, and keeps that until the visibility timeout.
    taken_again = (done, waiting - 1, 1) if PINNED and waiting else wanted
    assert outcomes[way] in (wanted, taken_again), (
        f"After {way}, of four tasks (finished, in the queue, in unacked) should be {wanted}, and {outcomes[way]} are."
    )


ALONE = ["--without-mingle", "--without-gossip"]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE])
def test_a_message_that_comes_during_a_stop(worker, app, redis, cancelled):
    """The worker has asked for it: without cancel_consumer, Celery 5.1 mostly loses it."""
    if cancelled:
        app.control.cancel_consumer("celery", reply=True, timeout=10, limit=1)
        time.sleep(1.5)
    worker.kill("SIGTERM")
    wait_until(lambda: "Warm shutdown" in worker.logs(), 5)
    result = app.tasks["slow.nap"].delay(0)
    wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    kept = redis.llen("celery") + redis.hlen("unacked") + (result.state == "SUCCESS")
    wanted = (0, 1) if PINNED and not cancelled else (1,)
    assert kept in wanted, f"With {cancelled=}, 1 of 1 message should be left, {kept} is."


@pytest.mark.isolated(
    server=True,
    slow_tasks=True,
    args=["-c", "1", *ALONE],
    settings={"result_backend_always_retry": True},
)
def test_a_result_while_redis_is_down(request, worker, app, app_under_test):
    if request.config.option.docker:
        pytest.skip("it takes a process away: make test")
    result, server = app.tasks["slow.nap"].delay(1), app_under_test.broker
    wait_until(lambda: "nap of" in worker.logs(), 5)
    server.kill("SIGKILL")
    time.sleep(2)
    server.start()

    def state():
        try:
            return app.backend.get_task_meta(result.id)["status"]
        except ConnectionError:
            return "PENDING"

    wait_until(lambda: state() != "PENDING", 30)
    wanted = "FAILURE" if PINNED else "SUCCESS"
    assert state() == wanted, (
        f"A task that finished without Redis should be told as {wanted}, it is {state()}."
    )
