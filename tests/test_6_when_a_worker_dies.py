"""Chapter 6: what becomes of a task whose process, or whole worker, is killed."""

import json
import time
from itertools import product

import pytest
from celery import VERSION, chord, signals
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.exceptions import WorkerLostError
from support.assertions import assert_raises, assert_result, assert_task_returns, wait_until_ready

from course.waiting import wait_until

SOON = {"broker_transport_options": {"visibility_timeout": 1}}


def start_long_task(app):
    result = app.tasks["slow.interrupted"].delay()
    wait_until(lambda: app.backend.client.exists("runs"), 5)
    return result


@pytest.mark.isolated(slow_tasks=True, args=["-c", "4"], env={"SLOW_TASKS_LOOK": "0.2"})
def test_it_takes_both_settings_to_run_again(worker, app, redis):
    results = {}
    for late, reject in product([False, True], repeat=2):
        key = f"{late=},{reject=}"
        results[key] = app.tasks[f"slow.{key}"].delay(key)
    wait_until(lambda: all(map(redis.exists, results)) and redis.hlen("unacked") == 2, 5)
    kept = {json.loads(each)[0]["headers"]["task"] for each in redis.hvals("unacked")}
    assert kept == {"slow.late=True,reject=False", "slow.late=True,reject=True"}, (
        f"Redis should keep what is acknowledged late, and has {kept}: the rest is lost with its worker."
    )
    [running] = app.control.inspect(timeout=10, limit=1).active().values()
    for each in running:
        worker.container.kill_process(each["worker_pid"])
    for key in list(results)[:3]:
        with assert_raises(WorkerLostError, f"With {key}, get() should raise WorkerLostError"):
            results[key].get(timeout=15)
    assert_result("With both settings, the second run", results.pop("late=True,reject=True"), 2)
    runs = {key: redis.get(key) for key in results}
    assert set(runs.values()) == {"1"}, (
        f"Without both settings no task should run again; the runs are {runs}."
    )


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_message_of_a_killed_worker_comes_back(worker, app, app_under_test, redis):
    result = start_long_task(app)
    worker.kill()
    killed = time.monotonic()
    kept = redis.hlen("unacked")
    assert kept == 1, (
        f"The message of a killed worker should stay in Redis' hash unacked, which has {kept}."
    )
    # A worker looks for such messages when it starts, and then every 100 seconds.
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    app_under_test.add_worker()
    times = result.get(timeout=20)
    assert times == 2, (
        f"Past the visibility timeout another worker should run the task again, {times} run(s)."
    )


@pytest.mark.isolated(slow_tasks=True, settings=SOON | {"task_acks_late": False})
def test_early_acknowledged_task_of_a_killed_worker_is_gone(worker, app, app_under_test, redis):
    result = start_long_task(app)
    wait_until(lambda: not redis.hlen("unacked"))
    worker.kill()
    assert not redis.hlen("unacked") + redis.llen("celery"), (
        "Nobody should have the message any more."
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
    result = chord(header, app.tasks["tasks.math.xsum_request"].s()).delay()
    wait_until(lambda: redis.exists(*names) == 4, 10)
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
    result = app.tasks["slow.nap"].apply_async((0, "awake"), countdown=3)
    wait_until(lambda: redis.hlen("unacked"), 3)
    time.sleep(1.1)
    # As each worker does when it starts.
    with app.connection_for_write() as connection:
        connection.default_channel.qos.restore_visible(num=10)
    assert_result("A task with a countdown", result, "awake")
    wait_until(lambda: worker.logs().count("nap of 0 s") == 2, 3)
    runs = worker.logs().count("nap of 0 s")
    assert runs == 2, (
        f"A countdown longer than the visibility timeout should mean two runs, it means {runs}."
    )


@pytest.mark.parametrize("signal, kept", [("SIGTERM", "celery"), ("SIGKILL", "unacked")])
@pytest.mark.isolated(slow_tasks=True)
def test_a_retry_outlives_its_worker(worker, app, app_under_test, redis, signal, kept):
    """After a warm stop it waits in its queue, after a kill until somebody puts it back."""
    result = app.tasks["slow.second_try"].delay()
    wait_until(lambda: result.state == "RETRY" and redis.hlen("unacked") == 1, 5)
    worker.kill(signal)
    wait_until(lambda: worker.container.status == "exited", 10)
    found = result.state, {"celery": redis.llen("celery"), "unacked": redis.hlen("unacked")}
    wanted = "RETRY", {"celery": 0, "unacked": 0} | {kept: 1}
    assert found == wanted, (
        f"After {signal}, a task that waits for its retry should be {wanted}, it is {found}."
    )
    wait_until_ready(app_under_test.add_worker())
    if signal == "SIGKILL":
        time.sleep(3.1)  # until after its time
        assert result.state == "RETRY", (
            f"A new worker should leave the retry alone, it is {result.state}."
        )
        with app.connection_for_write(transport_options={"visibility_timeout": 0}) as connection:
            connection.default_channel.qos.restore_visible(num=10)
    assert_result("A retry whose worker is gone", result, 1)


@pytest.mark.isolated(count=0)
def test_what_is_left_out_of_autoretry_for(app):
    """Celery 5.1 ignores dont_autoretry_for."""
    retries = []

    def note(sender, **_):
        retries.append(sender.name)

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(ConnectionError,), max_retries=1)
    def refused():
        raise ConnectionError

    signals.task_retry.connect(note)
    try:
        refused.apply()
    finally:
        signals.task_retry.disconnect(note)
    wanted = 1 if VERSION < (5, 2) else 0
    assert len(retries) == wanted, (
        f"This Celery should retry it {wanted} time(s), it did {len(retries)}."
    )


@pytest.mark.isolated(server=True)
def test_worker_outlives_a_restart_of_redis(celery_setup, app):
    celery_setup.broker.container.restart()
    celery_setup.backend.container.restart()
    assert_task_returns(app, "tasks.math.add_request", (4, 4), 8)
