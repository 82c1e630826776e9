"""Chapter 9: which messages a worker takes first, and how many."""

import re
import time

import pytest
from celery import group
from support.assertions import WARM_STOP

from course.environment import PINNED
from course.waiting import wait_until

# Settings with one more queue than the chapter's, in which every task may go.
URGENT = {"task_queues": {"celery": {}, "urgent": {}}, "task_routes": {}}
ONE_BY_ONE = ["-c", "1", "--prefetch-multiplier", "1"]


def naps(worker):
    """Return the seconds of each nap that a worker has begun, as text, in order."""
    return re.findall(r"nap of ([\d.]+) s", worker.logs())


@pytest.mark.isolated(slow_tasks=True, count=0)
def test_priorities_are_lists(app, app_under_test):
    """0 is the most urgent, and the default."""
    redis = app_under_test.broker.client
    nap = app.tasks["slow.nap"]
    results = [nap.apply_async((priority / 100,), priority=priority) for priority in (9, 5, 3)]
    results.append(nap.delay(0.01))
    lists = {}
    for name in redis.keys("celery*"):
        if redis.type(name) == "list":
            lists[name] = redis.llen(name)
    wanted = {"celery": 1, "celery\x06\x163": 2, "celery\x06\x169": 1}
    assert lists == wanted, (
        f"The messages should wait in the lists {wanted}, but they wait in {lists}."
    )
    worker = app_under_test.add_worker(["-c", "1", "-Q", "celery"])
    for result in results:
        result.get(timeout=30)
    found = naps(worker)
    assert found == ["0.01", "0.05", "0.03", "0.09"], (
        f"The most urgent task should run first, but the order of the naps is {found}."
    )


@pytest.mark.isolated(slow_tasks=True, settings=URGENT, count=0)
def test_queues_of_a_worker_take_turns(app, app_under_test):
    nap = app.tasks["slow.nap"]
    results = [nap.apply_async((0.01,), queue="celery") for _ in range(4)]
    results += [nap.apply_async((0.02,), queue="urgent") for _ in range(4)]
    worker = app_under_test.add_worker(["-c", "1", "-Q", "urgent,celery"])
    for result in results:
        result.get(timeout=30)
    found = naps(worker)
    assert found in (["0.01", "0.02"] * 4, ["0.02", "0.01"] * 4), (
        f"With -Q urgent,celery the queues should take turns, but the naps are {found}."
    )


@pytest.mark.isolated(
    slow_tasks=True, settings={"task_acks_late": False}, args=["--prefetch-multiplier", "1"]
)
def test_with_early_acknowledgement_a_process_holds_one_more(celery_setup, app, redis):
    """The lesson shows the same with late acknowledgement."""
    results = [app.tasks["slow.held"].delay() for _ in range(12)]

    def held_and_left():
        return redis.hlen("unacked"), redis.llen("celery")

    wait_until(lambda: held_and_left() == (2, 8))
    found = held_and_left()
    assert found == (2, 8), (
        "With a prefetch of 1 and early acknowledgement, two processes should run 2 of 12 tasks,"
        f" hold 2 and leave 8, but held and left are {found}."
    )
    for result in results:
        result.forget()


def seconds_of_naps(app, number):
    """Return how many seconds so many tasks of 0.1 s take."""
    begin = time.monotonic()
    group(app.tasks["slow.nap"].s(0.1) for _ in range(number)).delay().get(timeout=30)
    return time.monotonic() - begin


def assert_no_pause(app, number):
    """Fail if so many tasks of 0.1 s take 3 s each time: once may be a machine that stood still."""
    assert wait_until(lambda: seconds_of_naps(app, number) < 3), (
        f"{number} tasks of 0.1 s should take less than 3 s on one process, but never did."
    )


@pytest.mark.row("A prefetch of 1")
@pytest.mark.isolated(slow_tasks=True, args=ONE_BY_ONE)
def test_what_a_prefetch_of_1_costs(celery_setup, app):
    if PINNED:
        seconds = seconds_of_naps(app, 4)
        assert seconds > 3, (
            "With one process and a prefetch of 1, four tasks of 0.1 s should take more than 3 s on"
            f" Celery 5.1, which pauses between them, but they took {seconds:.1f} s."
        )
    else:
        assert_no_pause(app, 4)


@pytest.mark.isolated(slow_tasks=True, args=["-c", "1", "--prefetch-multiplier", "2"])
def test_a_worker_that_still_runs_something_does_not_pause(celery_setup, app):
    """Although it holds as much as it may."""
    assert_no_pause(app, 6)


SORTED = URGENT | {"broker_transport_options": {"queue_order_strategy": "sorted"}}


@pytest.mark.isolated(slow_tasks=True, settings=SORTED, count=0)
def test_the_order_sorted_empties_queues_by_name(app, app_under_test):
    nap = app.tasks["slow.nap"]
    results = [nap.apply_async((0.02,), queue="urgent") for _ in range(4)]
    results += [nap.apply_async((0.01,), queue="celery") for _ in range(4)]
    worker = app_under_test.add_worker(["-c", "1", "-Q", "urgent,celery"])
    for result in results:
        result.get(timeout=30)
    found = naps(worker)
    assert found == ["0.01"] * 4 + ["0.02"] * 4, (
        f"The queue celery should be emptied before urgent, but the naps are {found}."
    )


@pytest.mark.row("`queue_order_strategy`: `priority`")
@pytest.mark.isolated(count=0)
def test_the_order_priority(app):
    """Kombu orders the queues as active_queues has them, which is a set in Kombu 5.1."""
    with app.connection_for_read() as connection:
        found = type(connection.default_channel.active_queues)
    wanted = list
    if PINNED:
        wanted = set
    assert found is wanted, f"The queues should be in a {wanted}, but they are in a {found}."


@pytest.mark.row("A stop, and messages with a priority")
@pytest.mark.isolated(slow_tasks=True, args=["-c", "1"])
def test_a_message_given_back_is_most_urgent(celery_setup, app, redis, worker):
    for _ in range(6):
        app.tasks["slow.held"].apply_async(priority=9)
    wait_until(lambda: redis.hlen("unacked") == 4 and redis.get("begun"))
    worker.kill("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    redis.set("released", 1)
    wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    ended = worker.logs().count("succeeded in")
    urgent, others = redis.llen("celery"), redis.llen("celery\x06\x169")
    assert ended + urgent + others == 6, (
        f"Of 6 messages, {ended} have run and {urgent} + {others} wait: one was lost or run twice."
    )
    if PINNED:
        assert urgent > 0, "Celery 5.1 should give messages back as most urgent, but none is."
    else:
        assert urgent == 0, (
            f"Celery 5.7 should give messages back with their priority, but {urgent} are urgent."
        )


@pytest.mark.isolated(slow_tasks=True, args=["-c", "1"])
def test_a_countdown_is_not_counted(celery_setup, app, redis):
    for _ in range(300):
        app.tasks["slow.nap"].apply_async((0,), countdown=600)
    wait_until(lambda: redis.hlen("unacked") == 300, 60)
    held = redis.hlen("unacked")
    assert held == 300, f"One worker should take all 300 calls with a countdown, not {held}."
