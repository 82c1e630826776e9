"""Chapter 9: a connection to the bank for each thread, and a pool for each kind of task."""

import importlib
import runpy
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead

import pytest
from celery import group
from celery.exceptions import TimeLimitExceeded
from support.assertions import (
    assert_listed,
    assert_raises,
    assert_returns,
    describe,
    fetch,
    find_task,
    wait_until_ready,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.names import ALONE, RATE
from support.patience import patience

from course.waiting import wait_until


@pytest.fixture
def rates(bank):
    """The attempt's libs.rates, with a bank to ask."""
    try:
        return importlib.import_module("libs.rates")
    except ImportError as error:
        raise AssertionError(f"`import libs.rates` should work, but: {error}.") from None


def assert_dollars(rates):
    """Fail unless a dollar's rate is right."""
    assert_returns('rate("USD")', lambda: rates.rate("USD"), 1.16)


def assert_connections(bank, wanted, what):
    """Fail unless so many connections were opened."""
    assert bank.connections == wanted, (
        f"{what} should open {wanted} connection(s) to the bank, but the bank has seen"
        f" {bank.connections}."
    )


@pytest.mark.skipif(
    "config.option.docker",
    reason="the lesson's bank runs in the prompt, where the suites' containers can't reach it",
)
def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    'ten calls of `libs.rates.rate("USD")`, one after the other, make one connection to the bank',
    "what-fork-copies",
)
def test_calls_share_a_connection(rates, bank):
    """An HTTPConnection of http.client has request and getresponse. Read each response to its end,
    and use the same connection again."""
    for _ in range(10):
        assert_dollars(rates)
    assert_connections(bank, 1, "Ten calls")


@pytest.mark.step(
    "two threads have two connections, and importing the module makes none", "what-fork-copies"
)
def test_each_thread_has_a_connection(rates, bank, monkeypatch):
    """An attribute of a threading.local() has a value of its own in each thread."""
    opened = []
    with monkeypatch.context() as changed:
        changed.setattr(HTTPConnection, "connect", lambda self: opened.append(self))
        importlib.reload(rates)
    assert not opened, "Importing libs.rates should open no connection, but it opens one."
    for _ in range(2):
        assert_dollars(rates)
    with ThreadPoolExecutor(1) as other:
        other.submit(assert_dollars, rates).result()
    assert_connections(bank, 2, "Calls in two threads")


STILL_RAISES = pytest.mark.step(
    "`rate` still raises UnknownCurrency, BankError and BankBusy, and works again after each",
    "what-fork-copies",
)


@STILL_RAISES
def test_rate_raises_what_it_raised(rates, bank):
    """A response has a status and headers. Read its body before you raise anything."""
    with assert_raises(rates.UnknownCurrency, 'rate("XXX") should raise UnknownCurrency'):
        rates.rate("XXX")
    assert_dollars(rates)
    bank.failures = 1
    with assert_raises(rates.BankError, "rate should raise BankError if the bank answers 503"):
        rates.rate("USD")
    assert_dollars(rates)
    bank.failures, bank.retry_after = 1, 3
    try:
        rates.rate("USD")
    except rates.BankBusy as error:
        assert error.seconds == 3, (
            f"BankBusy should have the bank's 3 as its seconds, but it is {error!r}."
        )
    except rates.BankError as error:
        raise AssertionError(
            f"rate should raise BankBusy if there is a Retry-After, but it raised {describe(error)}"
        ) from None
    else:
        raise AssertionError("rate should raise BankBusy if there is a Retry-After.")
    assert_dollars(rates)


@STILL_RAISES
def test_a_silent_bank(rates, bank, monkeypatch):
    """HTTPConnection takes a timeout, five seconds since chapter 6. Close the connection after any
    exception: one that waits for an answer takes no other request."""
    timeouts = []
    connect = HTTPConnection.connect

    def note_timeout(connection):
        timeouts.append(connection.timeout)
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", note_timeout)
    assert_dollars(rates)
    [timeout] = timeouts
    if not isinstance(timeout, int | float):
        timeout = None  # http.client has an object there
    assert timeout and timeout <= 10, (
        "A connection should have a timeout that ends before the task's soft limit of 10 seconds,"
        f" such as chapter 6's 5, but it has {timeout}."
    )
    assert_recovers(rates, monkeypatch, TimeoutError("timed out"), "is silent")


def assert_recovers(rates, monkeypatch, problem, what):
    """Fail unless rate makes this problem a BankError, and works at the next call."""

    def fail(connection):
        raise problem

    with monkeypatch.context() as changed:
        changed.setattr(HTTPConnection, "getresponse", fail)
        with assert_raises(rates.BankError, f"rate should raise BankError if the bank {what}"):
            rates.rate("USD")
    assert_returns(f'After a bank that {what}, rate("USD")', lambda: rates.rate("USD"), 1.16)


def test_half_an_answer(rates, bank, monkeypatch):
    assert_recovers(rates, monkeypatch, IncompleteRead(b"{"), "ends in the middle of its answer")


@pytest.mark.step(
    "after the bank has closed a connection, the next call raises BankError at most, and the one"
    " after it gives the rate",
    "what-fork-copies",
)
def test_a_closed_connection_is_opened_again(rates, bank):
    """Close your end when http.client or the socket raises an exception: it then connects again."""
    sockets = []
    process_request = bank.process_request

    def remember(request, address):
        sockets.append(request)
        process_request(request, address)

    bank.process_request = remember
    assert_dollars(rates)
    for connection in sockets:
        connection.shutdown(socket.SHUT_RDWR)
    try:
        rates.rate("USD")
    except rates.BankError:
        pass
    except Exception as error:  # noqa: BLE001  whatever the attempt raises
        raise AssertionError(
            f"A closed connection should be a BankError, but rate raised {describe(error)}"
        ) from None
    assert_dollars(rates)


@pytest.mark.step(
    "twenty-four calls on a worker with `-P threads -c 12` give the right rates, over at most"
    " twelve connections",
    "what-fork-copies",
)
@pytest.mark.patient(30)
@pytest.mark.isolated(args=["-P", "threads", "-c", "12", *ALONE])
def test_twelve_threads_ask(celery_setup, app, bank):
    """A connection that threads share gives one of them another's answer."""
    bank.seconds = 0.05
    currencies = {"USD": 1.16, "GBP": 0.87, "JPY": 181.4}
    calls = [find_task(app, RATE).s(currency) for currency in [*currencies] * 8]
    found = group(calls)().get(timeout=30, propagate=False)
    wanted = [*currencies.values()] * 8
    right = sum(pair[0] == pair[1] for pair in zip(found, wanted, strict=True))
    assert right == 24, f"24 rates should be right, but {24 - right} are wrong or missing."
    assert 1 < bank.connections <= 12, (
        f"Twelve threads should open at most 12 connections, but they opened {bank.connections}."
    )


@pytest.mark.step(
    "the tasks, the queues and the settings of chapter 8 are still there", "sixty-calls"
)
def test_what_chapter_8_had(worker, app, number):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)


@pytest.mark.star(
    "a file `pools.py` names a pool for three tasks, each as a text of a worker's options, such as"
    ' `"-c 1"`: `WAITING` for 24 calls that wait a second each, within six seconds and in one'
    " process; `HANGING` for a task that its hard limit must end; `SPLITTING` for a task that"
    " starts a `multiprocessing.Pool`",
    "pools",
)
@pytest.mark.patient(90)
@pytest.mark.isolated(count=0, slow_tasks=True, args=ALONE)
def test_star_pools(app, app_under_test, folder):
    """Each is a text, such as WAITING = "-P solo". The table of pools has the answers."""
    path = folder / "pools.py"
    assert path.is_file(), "There should be a file pools.py beside celeryconfig.py."
    pools = runpy.run_path(str(path))

    def start(name, queue):
        options = pools.get(name)
        assert isinstance(options, str), f"pools.py should have a text {name}, not {options!r}."
        return app_under_test.add_worker([*options.split(), "-Q", queue, "-n", f"{queue}@%h"])

    workers = [start("WAITING", "celery"), start("HANGING", "ledger"), start("SPLITTING", "rates")]
    for worker in workers:
        wait_until_ready(worker)
    hanging = app.tasks["slow.nap"].apply_async((30,), time_limit=1, queue="ledger")
    splitting = app.tasks["slow.split"].apply_async(queue="rates")
    fetch(app.tasks["slow.process"].delay(0))
    begin = time.monotonic()
    found = group(app.tasks["slow.process"].s(1) for _ in range(24))().get(timeout=patience(30))
    seconds = time.monotonic() - begin
    # If the machine stands still meanwhile, it takes longer, but not as long as one by one.
    assert seconds < min(patience(6), 20), (
        f"24 calls should take less than 6 s with WAITING, not {seconds:.1f} s."
    )
    count = len(set(found))
    assert count == 1, f"With WAITING, one process should run 24 calls, but {count} ran them."

    wait_until(hanging.ready, patience(8))
    assert hanging.state == "FAILURE", (
        "With HANGING, a hard limit of 1 s should end a task, but after 8 s its state is"
        f" {hanging.state}."
    )
    with assert_raises(TimeLimitExceeded, "With HANGING, get should raise TimeLimitExceeded"):
        hanging.get(timeout=1)

    wait_until(splitting.ready, patience(20))
    found = splitting.result
    assert found == [1, 2], (
        f"With SPLITTING, a task should be able to start a pool, but its result is {found!r}."
    )
