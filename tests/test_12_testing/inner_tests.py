"""What Celery does in memory and in eager mode.

test_12_testing.py runs these tests with the chapter's tests/conftest.py.
"""

import os
import time
from sqlite3 import OperationalError
from unittest.mock import Mock

import celery
import pytest
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.utils.serialization import UnpickleableExceptionWrapper
from docker.errors import DockerException
from kombu.exceptions import EncodeError

from libs import ledger, math
from libs.rates import BankError
from tasks import add_request, divide_request, enter_request
from tasks.celery import app


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setitem(app.conf, "task_always_eager", True)


@pytest.fixture
def slow(monkeypatch):
    """Let enter_request exceed its limits."""
    monkeypatch.setattr(enter_request, "soft_time_limit", 0.1)
    monkeypatch.setattr(enter_request, "time_limit", 0.2)
    monkeypatch.setattr(ledger, "enter", lambda *_: time.sleep(0.4))


def value(result):
    """Return the value of a result in memory."""
    return result.get(timeout=10, interval=0.01)


def test_the_app_keeps_the_backend_that_it_has_used(monkeypatch):
    before = type(app.backend)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    assert type(app.backend) is before


def test_a_worker_looks_once_a_second_and_takes_from_its_queues_alone():
    with start_worker(app, queues=["celery"], perform_ping_check=False):
        begin = time.monotonic()
        for number in range(3):
            assert value(add_request.delay(number, number)) == 2 * number
        assert time.monotonic() - begin > 1.5
        with pytest.raises(CeleryTimeout):
            enter_request.delay("left over", 1).get(timeout=1)
        begin = time.monotonic()
    assert time.monotonic() - begin > 0.3  # the stop waits for the next look
    # The worker has deselected this queue in its app, and so for the next worker.
    app.amqp.queues.select_add("ledger")


def test_a_message_that_waits_is_run_for_a_later_test(monkeypatch, request):
    enter = Mock(return_value=1.0)
    monkeypatch.setattr(ledger, "enter", enter)
    request.getfixturevalue("worker")
    assert value(enter_request.delay("new", 1)) == 1.0
    first, second = enter.call_args_list
    assert first.args[0] == "left over"
    assert second.args[0] == "new"


def test_get_looks_for_a_result_in_memory_every_half_second(monkeypatch):
    look = Mock(wraps=app.backend.get_task_meta)
    monkeypatch.setattr(app.backend, "get_task_meta", look)
    with pytest.raises(CeleryTimeout):
        app.AsyncResult("of no task").get(timeout=1.5)
    assert look.call_count in (3, 4)  # Celery 5.7 looks once more before it waits


def test_the_worker_sees_what_a_test_replaces(worker, monkeypatch):
    monkeypatch.setattr(math, "add", lambda x, y: 42)
    assert value(add_request.delay(4, 4)) == 42


def test_a_thread_ignores_time_limits(worker, slow):
    result = enter_request.delay("pay", 1)
    value(result)
    assert result.state == "SUCCESS"


def test_eager_mode_ignores_time_limits(eager, slow):
    assert enter_request.delay("pay", 1).state == "SUCCESS"


def test_eager_mode_writes_arguments_as_json_and_not_results(eager, monkeypatch):
    with pytest.raises(EncodeError):
        add_request.delay({4}, {4})
    assert add_request.delay((1,), (2,)).get() == [1, 2]
    monkeypatch.setattr(math, "divide", lambda x, y: {x, y})
    assert divide_request.delay(9, 2).get() == {9, 2}


def test_eager_mode_ignores_a_queue_a_countdown_and_an_expiry(eager):
    begin = time.monotonic()
    result = enter_request.apply_async(("pay", 1), queue="leger", countdown=60, expires=-1)
    assert result.get() == 1.0
    assert time.monotonic() - begin < 30


def test_apply_does_not_wait_between_retries(monkeypatch):
    monkeypatch.setattr(ledger, "enter", Mock(side_effect=[OperationalError] * 3 + [1.0]))
    begin = time.monotonic()
    assert enter_request.apply(("pay", 1)).get() == 1.0
    assert time.monotonic() - begin < 6


def test_the_ping_needs_an_import():
    with pytest.raises(AssertionError), start_worker(app):
        pass


class TestWithoutItsOwnLedger:
    """A test sees the entries of the one before it."""

    @pytest.fixture(autouse=True)
    def own_ledger(self):
        """Stay in the folder."""

    @pytest.mark.parametrize("key, balance", [("1", 100.0), ("2", 200.0)])
    def test_it(self, key, balance):
        assert ledger.enter(key, 100) == balance


class Refused(Exception):
    """An exception that can't be built from its args."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")


class Busy(BankError):
    """The same, with a base class that can."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")


@pytest.mark.parametrize(
    "exception, on_latest", [(Refused, UnpickleableExceptionWrapper), (Busy, BankError)]
)
def test_an_exception_that_loses_its_type(worker, monkeypatch, exception, on_latest):
    monkeypatch.setattr(math, "add", Mock(side_effect=exception(503, "down")))
    with pytest.raises(Exception, match="503 down") as caught:
        add_request.delay(4, 4).get(timeout=10, interval=0.01)
    if celery.VERSION < (5, 2):
        assert caught.type is Exception
    else:
        assert caught.type is on_latest


os.environ["DOCKER_HOST"] = "tcp://127.0.0.1:1"


@pytest.mark.xfail(raises=DockerException, strict=True)
def test_pytest_celerys_celery_worker_needs_docker(celery_worker):
    pass


def test_pytest_cannot_take_setattr_back_on_app_conf():
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(app.conf, "task_always_eager", True)
    with pytest.raises(AttributeError):
        monkeypatch.undo()
    assert app.conf.task_always_eager
    app.conf.task_always_eager = False
