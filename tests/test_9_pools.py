"""Chapter 9: what the pools can't do, and what Celery makes of a coroutine."""

import pytest
from celery.exceptions import TaskRevokedError
from support.assertions import assert_raises, assert_result, wait_until_ready

from course.environment import PINNED
from course.waiting import wait_until

THREADS = ["-P", "threads", "-c", "2"]


def start_task(app, redis):
    """Call a task that runs until it is released; return its result when it has begun."""
    result = app.tasks["slow.held"].delay("late")
    wait_until(lambda: redis.get("begun"))
    return result


@pytest.mark.isolated(slow_tasks=True)
def test_prefork_terminates_a_running_task(celery_setup, app, redis):
    result = start_task(app, redis)
    app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    with assert_raises(TaskRevokedError, "A terminated task should raise TaskRevokedError"):
        result.get(timeout=30)


@pytest.mark.isolated(slow_tasks=True, args=THREADS)
def test_threads_do_not_terminate_a_running_task(celery_setup, app, worker, redis):
    result = start_task(app, redis)
    app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    worker.wait_for_log("does not implement kill_job")
    redis.set("released", 1)
    assert_result("A task in a thread that should be terminated", result, "late")


@pytest.mark.isolated(slow_tasks=True, args=["-P", "solo"])
def test_solo_does_not_terminate_a_running_task(celery_setup, app, redis):
    result = start_task(app, redis)
    app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    redis.set("released", 1)
    assert_result("A task of solo that should be terminated", result, "late")


def revoke_what_waits(app, worker, redis):
    """Revoke a message that a worker holds behind a task, which runs until it is released.

    Returns the message's result.
    """
    start_task(app, redis)
    waiting = app.tasks["slow.nap"].delay(0, "second")
    worker.wait_for_log(f"slow.nap[{waiting.id}] received")
    app.control.revoke(waiting.id)
    worker.wait_for_log(f"flagged as revoked: {waiting.id}")
    return waiting


@pytest.mark.isolated(slow_tasks=True, args=["-c", "1"])
def test_prefork_drops_a_revoked_message(celery_setup, app, worker, redis):
    waiting = revoke_what_waits(app, worker, redis)
    redis.set("released", 1)
    found = waiting.get(timeout=30, propagate=False)
    assert isinstance(found, TaskRevokedError), f"A message should be revoked, not {found!r}."


@pytest.mark.row("`revoke()` of a message that waits for a worker's thread")
@pytest.mark.isolated(slow_tasks=True, args=["-P", "threads", "-c", "1"])
def test_threads_and_a_revoked_message(celery_setup, app, worker, redis):
    later = app.tasks["slow.nap"].apply_async((0,), countdown=4)
    worker.wait_for_log(f"slow.nap[{later.id}] received")
    app.control.revoke(later.id)
    waiting = revoke_what_waits(app, worker, redis)
    wanted = "PENDING"
    if not PINNED:
        wanted = "REVOKED"
    wait_until(lambda: waiting.state == wanted)
    state = waiting.state
    assert state == wanted, f"The state of a message that waits should be {wanted}, not {state}."
    redis.set("released", 1)
    worker.wait_for_log(f"Task slow.nap[{waiting.id}] succeeded")
    worker.wait_for_log(f"Discarding revoked task: slow.nap[{later.id}]")


@pytest.mark.parametrize("option", ["--max-tasks-per-child=1", "--max-memory-per-child=1"])
@pytest.mark.isolated(slow_tasks=True, count=0)
def test_threads_replace_no_process(app, app_under_test, option):
    process = app.tasks["slow.process"]
    wait_until_ready(app_under_test.add_worker([*THREADS, option]))
    pids = {process.delay(0).get(timeout=30) for _ in range(3)}
    assert len(pids) == 1, f"With {option}, threads should stay in one process, not {pids}."


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.isolated(slow_tasks=True, count=0)
def test_a_task_that_kills_its_process_takes_the_worker_along(app, app_under_test, pool):
    worker = wait_until_ready(app_under_test.add_worker(["-P", pool]))
    app.tasks["slow.poison"].delay()
    assert wait_until(lambda: worker.status == "exited"), (
        f"A task that kills its process should end a worker with the pool {pool}."
    )


@pytest.mark.isolated(slow_tasks=True)
def test_prefork_refuses_a_pool_in_a_task(celery_setup, app):
    message = str(app.tasks["slow.split"].delay().get(timeout=30, propagate=False))
    assert message == "daemonic processes are not allowed to have children", (
        f"multiprocessing should refuse a pool in a process of the worker, but: {message!r}."
    )


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.isolated(slow_tasks=True, count=0)
def test_a_pool_in_a_task_works_elsewhere(app, app_under_test, pool):
    wait_until_ready(app_under_test.add_worker(["-P", pool, "-c", "2"]))
    result = app.tasks["slow.split"].delay()
    assert_result(f"A pool in a task, with the pool {pool},", result, [1, 2])


@pytest.mark.isolated(slow_tasks=True)
def test_a_coroutine_never_runs(celery_setup, app, redis):
    found = app.tasks["slow.coroutine"].delay("one").get(timeout=30, propagate=False)
    assert "coroutine is not JSON serializable" in str(found), (
        f"A coroutine should be an EncodeError, but the result is {found!r}."
    )
    app.tasks["slow.ignored_coroutine"].delay("two")
    result = app.tasks["slow.loop"].delay("three")
    assert_result("asyncio.run in a task", result, "three")
    # With two processes, the second task may still be running.
    wait_until(lambda: not redis.hlen("unacked"))
    found = [redis.get(key) for key in ("one", "two", "three")]
    assert found == [None, None, "1"], (
        f"The body of asyncio.run's coroutine alone should run, but the traces are {found}."
    )
