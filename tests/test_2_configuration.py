"""Chapter 2: every setting is set, and has its effect."""

import os
import signal
import time

import pytest
from celery.exceptions import WorkerLostError
from course import expect, expect_raises, expect_result, task
from nodes import wait_until

CHAPTER = "2-configuration"
SETTINGS = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "timezone": "UTC",
    "enable_utc": True,
    "result_expires": 3600,
    "task_track_started": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_transport_options": {"visibility_timeout": 3600},
}


def test_add_gives_8(celery_setup, app):
    expect_result(app, "tasks.add", (4, 4), 8)


@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_url_is_set(app, monkeypatch, name):
    monkeypatch.delenv(f"CELERY_{name.upper()}")
    expect(name in app.conf.table(with_defaults=False), f"The configuration should set {name}, and does not.")
    found = str(getattr(app.conf, name))
    expect(found.startswith("redis://"), f"{name} should be a redis:// URL, it is {found!r}.")


def plain(value):
    """A setting in the form that the lesson writes it in."""
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return list(value) if isinstance(value, (tuple, set)) else value


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_is_set(app, name):
    wanted = SETTINGS[name]
    is_set = name in app.conf.table(with_defaults=False)
    expect(is_set, f"The configuration should set {name} = {wanted!r}, and does not.")
    found = plain(getattr(app.conf, name))
    if isinstance(wanted, dict):
        found = {key: found.get(key) for key in wanted}
    expect(found == wanted, f"The configuration should set {name} = {wanted!r}, it sets {found!r}.")


def test_environment_wins_over_the_file(app, place):
    found = app.connection()
    wanted, port = f"the port of CELERY_BROKER_URL={place.url}", place.course.server.port
    expect(found.port == port, f"The environment should win over the file: {wanted}, not {found.port}.")


def test_pickle_is_refused(worker, app):
    task(app, "tasks.add").apply_async((4, 4), serializer="pickle")
    refusal = "Refusing to deserialize untrusted content of type pickle"
    found = wait_until(lambda: refusal in worker.logs(), 5)
    expect(found, f'The worker should refuse a message in pickle and log "{refusal}", and did not.')


def test_result_expires_within_an_hour(celery_setup, app, redis):
    result = task(app, "tasks.add").delay(4, 4)
    result.get(timeout=10)
    left = redis.ttl(f"celery-task-meta-{result.id}")
    expect(0 < left <= 3600, f"A result should expire within 3600 seconds, this one has {left} left.")


@pytest.mark.own_worker(probe=True)
def test_running_task_is_started(celery_setup, app):
    result = app.tasks["probe.nap"].delay(10)
    wait_until(lambda: result.state == "STARTED", 5)
    expect(
        result.state == "STARTED", f"A task that runs should have the state STARTED, it has {result.state}."
    )


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
    time.sleep(max(0, killed + 0.3 - time.monotonic()))
    place.add_worker()
    times = result.get(timeout=20)
    expect(
        times == 2, f"Past the visibility timeout another worker should run the task again, {times} run(s)."
    )


@pytest.mark.own_worker(probe=True, settings={"worker_prefetch_multiplier": 1})
def test_prefetch_of_1_leaves_the_rest_in_the_queue(celery_setup, app, redis):
    for _ in range(8):
        app.tasks["probe.nap"].delay(10)
    wait_until(lambda: redis.llen("celery") <= 6, 5)
    time.sleep(0.2)
    left = redis.llen("celery")
    expect(
        left == 6,
        f"With a prefetch of 1, two processes should leave 6 of 8 slow tasks in the queue, not {left}.",
    )
