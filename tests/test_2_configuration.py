"""Chapter 2: settings in a module of their own, where they come from, and what they do."""

import importlib.util

import pytest
from support.assertions import (
    assert_logged,
    assert_redis_url,
    assert_setting,
    assert_task_returns,
    find_task,
)

from course.waiting import wait_until


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step("`add.delay(4, 4).get(timeout=10)` still gives 8", "the-app")
def test_worker_adds(celery_setup, app):
    """app.config_from_object("celeryconfig"), without .py, reads celeryconfig.py, which is in the same folder as tasks.py."""
    assert_task_returns(app, "tasks.add", (4, 4), 8)


@pytest.mark.step("`add` still logs `4 + 4` and then `8`, at DEBUG", "the-app")
def test_task_says_what_it_does_at_debug(worker, app):
    """The task stays as it was in chapter 1."""
    assert_logged(worker, app, "tasks.add", (700001, 200002), " + ", "DEBUG")


@pytest.mark.step("`celeryconfig.py` sets `broker_url` and `result_backend`", "the-app")
@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_url_is_set(app, monkeypatch, name):
    """Write broker_url = "redis://127.0.0.1:6379/0", and the same for result_backend, in lower case; tasks.py says
    app.config_from_object("celeryconfig")."""
    assert importlib.util.find_spec("celeryconfig"), (
        f"There should be a file celeryconfig.py, which sets {name}."
    )
    there = [
        each for each in vars(importlib.import_module("celeryconfig")) if not each.startswith("_")
    ]
    assert name in there, (
        f"celeryconfig.py should set {name}, but it sets {', '.join(there) or 'nothing'}."
    )
    assert_redis_url(app, monkeypatch, name)


@pytest.mark.step("`tasks.py` no longer names a URL", "the-app")
def test_code_names_no_url(app, app_under_test):
    """Create the app with Celery("tasks") alone: its settings come from celeryconfig.py."""
    files = [path for at in ("tasks.py", "tasks/*.py") for path in app_under_test.folder.glob(at)]
    text = "".join(path.read_text() for path in files)
    assert "redis://" not in text, (
        "tasks.py should not name a URL any more, but it has one with redis://."
    )


@pytest.mark.step(
    "`result_expires` is an hour, and Redis forgets a result after that", "result_expires"
)
def test_result_expires_after_an_hour(celery_setup, app):
    """Write result_expires = 3600 in celeryconfig.py: it is in seconds."""
    assert_setting(app, "result_expires", 3600)
    result = find_task(app, "tasks.add").delay(4, 4)
    result.get(timeout=10)
    left = app.backend.client.ttl(f"celery-task-meta-{result.id}")
    assert 0 < left <= 3600, (
        f"A result should expire within 3600 seconds, but this one has {left} left."
    )


# What follows is about Celery itself.


def test_environment_wins_over_the_file(app, app_under_test):
    port = app_under_test.broker.celeryconfig["port"]
    found = app.connection().port
    assert found == port, f"CELERY_BROKER_URL should win over the file: port {port}, not {found}."


def test_pickle_is_refused(worker, app):
    find_task(app, "tasks.add").apply_async((4, 4), serializer="pickle")
    refusal = "Refusing to deserialize untrusted content of type pickle"
    assert wait_until(lambda: refusal in worker.logs(), 5), (
        f'The worker should refuse pickle and log "{refusal}".'
    )
