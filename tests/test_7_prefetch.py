"""Chapter 7: what a worker takes first, and how much of it."""

import re
import time

import pytest
from celery import VERSION, group

from course.waiting import wait_until

FIRST = VERSION < (5, 2)  # the pinned stack
# The chapter's settings, and another queue.
URGENT = {"task_queues": {"celery": {}, "urgent": {}}, "task_routes": {}}
ONE_BY_ONE = ["-c", "1", "--prefetch-multiplier", "1"]


def naps(worker):
    """Return how long each nap that a worker began was to be, in seconds, as text, in their order."""
    return re.findall(r"nap of ([\d.]+) s", worker.logs())


@pytest.mark.isolated(slow_tasks=True, count=0)
def test_priorities_are_lists(app, app_under_test):
    """0 is the most urgent, and what a message has that names none."""
    redis = app_under_test.broker.client
    nap = app.tasks["slow.nap"]
    results = [nap.apply_async((priority / 100,), priority=priority) for priority in (9, 5, 3)]
    results.append(nap.delay(0.01))
    lists = {name: redis.llen(name) for name in redis.keys("celery*") if redis.type(name) == "list"}
    wanted = {"celery": 1, "celery\x06\x163": 2, "celery\x06\x169": 1}
    assert lists == wanted, (
        f"The messages should wait in these lists: {wanted}, they wait in {lists}."
    )
    worker = app_under_test.add_worker(["-c", "1", "-Q", "celery"])
    for result in results:
        result.get(timeout=10)
    found = naps(worker)
    assert found == ["0.01", "0.05", "0.03", "0.09"], (
        f"The most urgent should come first, they came {found}."
    )


@pytest.mark.isolated(slow_tasks=True, settings=URGENT, count=0)
def test_queues_of_a_worker_take_turns(app, app_under_test):
    nap = app.tasks["slow.nap"]
    results = [nap.apply_async((0.01,), queue="celery") for _ in range(4)]
    results += [nap.apply_async((0.02,), queue="urgent") for _ in range(4)]
    worker = app_under_test.add_worker(["-c", "1", "-Q", "urgent,celery"])
    for result in results:
        result.get(timeout=10)
    found = naps(worker)
    assert found in (["0.01", "0.02"] * 4, ["0.02", "0.01"] * 4), (
        f"With -Q urgent,celery the queues should take turns, their tasks came {found}."
    )


@pytest.mark.isolated(
    slow_tasks=True, settings={"task_acks_late": False}, args=["--prefetch-multiplier", "1"]
)
def test_with_early_acknowledgement_a_process_holds_one_more(celery_setup, app, redis):
    """What late acknowledgement does is in the lesson."""
    results = [app.tasks["slow.nap"].delay(5) for _ in range(12)]

    def found():
        return redis.hlen("unacked"), redis.llen("celery")

    wait_until(lambda: found() == (2, 8), 4)
    assert found() == (2, 8), (
        "With a prefetch of 1 and early acknowledgement, two processes should run 2 of 12 tasks, hold 2 and leave 8;"
        f" held and left are {found()}."
    )
    for result in results:
        result.forget()


@pytest.mark.row("A prefetch of 1")
@pytest.mark.isolated(slow_tasks=True, args=ONE_BY_ONE)
def test_what_a_prefetch_of_1_costs(celery_setup, app):
    begin = time.monotonic()
    group(app.tasks["slow.nap"].s(0.1) for _ in range(4)).delay().get(timeout=30)
    seconds = time.monotonic() - begin
    fits = seconds > 3 if FIRST else seconds < 3
    assert fits, (
        "With one process and a prefetch of 1, four tasks of 0.1 s should take several seconds on Celery 5.1, because of its"
        f" pauses, and about one on Celery 5.7; on {'.'.join(map(str, VERSION[:2]))} they took {seconds:.1f}."
    )
