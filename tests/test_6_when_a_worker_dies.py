"""Chapter 6: what becomes of a task whose process, or whole worker, is killed, and of one that takes too long."""

import time

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from course import wait_until
from grading import answers, gives, raises

SOON = {"broker_transport_options": {"visibility_timeout": 1}}
# A worker with one process notices at once that it was killed; one with more looks every five seconds.
ONE = ["-c", "1", "--without-mingle", "--without-gossip"]
LATE, REJECT = "task_acks_late", "task_reject_on_worker_lost"
# The chapter's settings, and these changes to them.
UNSAFE = [{LATE: False, REJECT: False}, {LATE: True, REJECT: False}, {LATE: False, REJECT: True}]


def start_long_task(app, **options):
    result = app.tasks["slow.interrupted"].apply_async(**options)
    wait_until(lambda: app.backend.client.exists("runs"), 5)
    return result


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(settings[LATE], marks=pytest.mark.isolated(slow_tasks=True, args=ONE, settings=settings))
        for settings in UNSAFE
    ],
    ids=["neither", "late alone", "reject alone"],
)
def test_task_is_lost_with_its_process_without_both_settings(celery_setup, app, redis, kept):
    result = start_long_task(app)
    wait_until(lambda: redis.hlen("unacked") == kept, 3)
    taken = redis.hlen("unacked")
    assert taken == kept, (
        f"While the task runs, {int(kept)} message(s) should not be acknowledged, {taken} are not:"
        " that is what is left when the whole worker is killed."
    )
    [[running]] = app.control.inspect(timeout=10, limit=1).active().values()
    celery_setup.worker.container.kill_process(running["worker_pid"])
    with raises(WorkerLostError, "Without both settings, get() should raise WorkerLostError"):
        result.get(timeout=15)
    assert redis.get("runs") == "1", f"The task should not run again, it ran {redis.get('runs')} times."


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_message_of_a_killed_worker_comes_back(worker, app, app_under_test, redis):
    result = start_long_task(app)
    worker.kill()
    killed = time.monotonic()
    kept = redis.hlen("unacked")
    assert kept == 1, f"The message of a killed worker should stay in Redis' hash unacked, which has {kept}."
    # A worker looks for such messages when it starts, and then every 100 seconds.
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    app_under_test.add_worker()
    times = result.get(timeout=20)
    assert times == 2, (
        f"Past the visibility timeout another worker should run the task again, {times} run(s)."
    )


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_message_with_an_eta_past_the_visibility_timeout_runs_twice(worker, app, redis):
    result = app.tasks["slow.nap"].apply_async((0, "awake"), countdown=3)
    wait_until(lambda: redis.hlen("unacked"), 3)
    time.sleep(1.1)
    # As each worker does when it starts.
    with app.connection_for_write() as connection:
        connection.default_channel.qos.restore_visible(num=10)
    gives("A task with a countdown", result, "awake")
    wait_until(lambda: worker.logs().count("nap of 0 s") == 2, 3)
    runs = worker.logs().count("nap of 0 s")
    assert runs == 2, f"A countdown longer than the visibility timeout should mean two runs, it means {runs}."


@pytest.mark.isolated(slow_tasks=True)
def test_limits(celery_setup, app, redis):
    nap = app.tasks["slow.nap"]
    late = nap.apply_async((1, "late"), soft_time_limit=9, time_limit=0.3)
    with raises(SoftTimeLimitExceeded, "A soft limit of 0.3 s should raise SoftTimeLimitExceeded"):
        nap.apply_async((9,), soft_time_limit=0.3).get(timeout=5)
    gives("A hard limit below the soft one should do nothing: it", late, "late")
    result = start_long_task(app, time_limit=1)
    with raises(TimeLimitExceeded, "A hard limit of 1 s should raise TimeLimitExceeded"):
        result.get(timeout=5)
    wait_until(lambda: not redis.hlen("unacked"), 5)
    found = redis.get("runs"), redis.llen("celery"), redis.hlen("unacked")
    assert found == ("1", 0, 0), (
        f"A task past its hard limit should be acknowledged and not run again; runs and messages: {found}."
    )


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(pool, marks=pytest.mark.isolated(slow_tasks=True, args=[f"--pool={pool}"]))
        for pool in ("threads", "solo")
    ],
)
def test_pool_without_processes_keeps_no_limit(celery_setup, app, pool):
    result = app.tasks["slow.nap"].apply_async((1, "late"), soft_time_limit=0.2, time_limit=0.4)
    gives(f"With --pool={pool}, a task past its limits", result, "late")


@pytest.mark.isolated(server=True)
def test_worker_outlives_a_restart_of_redis(celery_setup, app):
    celery_setup.broker.container.restart()
    celery_setup.backend.container.restart()
    answers(app, "tasks.math.add_request", (4, 4), 8)
