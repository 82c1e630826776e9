"""Chapter 10: two runs at once and the lesson's lock, and messages that are due much later."""

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from redis.exceptions import LockNotOwnedError
from support.assertions import (
    ask_workers,
    assert_raises,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)
from support.names import ADD, ENTER, INTEREST

from course.chapters import ROOT
from course.environment import PINNED
from course.lesson import Lesson, apply_diff
from course.waiting import wait_until

LESSON = ROOT / "chapters/10-periodic-tasks/README.md"
LOCK = "lock of interest"


@pytest.fixture
def start_run(app_under_test, app):
    """A function that starts a worker on the lesson's lock, with this expiry, and a run."""
    path = app_under_test.folder / "tasks" / "ledger.py"
    text = path.read_text()
    for block in Lesson(LESSON).blocks:
        if block.language == "diff" and block.label == "tasks/ledger.py":
            text = apply_diff(text, block.source)

    def start_run(expiry):
        path.write_text(text.replace("timeout=60", f"timeout={expiry}"))
        worker = wait_until_ready(app_under_test.add_worker())
        fetch(find_task(app, ENTER).delay("pay", 1000))
        first = find_task(app, INTEREST).delay(0.01)
        redis = app_under_test.broker.client
        assert wait_until(lambda: redis.exists(LOCK)), "The first run should take the lock."
        return worker, first

    return start_run


@pytest.mark.isolated(count=0, copy=True)
def test_a_run_can_outlive_its_lock(app, app_under_test, start_run):
    """It takes three seconds, and the lock expires after two: the second run goes ahead."""
    worker, first = start_run(2)
    redis = app_under_test.broker.client
    assert wait_until(lambda: not redis.exists(LOCK)), "The lock should expire."
    find_task(app, INTEREST).delay(0.01)
    found = first.get(timeout=60, propagate=False)
    assert isinstance(found, LockNotOwnedError), (
        f"A run that outlives its lock should end in LockNotOwnedError, not in {found!r}."
    )
    begun = wait_until(lambda: worker.logs().count("asked: interest") == 2)
    assert begun and "another run has the lock" not in worker.logs(), (
        f"The second run should go ahead, but its worker logged:\n{worker.logs()}"
    )


@pytest.mark.isolated(count=0, copy=True, slow_tasks=True, env={"SLOW_TASKS_LOOK": "0.2"})
def test_a_killed_run_leaves_its_lock_to_nobody(app, app_under_test, start_run):
    """Its message comes back at once, and its second run finds the lock of the first."""
    worker, first = start_run(60)
    [active] = ask_workers(app, "active").values()
    worker.kill_process(active[0]["worker_pid"])
    found = first.get(timeout=60, propagate=False)
    assert found is None and "another run has the lock" in worker.logs(), (
        f"The second run should find the first one's lock and return None, not {found!r}."
    )
    seconds = app_under_test.broker.client.ttl(LOCK)
    assert 30 < seconds <= 60, f"The lock should stay until it expires, but {seconds} s are left."
    assert_task_returns(app, ENTER, ("pay", 1000), 1000.0)


@pytest.mark.isolated(
    slow_tasks=True, settings={"worker_eta_task_limit": 20}, args=["--without-mingle"]
)
def test_a_limit_of_messages_that_are_not_due(celery_setup, app, redis):
    """On Celery 5.7, a worker that holds so many takes nothing else."""
    for _ in range(60):
        app.tasks["slow.nap"].apply_async((0,), countdown=600)
    wanted = 20
    if PINNED:
        wanted = 60
    wait_until(lambda: redis.hlen("unacked") >= wanted, 60)
    held = redis.hlen("unacked")
    assert held == wanted, f"The worker should hold {wanted} of 60 messages, but it holds {held}."
    result = find_task(app, ADD).delay(4, 4)
    if PINNED:
        assert fetch(result) == 8, "On Celery 5.1, the worker should take other messages."
    else:
        with assert_raises(CeleryTimeout, "The worker should take nothing else"):
            result.get(timeout=3)
