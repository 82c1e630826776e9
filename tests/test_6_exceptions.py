"""Chapter 6: exceptions on their way from a task to its caller, and which are retried."""

import importlib
import time
from datetime import timedelta

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from support.assertions import assert_raises, assert_task_returns, describe, fetch, wait_until_ready
from support.celery_internals import restore_messages
from support.names import ADD
from support.signals import retries

from course.environment import PINNED
from course.waiting import wait_until

UNRECOVERABLE = "Unrecoverable error: TypeError"


def raised_by(result):
    """Return what a result raises."""
    try:
        found = fetch(result)
    except Exception as error:  # noqa: BLE001  the test is about any
        return error
    raise AssertionError(f"The task should fail, but it returned {found!r}.")


@pytest.mark.row("An exception that can't be rebuilt, in a retry")
@pytest.mark.skipif(not PINNED, reason="Celery 5.7 survives it: see the next test")
@pytest.mark.parametrize(
    "late",
    [
        pytest.param(
            late, marks=pytest.mark.isolated(slow_tasks=True, settings={"task_acks_late": late})
        )
        for late in (False, True)
    ],
)
def test_exception_that_cannot_be_rebuilt_stops_the_worker(worker, app, app_under_test, late):
    result = app.tasks["slow.refused"].delay()
    wait_until(lambda: UNRECOVERABLE in worker.logs())
    assert UNRECOVERABLE in worker.logs(), f"The worker should stop: {worker.logs()}"
    time.sleep(1)
    addition = app.tasks[ADD].delay(4, 4)
    with assert_raises(CeleryTimeout, "A worker that stopped should not answer"):
        addition.get(timeout=2)
    assert result.state == "RETRY", f"The task's state should stay RETRY, but it is {result.state}."
    worker.kill()
    restore_messages(app, visibility_timeout=0)
    second = wait_until_ready(app_under_test.add_worker())
    wait_until(lambda: UNRECOVERABLE in second.logs() or result.state != "RETRY")
    assert UNRECOVERABLE in second.logs(), (
        f"The next worker should stop too, with late={late}, but it logged: {second.logs()[-500:]}"
    )


@pytest.mark.skipif(PINNED, reason="Celery 5.1 stops: see the test before")
@pytest.mark.isolated(slow_tasks=True)
def test_exception_that_cannot_be_rebuilt_arrives_wrapped(worker, app):
    error = raised_by(app.tasks["slow.refused"].delay())
    found = type(error).__name__, str(error)
    assert found == ("UnpickleableExceptionWrapper", "Refused('503 down')"), (
        f"get() should raise a wrapper of the exception, but it raised {describe(error)}."
    )
    assert_task_returns(app, ADD, (4, 4), 8)


@pytest.mark.isolated(count=0)
def test_an_argument_that_json_does_not_know_arrives_as_text(app):
    """On both versions. Celery 5.7 keeps a Decimal, Celery 5.1 doesn't."""
    busy = importlib.import_module("libs.rates").BankBusy
    stored = app.backend.prepare_exception(busy(timedelta(seconds=3)), "json")
    found = app.backend.exception_to_python(stored).seconds
    assert found == "datetime.timedelta(seconds=3)", (
        f"A timedelta in an exception should arrive as text, but it arrived as {found!r}."
    )


@pytest.mark.row("urllib's HTTPError, in a retry")
@pytest.mark.isolated(slow_tasks=True)
def test_exception_of_urlopen(worker, app):
    result = app.tasks["slow.http"].delay()
    error = raised_by(result)
    found = type(error).__name__, str(error)
    if PINNED:
        assert found[0] == "MaybeEncodingError", (
            f"get() should raise MaybeEncodingError, but it raised {describe(error)}."
        )
        assert "cannot pickle" in found[1], f"It should say why, but it says {found[1]}."
    else:
        assert found == ("OSError", ""), (
            f"get() should raise OSError without a text, but it raised {describe(error)}."
        )
    assert_task_returns(app, ADD, (4, 4), 8)


@pytest.mark.row("`dont_autoretry_for`")
@pytest.mark.isolated(count=0)
def test_what_is_left_out_of_autoretry_for(app):
    """Celery 5.1 ignores dont_autoretry_for."""

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(ConnectionError,), max_retries=1)
    def refused():
        raise ConnectionError

    with retries() as reasons:
        refused.apply()
    wanted = 0
    if PINNED:
        wanted = 1
    assert len(reasons) == wanted, (
        f"This Celery should retry the task {wanted} time(s), but it did so {len(reasons)} times."
    )


@pytest.mark.isolated(count=0)
@pytest.mark.parametrize("listed", [OSError, Exception])
def test_a_subclass_is_retried_with_its_base_class(app, listed):
    @app.task(autoretry_for=(listed,), max_retries=1)
    def refused():
        raise ConnectionRefusedError

    with retries() as reasons:
        refused.apply()
    assert len(reasons) == 1, (
        f"autoretry_for={listed} should cover its subclass, but it retried {len(reasons)} times."
    )
