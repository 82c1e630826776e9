"""Chapter 8: what several workers share, and what each has to itself.

What happens to a worker that is killed is in chapter 7's tests.
"""

import time
from itertools import pairwise

import pytest
from celery import group
from support.assertions import ask_workers, assert_result, wait_until_ready

from course.chapters import ROOT, display_path
from course.environment import PINNED, PROGRAMS
from course.waiting import wait_until


@pytest.mark.isolated(count=2, slow_tasks=True)
def test_worker_that_is_stopped_gives_back_what_it_holds(celery_setup, app, worker, redis):
    result = group(app.tasks["slow.held"].s(number) for number in range(12)).delay()
    # Each runs two and holds the others: a worker that exits as it takes a message loses that.
    wait_until(lambda: redis.get("begun") == "4" and redis.hlen("unacked") == 12)
    worker.kill("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    redis.set("released", 1)
    # No message waits for the visibility timeout, which is an hour.
    found = result.get(timeout=60)
    assert found == list(range(12)), (
        f"The group should return all its results in order, but it returned {found}."
    )
    shares = [worker.logs().count("succeeded in") for worker in celery_setup.worker_cluster]
    assert all(shares), f"Both workers should run some of the group's tasks, but they ran {shares}."


@pytest.mark.skipif(
    "config.option.docker", reason="make starts a worker on this machine: make test"
)
@pytest.mark.isolated(args=["-X", "ledger", "-n", "typed@%h"])
def test_make_starts_two_workers_beside_another(celery_setup, app, app_under_test, number):
    """The check before a start accepts them: they are of one chapter, with different queues."""
    make = [PROGRAMS / "python", "-m", "course", "worker", number]
    for options in ["-Q", "ledger", "-c", "1"], ["-X", "ledger", "-n", "second@%h", "-c", "1"]:
        started = app_under_test.nodes.worker(
            f"make{options[0]}-{app_under_test.database}",
            [*make, *options],
            ROOT,
            app_under_test.variables,
        )
        app_under_test.workers.append(started)
    for worker in app_under_test.workers:
        wait_until_ready(worker)
    replies = ask_workers(app, "active_queues", 3)
    consumed = sorted(queue["name"] for queues in replies.values() for queue in queues)
    assert consumed == ["celery", "celery", "ledger", "rates", "rates"], (
        "Two workers should consume from celery and rates, and one from ledger, but the queues are"
        f" {consumed}."
    )


@pytest.mark.isolated(args=["-Q", "leger"])
def test_a_worker_with_a_misspelt_queue_exits(app_under_test):
    [worker] = app_under_test.workers
    wait_until(lambda: worker.status == "exited")
    assert worker.status == "exited" and "leger" in worker.logs(), (
        f"A worker of {display_path(app_under_test.folder)} with -Q leger should exit and name the"
        f" queue.\n{worker.logs()}"
    )


@pytest.mark.isolated(args=["-X", "leger"])
def test_a_worker_with_a_misspelt_exclusion_consumes_from_all_queues(celery_setup, app):
    [queues] = ask_workers(app, "active_queues").values()
    found = sorted(queue["name"] for queue in queues)
    assert found == ["celery", "ledger", "rates"], (
        f"A worker with -X leger should consume from all queues, but it consumes from {found}."
    )


@pytest.mark.isolated(slow_tasks=True)
def test_a_rate_limit_fills_the_prefetch(celery_setup, app, redis):
    ask_workers(app, "ping")
    app.control.rate_limit("slow.nap", "6/m", reply=True, timeout=30, limit=1)
    for _ in range(20):
        app.tasks["slow.nap"].delay(0)
    wait_until(lambda: redis.hlen("unacked") == 8)
    result = app.tasks["tasks.math.add_request"].delay(4, 4)
    time.sleep(2)
    wait_until(lambda: redis.hlen("unacked") == 8)
    found = result.state, redis.hlen("unacked")
    assert found == ("PENDING", 8), (
        "While two processes hold 8 calls with a rate limit, another task should wait, but its"
        f" state and the number of messages held are {found}."
    )


@pytest.mark.row("A rate limit of two a second")
@pytest.mark.isolated(slow_tasks=True)
def test_the_rhythm_of_a_rate_limit(celery_setup, app, redis):
    app.control.rate_limit("slow.at", "2/s", reply=True, timeout=10, limit=1)
    group(app.tasks["slow.at"].s() for _ in range(6))().get(timeout=30)
    times = sorted(map(float, redis.lrange("times", 0, -1)))
    together = sum(later - earlier < 0.25 for earlier, later in pairwise(times))
    assert (together > 0) == PINNED, (
        f"Celery 5.1 alone should start calls together, but {together} of six calls were."
    )
    assert times[-1] - times[0] > 1.5, f"Six calls should take two seconds, but began at {times}."


@pytest.mark.isolated(slow_tasks=True, args=["-X", "ledger"])
def test_a_rate_limit_is_each_workers_own(celery_setup, app, app_under_test):
    wait_until_ready(app_under_test.add_worker(["-X", "celery", "-Q", "ledger", "-n", "second@%h"]))
    nap = app.tasks["slow.nap"]
    ask_workers(app, "ping", 2)
    replies = app.control.rate_limit("slow.nap", "1/s", reply=True, timeout=30, limit=2)
    assert len(replies) == 2, (
        f"Two workers should confirm the new rate limit, but the replies are {replies}."
    )
    # The best of three, as a machine may stand still.
    for _ in range(3):
        begin = time.monotonic()
        results = []
        for queue in ["celery", "ledger"] * 3:
            results.append(nap.apply_async((0,), queue=queue))
        for result in results:
            assert_result("slow.nap", result, None)
        seconds = time.monotonic() - begin
        if seconds < 4:
            break
    assert 1.5 < seconds < 4, (
        "At 1/s, two workers should run three tasks each in two seconds, and not six in five,"
        f" but they took {seconds:.1f} s."
    )
