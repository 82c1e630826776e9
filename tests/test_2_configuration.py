"""Chapter 2: every setting is set, and has its effect."""

import time

import pytest
from course import (
    SETTINGS,
    expect,
    expect_logged,
    expect_result,
    expect_setting,
    expect_url,
    task,
    wait_until,
)

CHAPTER = "2-configuration"


def test_add_gives_8(celery_setup, app):
    expect_result(app, "tasks.add", (4, 4), 8)


def test_task_says_what_it_does_at_debug(worker, app):
    expect_logged(worker, app, "tasks.add", (700001, 200002), "DEBUG")


@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_url_is_set(app, monkeypatch, name):
    expect_url(app, monkeypatch, name)


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_is_set(app, name):
    expect_setting(app, name)


def test_environment_wins_over_the_file(app, place):
    found = app.connection()
    wanted, port = f"the port of CELERY_BROKER_URL={place.url}", place.broker.celeryconfig["port"]
    expect(found.port == port, f"The environment should win over the file: {wanted}, not {found.port}.")


def test_pickle_is_refused(worker, app):
    task(app, "tasks.add").apply_async((4, 4), serializer="pickle")
    refusal = "Refusing to deserialize untrusted content of type pickle"
    found = wait_until(lambda: refusal in worker.logs(), 5)
    expect(found, f'The worker should refuse a message in pickle and log "{refusal}", and did not.')


def test_result_expires_within_an_hour(celery_setup, app):
    result = task(app, "tasks.add").delay(4, 4)
    result.get(timeout=10)
    left = app.backend.client.ttl(f"celery-task-meta-{result.id}")
    expect(0 < left <= 3600, f"A result should expire within 3600 seconds, this one has {left} left.")


@pytest.mark.own_worker(probe=True, settings={"task_track_started": True, "worker_prefetch_multiplier": 1})
def test_prefetch_of_1_leaves_the_rest_in_the_queue(celery_setup, app, redis):
    results = [app.tasks["probe.nap"].delay(10) for _ in range(8)]
    wait_until(lambda: sum(result.state == "STARTED" for result in results) == 2, 5)
    time.sleep(0.2)
    states = sorted(result.state for result in results)
    expect(
        states == ["PENDING"] * 6 + ["STARTED"] * 2,
        f"Of 8 slow tasks on two processes 2 should have the state STARTED, and 6 PENDING; they have {states}.",
    )
    left = redis.llen("celery")
    expect(
        left == 6,
        f"With a prefetch of 1, two processes should leave 6 of 8 slow tasks in the queue, not {left}.",
    )
