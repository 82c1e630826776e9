"""Chapter 8: three queues, and which task is sent to which."""

import sqlite3
from contextlib import closing
from uuid import uuid4

import pytest
from celery import chain, chord
from celery.exceptions import QueueNotFound
from support.assertions import (
    ask_workers,
    assert_listed,
    assert_raises,
    assert_result,
    assert_task_returns,
    describe,
    fetch,
    find_task,
    suggest_setting,
    wait_until_ready,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.commands import run_celery
from support.names import ADD, ALONE, ENTER, MATH_TASKS, RATE, XSUM
from support.signals import published_queues

from course.waiting import wait_until


@pytest.fixture
def enter(app, ledger):
    """The chapter's task, whose route leads to an existing queue."""
    task = find_task(app, ENTER)
    try:
        app.amqp.router.route({}, ENTER)
    except Exception as error:  # noqa: BLE001  whatever the attempt's routes raise
        raise AssertionError(
            "enter_request should be sent to the queue ledger, but task_routes raised"
            f" {describe(error)}"
        ) from None
    return task


@pytest.fixture
def queues(app):
    """The queues that this test's messages are sent to."""
    with published_queues() as queues:
        yield queues


def assert_sent_to(queues, wanted, name, suggestion="."):
    """Fail unless the first message was sent to this queue, and it was the only one."""
    assert queues == [wanted], (
        f"{name} should be sent to the queue {wanted}, but it was sent to"
        f" {', '.join(queues)}{suggestion}"
    )


@pytest.mark.skipif(
    "config.option.docker",
    reason="the lesson's bank runs in the prompt, where the suites' containers can't reach it",
)
def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "the worker's banner lists the queues `celery`, `ledger` and `rates`", "three-queues"
)
def test_banner_lists_the_queues(worker, app):
    """task_queues in celeryconfig.py is a dictionary: {"celery": {}, "ledger": {}, "rates": {}}."""
    banner = worker.logs().partition("[queues]")[2].partition("[tasks]")[0]
    found = [line.split()[1] for line in banner.splitlines() if ".>" in line]
    assert {"celery", "ledger", "rates"} <= set(found), (
        "The worker should list the queues celery, ledger and rates when it starts, but it lists"
        f" {', '.join(found) or 'none'}{suggest_setting(app, 'task_queues')}"
    )


SENT = pytest.mark.step(
    "`enter_request` goes to `ledger`, `rate_request` goes to `rates`, and both are answered",
    "three-queues",
)


@SENT
def test_the_ledger_has_a_queue(celery_setup, app, enter, queues):
    """task_routes is a dictionary from names to queues: {"tasks.ledger.*": {"queue": "ledger"}}."""
    result = enter.delay("rent", -500)
    assert_sent_to(queues, "ledger", "enter_request", suggest_setting(app, "task_routes"))
    assert_result('enter_request.delay("rent", -500)', result, -500.0)


@SENT
def test_rates_have_a_queue(celery_setup, app, queues, bank):
    """task_routes has an entry for each pattern; the tasks of tasks/rates.py are tasks.rates.*."""
    try:
        result = find_task(app, RATE).delay("USD")
    except QueueNotFound as error:
        raise AssertionError(f"rate_request should be sent to rates, but: {error}") from None
    assert_sent_to(queues, "rates", "rate_request")
    assert_result('rate_request.delay("USD")', result, 1.16)


@pytest.mark.step(
    "`add_request` goes to `celery`, and no task of `tasks.math` to `ledger` or `rates`",
    "three-queues",
)
@pytest.mark.parametrize("name", MATH_TASKS)
def test_the_rest_stays_out_of_the_ledger(celery_setup, app, queues, name):
    """The routes' names should fit tasks of tasks.ledger and tasks.rates alone."""
    arguments = (9, 3)
    if name == XSUM:
        arguments = ([9, 3],)
    try:
        find_task(app, name).delay(*arguments).get(timeout=30)
    except QueueNotFound as error:
        raise AssertionError(f"{name} should be sent to a queue, but: {error}") from None
    if name == ADD:
        assert_sent_to(queues, "celery", name)
    strange = {"ledger", "rates"}.intersection(queues)
    assert not strange, f"{name} shouldn't be sent to {strange}, but it was."


@pytest.mark.step(
    "a call that names a queue you haven't listed raises QueueNotFound", "a-misspelt-queue"
)
def test_a_misspelt_queue_is_an_error(celery_setup, app, enter, redis):
    """task_create_missing_queues is True unless you set it."""
    sentence = 'apply_async(queue="leger") should raise QueueNotFound'
    setting = f"task_create_missing_queues is {app.conf.task_create_missing_queues!r}"
    with assert_raises(QueueNotFound, f"{sentence} ({setting})"):
        enter.apply_async(("rent", -500), queue="leger")
    assert not redis.exists("leger"), "No message should be sent to the queue leger, but one was."


@pytest.mark.step("the tasks and the settings of chapter 7 are still there", "three-queues")
def test_what_chapter_7_had(worker, app, number):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)


@pytest.mark.step(
    "a worker with `-X ledger` leaves `enter_request` to the one with `-Q ledger`",
    "a-worker-for-each-queue",
)
@pytest.mark.patient(30)
@pytest.mark.isolated(
    count=0, args=ALONE, more=[["-X", "ledger"], ["-Q", "ledger", "-n", "ledger@%h"]]
)
def test_a_worker_for_each_queue(celery_setup, app, enter, app_under_test):
    """Both need the first step: -X and -Q choose from the queues in task_queues."""
    # If both workers took from the ledger's queue, they would take turns.
    for number in range(1, 6):
        result = enter.delay(f"gift {number}", 100)
        assert_result("enter_request, with a worker and its -Q ledger,", result, 100.0 * number)
    assert_task_returns(app, ADD, (4, 4), 8)
    taken = app_under_test.workers[0].logs().count(f"{ENTER}[")
    assert taken == 0, (
        "With -X ledger, a worker should leave enter_request to another, but it has taken"
        f" {taken} of 5 calls."
    )


@pytest.mark.star(
    "the boss wants sums at once: `xsum_request` goes to a queue `urgent`, the rest of"
    " `tasks.math` doesn't, and a worker with `-Q urgent` answers it",
    "three-queues",
)
@pytest.mark.patient(30)
@pytest.mark.isolated(count=0, args=ALONE)
def test_star_urgent(app, queues, app_under_test):
    """A pattern may be the whole name of a task. Whatever a route names, task_queues must list."""
    try:
        result = find_task(app, XSUM).delay([1, 2, 3])
    except QueueNotFound as error:
        raise AssertionError(f"xsum_request should be sent to urgent, but: {error}") from None
    assert_sent_to(queues, "urgent", "xsum_request")
    app_under_test.add_worker(["-Q", "celery"])
    app_under_test.add_worker(["-Q", "urgent", "-n", "urgent@%h"])
    for worker in app_under_test.workers:
        wait_until_ready(worker)
    assert_task_returns(app, ADD, (4, 4), 8)
    assert queues == ["urgent", "celery"], (
        f"add_request should be sent to the queue celery, but it was sent to {queues[-1]}."
    )
    assert_result("xsum_request, with a worker and its -Q urgent,", result, 6)


# What follows is about Celery itself.


def test_a_call_names_another_queue(celery_setup, enter, queues):
    result = enter.apply_async(("rent", -500), queue="celery")
    assert_sent_to(queues, "celery", 'apply_async(queue="celery")')
    assert_result('enter_request.apply_async(("rent", -500), queue="celery")', result, -500.0)


def test_a_misspelt_route_is_an_error(app, monkeypatch):
    monkeypatch.setitem(app.conf, "task_routes", {"tasks.ledger.*": {"queue": "leger"}})
    with assert_raises(
        QueueNotFound, "A route to a queue that isn't listed should raise QueueNotFound"
    ):
        find_task(app, ENTER).delay("rent", -500)


def test_a_misspelt_queue_in_a_chain_is_an_error_later(celery_setup, app):
    """The first call is sent. The worker that runs it can't send the second."""
    add = find_task(app, ADD)
    result = chain(add.s(4, 4), add.s(4).set(queue="leger")).delay()
    with assert_raises(QueueNotFound, "get() of a chain should raise QueueNotFound"):
        result.get(timeout=10)


def test_a_misspelt_pattern_has_no_effect(app, monkeypatch):
    monkeypatch.setitem(app.conf, "task_routes", {"tasks.leger.*": {"queue": "ledger"}})
    found = app.amqp.router.route({}, ENTER)["queue"].name
    assert found == "celery", (
        "A task that no pattern matches should be sent to the queue celery, but its queue is"
        f" {found}."
    )


def test_a_chord_crosses_queues(celery_setup, app, enter, queues):
    xsum = find_task(app, XSUM)
    assert_result("enter_request", enter.delay("rent", -500), -500.0)
    assert_result(
        "A chord across queues",
        chord([enter.s("rent", -500), enter.s("rent", 0)], xsum.s())(),
        -1000.0,
    )
    assert queues == ["ledger", "ledger", "ledger"], (
        "The first call and the two of the chord's header should be sent to the queue ledger,"
        f" but they were sent to {queues}."
    )


def find_scheduled(app, enter):
    """Enter a gift; return what the workers say of the calls that they hold for later.

    A random pause may be 0 s, but not for all gifts.
    """
    enter.apply_async((f"gift {uuid4()}", 100), queue="celery")
    found = []
    for calls in ask_workers(app, "scheduled").values():
        found += calls
    return found


def test_a_retry_stays_in_its_queue(celery_setup, app, enter, ledger):
    with closing(sqlite3.connect(ledger, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        scheduled = wait_until(lambda: find_scheduled(app, enter))
    assert scheduled, "The worker should hold a retry of enter_request, but it holds none."
    request = scheduled[0]["request"]
    found = request["delivery_info"]["routing_key"]
    assert found == "celery", (
        f"A retry should be sent to the queue of its call, celery, but it was sent to {found}."
    )
    balance = fetch(app.AsyncResult(request["id"]))
    assert balance >= 100.0, (
        f"The retry should enter 100 once the lock is gone, but the balance is {balance}."
    )


@pytest.mark.isolated(count=0)
def test_purge_empties_all_queues(app, enter, app_under_test):
    redis = app_under_test.broker.client
    enter.delay("pay", 1)
    find_task(app, ADD).delay(4, 4)
    status, output = run_celery(app_under_test, "purge", "-f")
    assert status == 0 and "2 messages" in output and "3 known task queues" in output, (
        "celery purge should delete 2 messages from 3 queues, but it exited with"
        f" {status} and printed {output!r}."
    )
    left = redis.llen("celery"), redis.llen("ledger")
    assert left == (0, 0), f"celery purge should leave both queues empty, but {left} are left."
