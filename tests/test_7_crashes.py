"""Chapter 7: a ledger whose entries are safe to repeat, and a worker that may be killed."""

import importlib
import sqlite3
from contextlib import closing, contextmanager
from threading import Timer

import pytest
from support.assertions import (
    assert_listed,
    assert_logged,
    assert_raises,
    assert_result,
    assert_setting,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.names import ADD, ENTER
from support.patience import patience
from support.signals import pauses, retries

from course.waiting import wait_until


@pytest.fixture
def enter(ledger):
    """The chapter's function."""
    try:
        return importlib.import_module("libs.ledger").enter
    except (ImportError, AttributeError):
        raise AssertionError("libs/ledger.py should have a function enter.") from None


@contextmanager
def locked(path):
    """Lock the ledger against writers; yield the connection that holds the lock."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        yield lock


def assert_balances(enter, *entries):
    """Fail unless each entry (key, amount, balance), made in turn, returns its balance."""
    for key, amount, balance in entries:
        found = enter(key, amount)
        assert found == balance, (
            f"enter({key!r}, {amount}) should return {balance}, but it returned {found!r}."
        )


@pytest.mark.skipif(
    "config.option.docker",
    reason="the lesson kills a worker, and a container would take the prompt down with it",
)
def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    '`libs.ledger.enter("rent", -500)` returns the balance, -500.0,'
    " and keeps the entry in `ledger.db`",
    "the-ledger",
)
def test_enter_keeps_an_amount(enter, ledger):
    """Create the table if it isn't there, insert the row, and select the sum:
    sqlite3.connect("ledger.db") makes the file."""
    assert_balances(enter, ("rent", -500, -500.0), ("pay", 2000, 1500.0))
    assert ledger.exists(), "enter should keep its entries in ledger.db, but there is no such file."


@pytest.mark.step("the same key again changes nothing", "the-ledger")
def test_a_key_is_entered_once(enter):
    """Make the key the table's PRIMARY KEY, and type INSERT OR IGNORE."""
    try:
        assert_balances(enter, ("pay", 2000, 2000.0), ("pay", 2000, 2000.0), ("pay", 3000, 2000.0))
        assert_balances(enter, ("Pay", 1, 2001.0))
    except sqlite3.IntegrityError as error:
        raise AssertionError(
            f"enter should ignore a key that it has already, but it raised {error}."
        ) from None


@pytest.mark.step(
    "`enter` raises OperationalError within a second while another connection has locked"
    " `ledger.db`",
    "the-ledger",
)
def test_enter_does_not_wait_for_long(enter, ledger):
    """sqlite3.connect waits for five seconds unless its timeout says otherwise."""
    sentence = "enter should raise OperationalError while the ledger is locked for a second"
    with locked(ledger) as lock, assert_raises(sqlite3.OperationalError, sentence):
        # If this process stands still, the lock should outlive that; the default is 5 seconds.
        release = Timer(min(patience(1), 4), lock.rollback)
        release.start()
        try:
            enter("gift", 100)
        finally:
            release.cancel()


@pytest.mark.step(
    "`from tasks import enter_request` works, and the worker lists `tasks.ledger.enter_request`",
    "the-ledger",
)
@pytest.mark.patient(30)
def test_package_offers_the_task(worker, app):
    """Write tasks/ledger.py like tasks/math.py, and import the task in tasks/__init__.py."""
    package = importlib.import_module("tasks")
    assert hasattr(package, "enter_request"), (
        "`from tasks import enter_request` should work, but tasks/__init__.py has no enter_request."
    )
    assert_listed(worker, [ENTER])


@pytest.mark.step(
    '`enter_request.delay("rent", -500).get(timeout=10)` gives -500.0, and gives it again',
    "the-ledger",
)
@pytest.mark.patient(30)
def test_enter_request(celery_setup, app, ledger):
    """The task calls ledger.enter with what it was given."""
    for _ in range(2):
        assert_task_returns(app, ENTER, ("rent", -500), -500.0)


@pytest.mark.step(
    "`enter_request` logs `rent: -500` and the answer at INFO, `enter` at DEBUG", "the-ledger"
)
def test_both_layers_of_log(worker, app, ledger):
    """As in chapter 4: logger.info in the task, logger.debug in the function."""
    lines_of_libs = assert_logged(worker, app, ENTER, ("n700001", 200002), ": ", "INFO")
    assert lines_of_libs, "libs.ledger.enter should log at DEBUG, but it logged nothing."
    for level, _, line in lines_of_libs:
        assert level == "DEBUG", (
            f"libs.ledger.enter should log at DEBUG, but it logged at {level}: {line}"
        )


@pytest.mark.step(
    "if the ledger is locked, the task tries again, three times, after random pauses of up to"
    " 1, 2 and 4 seconds; then it fails",
    "the-ledger",
)
def test_a_locked_ledger_is_tried_again(app, ledger, monkeypatch):
    """Retry as in chapter 6: list the exceptions in autoretry_for, and set max_retries."""
    connect = sqlite3.connect

    def connect_impatiently(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA busy_timeout = 0")  # how long it waits, another step asks
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_impatiently)
    enter_request = find_task(app, ENTER)
    with locked(ledger):
        longest = [0, 0, 0]
        different = set()
        for _ in range(10):
            with retries() as reasons:
                result = enter_request.apply(("gift", 100))  # which doesn't wait before a retry
            found = [int(pause.rstrip("s")) for pause in pauses(" ".join(reasons))]
            assert (result.state, len(found)) == ("FAILURE", 3), (
                "If the ledger stays locked, enter_request should fail after 3 retries, but its"
                f" state is {result.state} after {len(found)}."
            )
            longest = [max(pair) for pair in zip(longest, found, strict=True)]
            different.add(tuple(found))
    assert len(different) > 1, (
        "The pauses should be random, but 10 times they were"
        f" {', '.join(map(str, longest))}: is retry_jitter off?"
    )
    fits = longest[0] <= 1 and longest[1] <= 2 and longest[2] <= 4 and sum(longest) > 2
    assert fits, (
        "The pauses should be random, up to 1, 2 and 4 seconds, but the longest of 10 are"
        f" {', '.join(map(str, longest))}."
    )


@pytest.mark.step("once the lock is gone, a retry enters the amount", "the-ledger")
def test_a_retry_enters_the_amount(celery_setup, app, ledger):
    """The retry is the same call: Celery sends it again under the same id."""
    with locked(ledger):
        result = find_task(app, ENTER).delay("gift", 100)
        wait_until(lambda: result.state == "RETRY", patience(5))
        assert result.state == "RETRY", (
            f"While the ledger is locked, the task should be in RETRY, but it is {result.state}."
        )
    assert_result("enter_request, once the lock is gone,", result, 100.0)
    # The retry has entered the caller's key.
    assert_task_returns(app, ENTER, ("gift", 100), 100.0)


@pytest.mark.step("an amount that can't be stored, `{}`, fails at once", "the-ledger")
def test_what_cannot_succeed_is_not_tried_again(worker, app, ledger):
    """autoretry_for should list only what may work later: sqlite3's OperationalError."""
    before = len(worker.logs())
    result = find_task(app, ENTER).delay("bonus", {})
    wait_until(lambda: result.ready() or "Retry in" in worker.logs()[before:], patience(5))
    assert "Retry in" not in worker.logs()[before:], (
        'enter_request("bonus", {}) should fail at once, but it was retried.'
    )
    with assert_raises(
        sqlite3.ProgrammingError, 'enter_request("bonus", {}) should raise ProgrammingError'
    ):
        fetch(result)


@pytest.mark.step("the soft limit is 10 seconds, the hard limit 20", "the-ledger")
@pytest.mark.parametrize(
    "kind, option, wanted", [("soft", "soft_time_limit", 10), ("hard", "time_limit", 20)]
)
def test_limits(app, kind, option, wanted):
    """soft_time_limit and time_limit are options of @app.task, in seconds."""
    found = getattr(find_task(app, ENTER), option)
    assert found == wanted, (
        f"The {kind} limit of enter_request should be {wanted} seconds, but it is {found}."
    )


KILLED = pytest.mark.step(
    "a task whose process is killed runs again, and enters its amount once",
    "late-acknowledgement",
)


@KILLED
@pytest.mark.parametrize("name", [ENTER, ADD])
@pytest.mark.parametrize("option", ["acks_late", "reject_on_worker_lost"])
def test_settings_for_killed_tasks(app, option, name):
    """celeryconfig.py needs task_acks_late and task_reject_on_worker_lost, both True."""
    found = getattr(find_task(app, name), option)
    assert found is True, (
        f"celeryconfig.py should set task_{option} to True, but {name} has {found}."
    )


@KILLED
@pytest.mark.isolated(slow_tasks=True, env={"SLOW_TASKS_LOOK": "0.2"})
def test_a_killed_task_enters_once(celery_setup, app, ledger, redis):
    """celeryconfig.py needs task_acks_late and task_reject_on_worker_lost, both True."""
    result = app.tasks["slow.killed"].delay(ENTER, "pay", 2000)
    assert_result(
        "A task whose process is killed after the entry should run again: it", result, 2000.0
    )
    runs = redis.get("runs")
    assert runs == "2", f"A task whose process is killed should run twice, but it ran {runs} times."


@pytest.mark.step(
    "the visibility timeout is an hour, and the tasks of chapter 6 are still there",
    "the-visibility-timeout",
)
def test_settings_and_the_other_tasks(worker, app, number):
    """broker_transport_options is a dictionary, its visibility_timeout is in seconds.
    Nothing else changes in this chapter."""
    assert_setting(app, "broker_transport_options", {"visibility_timeout": 3600})
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)
    assert_listed(worker, carried_tasks(number))
    assert_task_returns(app, "tasks.math.xsum_request", ([1, 2, 3],), 6)


REFUND = "tasks.ledger.refund_request"
AMOUNT = "tasks.ledger.amount_request"


@pytest.mark.star(
    '`refund_request("pay")` enters the opposite of the amount under `pay`, and returns the'
    " balance; it does so once, even if its process is killed, or if two callers ask for it",
    "the-callers-key",
)
@pytest.mark.isolated(count=0, slow_tasks=True, env={"SLOW_TASKS_LOOK": "0.2"})
def test_star_refund(app, app_under_test, ledger):
    """Under which key would the second run find the entry of the first?"""
    find_task(app, REFUND)
    wait_until_ready(app_under_test.add_worker())
    assert_task_returns(app, ENTER, ("rent", -500), -500.0)
    assert_task_returns(app, ENTER, ("pay", 2000), 1500.0)
    result = app.tasks["slow.killed"].delay(REFUND, "pay")
    assert_result("refund_request, killed after its entry and run again,", result, -500.0)
    assert_task_returns(app, REFUND, ("pay",), -500.0)
    assert_task_returns(app, REFUND, ("rent",), 0.0)
    balance = fetch(find_task(app, ENTER).delay("pay", 2000))
    assert balance == 0.0, (
        "refund_request should leave the entry under pay, so that the same pay changes nothing, but"
        f" then the balance is {balance}."
    )


@pytest.mark.star(
    '`amount_request("tip")` returns the amount under `tip`; as long as there is none, it tries'
    " again once a second, ten times at most",
    "the-message-and-the-commit",
)
def test_star_amount(celery_setup, app, ledger):
    """An empty ledger has no table yet."""
    amount_request = find_task(app, AMOUNT)
    with retries() as reasons:
        result = amount_request.apply(("tip",))
    found = pauses(" ".join(reasons))
    assert (result.state, found) == ("FAILURE", ["1s"] * 10), (
        "Without an entry, amount_request should be retried ten times, after a second each, but"
        f" it is in the state {result.state} after {', '.join(found) or 'no retry'}."
    )
    result = amount_request.delay("tip")
    wait_until(lambda: result.state == "RETRY", patience(5))
    assert_task_returns(app, ENTER, ("tip", 5), 5.0)
    assert_result("amount_request, once there is an entry,", result, 5.0)
