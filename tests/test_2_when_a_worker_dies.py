"""Chapter 2: what becomes of a task whose process, or whole worker, is killed."""

import time

import pytest
from celery.exceptions import WorkerLostError
from course import wait_until
from grading import answers, raises

LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
SOON = {"broker_transport_options": {"visibility_timeout": 1}}


def start_long_task(app):
    result = app.tasks["slow.interrupted"].delay()
    wait_until(lambda: app.backend.client.exists("runs"), 5)
    return result


def kill_process_of_task(app, worker):
    """Start a task that takes long, kill the process that runs it, and return the result."""
    result = start_long_task(app)
    [[running]] = app.control.inspect(timeout=1).active().values()
    worker.container.kill_process(running["worker_pid"])
    return result


@pytest.mark.isolated(slow_tasks=True, settings=LATE)
def test_task_runs_again_when_its_process_is_killed(worker, app):
    result = kill_process_of_task(app, worker)
    try:
        times = result.get(timeout=15)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        times = repr(error)
    assert times == 2, f"A task whose process is killed should run twice and return 2, but it gave {times}."


@pytest.mark.isolated(slow_tasks=True, settings={})
def test_task_is_lost_with_its_process_without_the_two_settings(worker, app):
    result = kill_process_of_task(app, worker)
    with raises(WorkerLostError, "With early acknowledgement, get() should raise WorkerLostError"):
        result.get(timeout=15)


@pytest.mark.isolated(slow_tasks=True, settings=LATE | SOON)
def test_message_of_a_killed_worker_comes_back(worker, app, app_under_test, redis):
    result = start_long_task(app)
    worker.kill()
    killed = time.monotonic()
    kept = redis.hlen("unacked")
    assert kept == 1, f"The message of a killed worker should stay in Redis's hash unacked, which has {kept}."
    # A worker looks for such messages when it starts, and then every 100 seconds.
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    app_under_test.add_worker()
    times = result.get(timeout=20)
    assert times == 2, (
        f"After the visibility timeout, another worker should run the task a second time; it ran {times} time(s)."
    )


@pytest.mark.isolated(server=True)
def test_worker_outlives_a_restart_of_redis(celery_setup, app):
    celery_setup.broker.container.restart()
    celery_setup.backend.container.restart()
    answers(app, "tasks.add", (4, 4), 8)
