"""Chapter 2: what becomes of a task whose process, or whole worker, is killed."""

import os
import signal
import time

import pytest
from celery.exceptions import WorkerLostError
from course import expect, expect_raises
from nodes import wait_until

CHAPTER = "2-configuration"


def kill_process_of_task(app, path):
    """Start a task that takes long, kill the process that runs it, and return the result."""
    result = app.tasks["probe.interrupted"].delay(str(path))
    wait_until(path.exists, 5)
    [[running]] = app.control.inspect(timeout=1).active().values()
    os.kill(running["worker_pid"], signal.SIGKILL)
    return result


@pytest.mark.own_worker(probe=True)
def test_task_runs_again_when_its_process_is_killed(celery_setup, app, tmp_path):
    result = kill_process_of_task(app, tmp_path / "runs")
    try:
        times = result.get(timeout=15)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        times = repr(error)
    expect(times == 2, f"A task whose process is killed should run again; instead of a second run: {times}.")


@pytest.mark.own_worker(probe=True, settings={"task_acks_late": False, "task_reject_on_worker_lost": False})
def test_task_is_lost_with_its_process_without_the_two_settings(celery_setup, app, tmp_path):
    result = kill_process_of_task(app, tmp_path / "runs")
    with expect_raises(WorkerLostError, "With early acknowledgement, get() should raise WorkerLostError"):
        result.get(timeout=15)


@pytest.mark.own_worker(probe=True, settings={"broker_transport_options": {"visibility_timeout": 1}})
def test_message_of_a_killed_worker_comes_back(worker, app, place, redis, tmp_path):
    path = tmp_path / "runs"
    result = app.tasks["probe.interrupted"].delay(str(path))
    wait_until(path.exists, 5)
    worker.kill()
    killed = time.monotonic()
    kept = redis.hlen("unacked")
    expect(kept == 1, f"The message of a killed worker should stay in Redis' hash unacked, which has {kept}.")
    # A worker looks for such messages when it starts, and then every ten seconds.
    time.sleep(max(0, killed + 1.1 - time.monotonic()))
    place.add_worker()
    times = result.get(timeout=20)
    expect(
        times == 2, f"Past the visibility timeout another worker should run the task again, {times} run(s)."
    )
