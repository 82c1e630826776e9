"""Chapter 6: time limits, soft and hard, and the pools that ignore them."""

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support.assertions import assert_raises, assert_result

from course.environment import PINNED
from course.waiting import wait_until


@pytest.mark.isolated(slow_tasks=True)
def test_limits(celery_setup, app, redis):
    nap = app.tasks["slow.nap"]
    late = nap.apply_async((1, "late"), soft_time_limit=9, time_limit=0.3)
    with assert_raises(
        SoftTimeLimitExceeded, "A soft limit of 0.3 s should raise SoftTimeLimitExceeded"
    ):
        nap.apply_async((9,), soft_time_limit=0.3).get(timeout=30)
    assert_result("A hard limit below the soft one should do nothing: it", late, "late")
    result = app.tasks["slow.interrupted"].apply_async(time_limit=1)
    with assert_raises(TimeLimitExceeded, "A hard limit of 1 s should raise TimeLimitExceeded"):
        result.get(timeout=30)
    wait_until(lambda: not redis.hlen("unacked"))
    found = redis.get("runs"), redis.llen("celery"), redis.hlen("unacked")
    assert found == ("1", 0, 0), (
        "A task past its hard limit should be acknowledged and run once, but its runs, waiting"
        f" and unacknowledged messages are {found}."
    )


@pytest.mark.row("A decorator with a hard time limit below the soft one")
@pytest.mark.isolated(count=0)
def test_a_hard_limit_below_the_soft_one_in_the_decorator(app):
    """Celery 5.1 sends the task all the same."""

    @app.task(soft_time_limit=5, time_limit=2)
    def limited():
        pass

    try:
        limited.delay()
        sent = True
    except ValueError:
        sent = False
    assert sent == PINNED, f"Celery 5.1 alone should send the task; it was sent: {sent}."


@pytest.mark.isolated(slow_tasks=True)
def test_a_soft_limit_is_an_exception_like_any_other(celery_setup, app, redis):
    """autoretry_for=(Exception,) tries the task again."""
    with assert_raises(SoftTimeLimitExceeded, "The last run should raise SoftTimeLimitExceeded"):
        app.tasks["slow.hopeful"].delay().get(timeout=15)
    runs = redis.get("runs")
    assert runs == "2", f"The task should be tried again once, but it ran {runs} time(s)."


def assert_no_limit(app, pool):
    """Fail unless a task that passes both its limits returns its result all the same."""
    result = app.tasks["slow.nap"].apply_async((1, "late"), soft_time_limit=0.2, time_limit=0.4)
    assert_result(f"With --pool={pool}, a task past its limits", result, "late")


@pytest.mark.isolated(slow_tasks=True, args=["--pool=threads"])
def test_threads_ignore_limits(celery_setup, app):
    assert_no_limit(app, "threads")


@pytest.mark.isolated(slow_tasks=True, args=["--pool=solo"])
def test_solo_ignores_limits(celery_setup, app):
    assert_no_limit(app, "solo")
