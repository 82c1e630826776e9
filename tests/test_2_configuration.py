"""Chapter 2: settings in a module of their own, where they come from, and what they do."""

import importlib.util
import runpy
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker import control
from kombu.utils.url import parse_url
from support.assertions import (
    assert_logged,
    assert_raises,
    assert_redis_url,
    assert_setting,
    assert_task_returns,
    describe,
    find_task,
)

from course.environment import PINNED
from course.waiting import wait_until


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step("`add.delay(4, 4).get(timeout=10)` still gives 8", "the-app")
def test_worker_adds(celery_setup, app):
    """app.config_from_object("celeryconfig"), without .py, reads celeryconfig.py, which is in the
    same folder as tasks.py."""
    assert_task_returns(app, "tasks.add", (4, 4), 8)


@pytest.mark.step("`add` still logs `4 + 4` and then `8`, at DEBUG", "the-app")
def test_task_says_what_it_does_at_debug(worker, app):
    """The task stays as it was in chapter 1."""
    assert_logged(worker, app, "tasks.add", (700001, 200002), " + ", "DEBUG")


@pytest.mark.step("`celeryconfig.py` sets `broker_url` and `result_backend`", "the-app")
@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_url_is_set(app, monkeypatch, name):
    """Write broker_url = "redis://127.0.0.1:6379/0", and the same for result_backend, in lower
    case; tasks.py says app.config_from_object("celeryconfig")."""
    assert importlib.util.find_spec("celeryconfig"), (
        f"There should be a file celeryconfig.py, which sets {name}."
    )
    settings = vars(importlib.import_module("celeryconfig"))
    public = [setting for setting in settings if not setting.startswith("_")]
    listed = ", ".join(public) or "nothing"
    assert name in public, f"celeryconfig.py should set {name}, but it sets {listed}."
    assert_redis_url(app, monkeypatch, name)


@pytest.mark.step("`tasks.py` no longer names a URL", "the-app")
def test_code_names_no_url(folder):
    """Create the app with Celery("tasks") alone: its settings come from celeryconfig.py."""
    files = [*folder.glob("tasks.py"), *folder.glob("tasks/*.py")]
    text = "".join(path.read_text() for path in files)
    assert "redis://" not in text, (
        "tasks.py should not name a URL any more, but it has one with redis://."
    )


@pytest.mark.step("`result_expires` is one hour, and Redis forgets a result after that", "the-app")
def test_result_expires_after_an_hour(celery_setup, app):
    """Write result_expires = 3600 in celeryconfig.py: it is in seconds."""
    assert_setting(app, "result_expires", 3600)
    result = find_task(app, "tasks.add").delay(4, 4)
    result.get(timeout=30)
    left = app.backend.client.ttl(f"celery-task-meta-{result.id}")
    assert 0 < left <= 3600, (
        f"A result should expire within 3600 seconds, but this one has {left} left."
    )


def read_url(folder, name):
    """Return the parts of a URL that celeryconfig.py sets, as Celery reads them."""
    try:
        url = runpy.run_path(str(folder / "celeryconfig.py"))[name]
        return parse_url(url)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(
            f"celeryconfig.py should set {name} to a URL that can be read, "
            f"but this was raised: {describe(error)}"
        ) from None


@pytest.mark.star(
    "`celeryconfig.py` puts the password from the variable `REDIS_PASSWORD`, even one like "
    "`p@ss/w#rd`, into both URLs; without the variable, they stay as they are",
    "where-settings-come-from",
)
def test_star_password(folder, monkeypatch):
    """os.environ.get("REDIS_PASSWORD") returns None if there is no such variable. A password goes
    before the host, as in redis://:secret@127.0.0.1:6379/0. In a URL, the characters @, / and #
    have a meaning, so quote them: look at urllib.parse.quote and its argument safe."""
    for password in ("secret", "p@ss/w#rd", "50%:a b?"):
        monkeypatch.setenv("REDIS_PASSWORD", password)
        for name in ("broker_url", "result_backend"):
            parts = read_url(folder, name)
            found = (parts["password"], parts["hostname"], parts["port"])
            wanted = (password, "127.0.0.1", 6379)
            assert found == wanted, (
                f"With the password {password}, the password, host and port of {name} "
                f"should be {wanted}, but they are {found}."
            )
    monkeypatch.delenv("REDIS_PASSWORD")
    for name in ("broker_url", "result_backend"):
        parts = read_url(folder, name)
        assert not parts["password"], (
            f"Without REDIS_PASSWORD, {name} should have no password, "
            f"but it has {parts['password']!r}."
        )
        assert parts["hostname"] == "127.0.0.1", (
            f"Without REDIS_PASSWORD, the host of {name} should be 127.0.0.1, "
            f"but it is {parts['hostname']!r}."
        )


# What follows is about Celery itself.


def test_environment_wins_over_the_file(app, app_under_test):
    port = app_under_test.broker.celeryconfig["port"]
    found = app.connection().port
    assert found == port, f"CELERY_BROKER_URL should win over the file: port {port}, not {found}."


def test_settings_come_from_the_code_or_from_an_object(app):
    class Settings:
        result_expires = 60

    app.conf.update(result_expires=60, timezone="Europe/Paris")
    assert_setting(app, "result_expires", 60)
    assert_setting(app, "timezone", "Europe/Paris")
    other = Celery("other")
    other.config_from_object(Settings)
    assert_setting(other, "result_expires", 60)


def test_a_worker_shows_a_misspelt_setting():
    other = Celery("other")
    other.conf.result_expire = 60
    found = control.conf(SimpleNamespace(app=other))
    assert found.get("result_expire") == 60, (
        f"inspect conf should show the setting result_expire, but it shows {found}."
    )


def test_the_name_of_a_file_is_no_module(app):
    other = Celery("other")
    other.config_from_object("celeryconfig.py")
    error = RecursionError if PINNED else ModuleNotFoundError
    with assert_raises(error, f"celeryconfig.py as a module's name should raise {error.__name__}"):
        _ = other.conf.result_expires


def test_pickle_is_refused(worker, app):
    find_task(app, "tasks.add").apply_async((4, 4), serializer="pickle")
    refusal = "Refusing to deserialize untrusted content of type pickle"
    assert wait_until(lambda: refusal in worker.logs()), (
        f'The worker should refuse pickle and log "{refusal}".'
    )


@pytest.mark.isolated(slow_tasks=True)
def test_a_running_task_is_pending_by_default(celery_setup, app, redis):
    result = app.tasks["slow.held"].delay()
    wait_until(lambda: redis.get("begun"))
    state = result.state
    redis.set("released", 1)
    assert state == "PENDING", f"A running task should be PENDING by default, but it is {state}."
    result.get(timeout=30)


@pytest.mark.isolated()
def test_a_countdown_waits_in_the_worker(celery_setup, app, redis):
    find_task(app, "tasks.add").apply_async((4, 4), countdown=60)
    assert wait_until(lambda: redis.hlen("unacked") == 1), (
        "The worker should take a message with a countdown at once."
    )
    waiting = redis.llen("celery")
    assert waiting == 0, f"No message should wait in the queue, but {waiting} did."


def test_a_call_that_expires_is_revoked(celery_setup, app):
    result = find_task(app, "tasks.add").apply_async((4, 4), expires=-1)
    with assert_raises(Exception, "A call that has expired should raise an exception"):
        result.get(timeout=30)
    assert result.state == "REVOKED", (
        f"A call that has expired should be in the state REVOKED, but it is in {result.state}."
    )
