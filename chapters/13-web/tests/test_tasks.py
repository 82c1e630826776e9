"""The tasks: called as functions, applied without a message, and sent to a worker."""

from sqlite3 import OperationalError
from unittest.mock import Mock

import pytest
from celery.schedules import crontab
from kombu.exceptions import EncodeError

from libs import ledger
from tasks import (
    add_request,
    divide_request,
    enter_request,
    interest_request,
    mul_request,
    rate_request,
    sub_request,
    xsum_request,
)
from tasks.celery import app

LOCKED = OperationalError("database is locked")
each_task = pytest.mark.parametrize(
    "task, arguments, answer",
    [
        (add_request, (9, 2), 11),
        (sub_request, (9, 2), 7),
        (mul_request, (9, 2), 18),
        (divide_request, (9, 2), 4.5),
        (xsum_request, ([9, 2],), 11),
        (enter_request, ("pay", 2000), 2000.0),
    ],
)


@each_task
def test_a_task_is_a_function(task, arguments, answer):
    assert task(*arguments) == answer


def test_a_locked_ledger_is_tried_again(monkeypatch):
    enter = Mock(side_effect=[LOCKED, LOCKED, 100.0])
    monkeypatch.setattr(ledger, "enter", enter)
    assert enter_request.apply(("gift", 100)).get() == 100.0
    assert enter.call_count == 3


def test_a_sum_reports_its_progress(monkeypatch):
    update_state = Mock()
    monkeypatch.setattr(xsum_request, "update_state", update_state)
    assert xsum_request.apply(([9, 2],)).get() == 11
    update_state.assert_called_with(state="PROGRESS", meta={"done": 2, "of": 2})


@each_task
def test_a_worker_answers(worker, task, arguments, answer):
    result = task.delay(*arguments)
    assert result.get(timeout=5, interval=0.01) == answer


def test_a_set_is_refused():
    with pytest.raises(EncodeError):
        add_request.delay({4}, {4})


@pytest.mark.parametrize(
    "task, queue",
    [
        (add_request, "celery"),
        (enter_request, "ledger"),
        (interest_request, "ledger"),
        (rate_request, "rates"),
    ],
)
def test_each_task_has_its_queue(task, queue):
    assert app.amqp.router.route({}, task.name)["queue"].name == queue


def test_what_beat_sends():
    entry = app.conf.beat_schedule["interest"]
    assert entry["schedule"] == crontab(hour=4, minute=0)
    ledger.enter("pay", 1000)
    assert app.tasks[entry["task"]](*entry["args"]) == 1010.0
