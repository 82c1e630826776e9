"""Chapter 7: what happens to a task whose process, or whole worker, is killed."""

import json
import time

import pytest
from celery import chord
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.exceptions import WorkerLostError
from support.assertions import (
    WARM_STOP,
    ask_workers,
    assert_raises,
    assert_result,
    assert_task_returns,
    wait_until_ready,
)
from support.celery_internals import restore_messages
from support.names import ADD, XSUM
from support.nodes import stopped

from course.waiting import wait_until

# A worker may hand out the message of a killed one after a second.
SOON = {"broker_transport_options": {"visibility_timeout": 1}}


def start_long_task(app):
    """Call a task that takes half a minute; return its result once it runs."""
    result = app.tasks["slow.interrupted"].delay()
    wait_until(lambda: app.backend.client.exists("runs"))
    return result


@pytest.mark.isolated(slow_tasks=True, args=["-c", "4"], env={"SLOW_TASKS_LOOK": "0.2"})
def test_it_takes_both_settings_to_run_again(worker, app, redis):
    without_both = ["late=False,reject=False", "late=False,reject=True", "late=True,reject=False"]
    with_both = "late=True,reject=True"
    keys = [*without_both, with_both]
    results = {}
    for key in keys:
        results[key] = app.tasks[f"slow.{key}"].delay(key)
    wait_until(lambda: redis.exists(*keys) == 4 and redis.hlen("unacked") == 2)
    kept = set()
    for text in redis.hvals("unacked"):
        message = json.loads(text)[0]
        kept.add(message["headers"]["task"])
    assert kept == {"slow.late=True,reject=False", "slow.late=True,reject=True"}, (
        "Redis should keep the two messages that are acknowledged late, since a worker takes"
        f" the others down with it, but it keeps those of {kept}."
    )
    [active] = ask_workers(app, "active").values()
    for task in active:
        worker.container.kill_process(task["worker_pid"])
    for key in without_both:
        with assert_raises(WorkerLostError, f"With {key}, get() should raise WorkerLostError"):
            results[key].get(timeout=40)
    assert_result("With both settings, the second run", results[with_both], 2)
    runs = {key: redis.get(key) for key in without_both}
    assert set(runs.values()) == {"1"}, (
        f"Without both settings no task should run again, but the runs are {runs}."
    )


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_message_of_a_killed_worker_comes_back(worker, app, app_under_test, redis):
    result = start_long_task(app)
    worker.kill()
    killed = time.monotonic()
    kept = redis.hlen("unacked")
    assert kept == 1, (
        f"The hash unacked should keep the message of a killed worker, but it has {kept} messages."
    )
    # A worker looks for such messages when it starts, and then every 100 seconds.
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    app_under_test.add_worker()
    times = result.get(timeout=60)
    assert times == 2, (
        "Past the visibility timeout another worker should run the task a second time,"
        f" but the runs are {times}."
    )


@pytest.mark.isolated(slow_tasks=True, settings=SOON | {"task_acks_late": False})
def test_early_acknowledged_task_of_a_killed_worker_is_gone(worker, app, app_under_test, redis):
    result = start_long_task(app)
    wait_until(lambda: not redis.hlen("unacked"))
    worker.kill()
    found = redis.llen("celery"), redis.hlen("unacked")
    assert found == (0, 0), (
        "A message that was acknowledged early should be gone with its worker, but the waiting and"
        f" unacknowledged messages are {found}."
    )
    wait_until_ready(app_under_test.add_worker())
    with assert_raises(
        CeleryTimeout, "With early acknowledgement get(timeout=2) should raise TimeoutError"
    ):
        result.get(timeout=2)


@pytest.mark.isolated(slow_tasks=True, args=["-c", "4"], settings=SOON)
def test_chord_of_a_killed_worker_is_finished_by_the_next(worker, app, app_under_test, redis):
    names = ["first", "second", "third", "fourth"]
    header = [app.tasks["slow.interrupted"].s(name) for name in names]
    result = chord(header, app.tasks[XSUM].s()).delay()
    wait_until(lambda: redis.exists(*names) == 4)
    worker.kill()
    with assert_raises(
        CeleryTimeout, "get(timeout=1) of a chord without a worker should raise TimeoutError"
    ):
        result.get(timeout=1)
    # A worker looks for messages past their visibility timeout when it starts.
    time.sleep(0.5)
    app_under_test.add_worker()
    assert_result("The chord of a killed worker", result, 8)


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_message_with_an_eta_past_the_visibility_timeout_runs_twice(worker, app, redis):
    result = app.tasks["slow.nap"].apply_async((0, "awake"), countdown=5)
    wait_until(lambda: redis.hlen("unacked"))
    with stopped(worker):
        time.sleep(1.1)
        restore_messages(app)
    assert_result("A task with a countdown", result, "awake")
    wait_until(lambda: worker.logs().count("nap of 0 s") == 2)
    runs = worker.logs().count("nap of 0 s")
    assert runs == 2, (
        "A task whose countdown is longer than the visibility timeout should run twice,"
        f" but its runs are {runs}."
    )


def assert_retry_is_kept(redis, result, signal, celery, unacked):
    """Fail unless this many messages are in the list `celery` and in the hash `unacked`."""
    found = result.state, redis.llen("celery"), redis.hlen("unacked")
    assert found == ("RETRY", celery, unacked), (
        f"After {signal}, the state of a task that waits for its retry, its waiting and its"
        f" unacknowledged messages should be {('RETRY', celery, unacked)}, but they are {found}."
    )


@pytest.mark.isolated(slow_tasks=True)
def test_a_retry_outlives_a_warm_stop(worker, app, app_under_test, redis):
    """Its message goes back to its queue."""
    result = app.tasks["slow.second_try"].delay()
    wait_until(lambda: result.state == "RETRY" and redis.hlen("unacked") == 1)
    worker.kill("SIGTERM")
    wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    assert_retry_is_kept(redis, result, "SIGTERM", celery=1, unacked=0)
    wait_until_ready(app_under_test.add_worker())
    assert_result("A retry whose worker was stopped", result, 1)


@pytest.mark.isolated(slow_tasks=True)
def test_a_retry_outlives_a_kill(worker, app, app_under_test, redis):
    """Its message stays in the hash unacked until a worker restores it."""
    result = app.tasks["slow.second_try"].delay()
    wait_until(lambda: result.state == "RETRY" and redis.hlen("unacked") == 1)
    worker.kill("SIGKILL")
    wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    assert_retry_is_kept(redis, result, "SIGKILL", celery=0, unacked=1)
    wait_until_ready(app_under_test.add_worker())
    time.sleep(6.1)  # until the retry is due
    assert result.state == "RETRY", (
        "A new worker should leave the retry of a killed one alone until the visibility timeout,"
        f" but its state is {result.state}."
    )
    restore_messages(app, visibility_timeout=0)
    assert_result("A retry whose worker was killed", result, 1)


@pytest.mark.isolated(server=True)
def test_worker_outlives_a_restart_of_redis(celery_setup, app):
    celery_setup.broker.container.restart()
    celery_setup.backend.container.restart()
    assert_task_returns(app, ADD, (4, 4), 8)
