"""Chapter 6: a ledger whose entries are retried, limited in time, and safe to repeat."""

import importlib
import sqlite3
from contextlib import closing, contextmanager
from threading import Timer

import pytest
from celery import signals
from support.assertions import (
    assert_listed,
    assert_logged,
    assert_raises,
    assert_result,
    assert_setting,
    assert_setting_includes,
    assert_task_returns,
    find_task,
    suggest_setting,
)
from support.names import ENTER, MATH_TASKS
from support.signals import connected, pauses, retries

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


def read_rows(path):
    """Return the rows of the ledger's first table, whatever its name is."""
    with closing(sqlite3.connect(path)) as db:
        table = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
        if not table:
            return []
        return db.execute(f'SELECT * FROM "{table[0]}"').fetchall()


def assert_balances(enter, *entries):
    """Fail unless each entry (id, amount, balance), made in turn, returns its balance."""
    for id, amount, balance in entries:
        try:
            found = enter(id, amount)
        except sqlite3.OperationalError as error:
            raise AssertionError(
                f"enter({id!r}, {amount}) should return {balance}, but it raised {error}:"
                " is a transaction still open, without a commit?"
            ) from None
        assert found == balance, (
            f"enter({id!r}, {amount}) should return {balance}, but it returned {found!r}."
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
    assert_balances(enter, ("rent", -500, -500.0))
    assert ledger.exists(), "enter should keep its entries in ledger.db, but there is no such file."
    count = len(read_rows(ledger))
    assert count == 1, f"ledger.db should keep 1 entry, but it has {count}: is a commit missing?"
    assert_balances(enter, ("pay", 2000, 1500.0))


@pytest.mark.step("the same id again changes nothing", "the-ledger")
def test_an_id_is_entered_once(enter):
    """Make the id the table's PRIMARY KEY, and type INSERT OR IGNORE."""
    try:
        assert_balances(enter, ("pay", 2000, 2000.0), ("pay", 2000, 2000.0), ("pay", 3000, 2000.0))
    except sqlite3.IntegrityError as error:
        raise AssertionError(
            f"enter should ignore an id that it has already, but it raised {error}."
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
        release = Timer(1, lock.rollback)
        release.start()
        try:
            enter("gift", 100)
        finally:
            release.cancel()


@pytest.mark.step(
    "`from tasks import enter_request` works, and the worker lists `tasks.ledger.enter_request`",
    "the-ledger",
)
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
    "a locked ledger means a retry after 1 second, and then an answer if the lock is gone",
    "try-again",
)
def test_a_locked_ledger_is_tried_again(worker, app, redis, ledger):
    """@app.task takes autoretry_for, a tuple of exceptions, and needs retry_backoff=True
    and retry_jitter=False."""
    before = len(worker.logs())

    def new_logs():
        return worker.logs()[before:]

    def state_and_counts():
        [scheduled] = app.control.inspect(timeout=10, limit=1).scheduled().values()
        return result.state, result.ready(), len(scheduled), redis.hlen("unacked")

    with locked(ledger):
        result = find_task(app, ENTER).delay("gift", 100)
        wait_until(lambda: "Retry in" in new_logs() or result.ready(), 5)
        first_pause = pauses(new_logs())[:1]
        assert first_pause == ["1s"], (
            "While the ledger is locked, the worker should log a retry in 1s,"
            f" but it logged {first_pause or 'no retry'} and the state is {result.state}."
        )
        # The worker acknowledges the first message once it knows that the second one is sent,
        # which may take a while on a busy machine.
        wanted = ("RETRY", False, 1, 1)
        wait_until(lambda: state_and_counts() == wanted, 4)
        found = state_and_counts()
        assert found == wanted, (
            "A task that waits for its retry should be in the state RETRY and not ready, with one"
            f" scheduled task and one unacknowledged message, but these were found: {found}."
        )
    assert_result("enter_request, once the lock is gone,", result, 100.0)


@pytest.mark.step(
    "if the lock stays, the task fails after three retries, which come after 1, 2 and 4 seconds",
    "try-again",
)
def test_the_task_gives_up(app, ledger):
    """max_retries is an option of @app.task. retry_backoff doubles the pause, and retry_jitter
    would pick it at random."""
    enter_request = find_task(app, ENTER)
    with locked(ledger) as lock, retries() as reasons:

        def unlock_after_too_many(**_):
            if len(reasons) > 6:
                lock.rollback()

        with connected(signals.task_retry, unlock_after_too_many):
            # apply() doesn't wait before a retry. A random pause may be right once by chance.
            first = enter_request.apply(("gift", 100))
            second = enter_request.apply(("gift", 100))
    found = [first.state, second.state], pauses(" ".join(reasons))
    assert found == (["FAILURE"] * 2, ["1s", "2s", "4s"] * 2), (
        "If the ledger stays locked, enter_request should be retried after 1s, 2s and 4s and then"
        f" fail; called twice, it was retried after {', '.join(found[1]) or 'no pause'},"
        f" and its state is {first.state}."
    )


@pytest.mark.step("an amount that can't be stored, `{}`, fails at once", "try-again")
def test_what_cannot_succeed_is_not_tried_again(worker, app, ledger):
    """autoretry_for should list only what may work later: sqlite3's OperationalError."""
    before = len(worker.logs())
    result = find_task(app, ENTER).delay("bonus", {})
    wait_until(lambda: result.ready() or "Retry in" in worker.logs()[before:], 5)
    assert "Retry in" not in worker.logs()[before:], (
        'enter_request("bonus", {}) should fail at once, but it was retried.'
    )
    with assert_raises(
        sqlite3.ProgrammingError, 'enter_request("bonus", {}) should raise ProgrammingError'
    ):
        result.get(timeout=5)


@pytest.mark.step("the soft limit is 10 seconds, the hard limit 20", "time-limits")
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
    "when-a-process-is-killed",
)


@KILLED
@pytest.mark.parametrize("option", ["acks_late", "reject_on_worker_lost"])
def test_settings_for_killed_tasks(app, option):
    """celeryconfig.py needs task_acks_late and task_reject_on_worker_lost, both True."""
    found = getattr(find_task(app, ENTER), option)
    assert found is True, (
        f"celeryconfig.py should set task_{option} to True, but enter_request has {found}"
        + suggest_setting(app, f"task_{option}")
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
    "the visibility timeout is an hour, and the tasks of chapter 5 are still there",
    "when-the-worker-is-killed",
)
def test_settings_and_the_other_tasks(worker, app):
    """broker_transport_options is a dictionary, its visibility_timeout is in seconds.
    Nothing else changes in this chapter."""
    assert_setting_includes(app, "broker_transport_options", {"visibility_timeout": 3600})
    assert_setting(app, "result_expires", 3600)
    assert_listed(worker, MATH_TASKS)
    assert_task_returns(app, "tasks.math.xsum_request", ([1, 2, 3],), 6)
