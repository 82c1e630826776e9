"""Chapter 6: a bank that is asked again, if that may help, for a limited time."""

import importlib
import pickle
from contextlib import suppress
from http.client import HTTPConnection

import pytest
from support.assertions import (
    ask_workers,
    assert_exported,
    assert_listed,
    assert_logged,
    assert_raises,
    assert_task_returns,
    fetch,
    find_task,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.names import ALONE, RATE
from support.nodes import SUPPORT
from support.patience import patience
from support.signals import pauses, retries

from course.waiting import wait_until

# What the bank says a dollar costs.
DOLLARS = 1.16
# A check's worker retries at once: how long the pauses are, a step without a worker asks.
CHECKED_WITH = {"args": ["-I", "short_pauses", *ALONE], "env": {"PYTHONPATH": str(SUPPORT)}}


def rates_module():
    """Return the attempt's libs.rates, or fail."""
    try:
        return importlib.import_module("libs.rates")
    except ImportError as error:
        raise AssertionError(f"`import libs.rates` should work, but: {error}.") from None


def find_exception(name):
    """Return an exception of libs.rates, or fail."""
    module = rates_module()
    found = getattr(module, name, None)
    assert found is not None, f"libs/rates.py should have an exception {name}."
    return found


@pytest.fixture
def rate(bank):
    """The chapter's function, with a bank to ask."""
    function = getattr(rates_module(), "rate", None)
    assert function, "libs/rates.py should have a function rate."
    return function


def assert_asked(bank, wanted, what):
    """Fail unless the bank was asked so many times."""
    assert bank.asked == wanted, (
        f"{what} should ask the bank {wanted} time(s), but it asked {bank.asked} time(s)."
    )


@pytest.mark.skipif(
    "config.option.docker",
    reason="the lesson's bank runs in the prompt, where the suites' containers can't reach it",
)
def test_lesson(lesson):
    lesson.holds()


ASKS_THE_BANK = pytest.mark.step(
    '`libs.rates.rate("USD")` asks the bank at `BANK_URL`, `http://127.0.0.1:8099` by default,'
    " and returns 1.16",
    "a-bank",
)


@ASKS_THE_BANK
def test_rate(rate, bank):
    """Open f"{BANK_URL}/rates/{currency}" with urlopen, and read the response with json.load.
    os.environ.get takes a default."""
    found = rate("USD")
    assert found == DOLLARS, f'rate("USD") should return {DOLLARS}, but it returned {found!r}.'
    assert_asked(bank, 1, 'rate("USD")')


@ASKS_THE_BANK
@pytest.mark.parametrize(
    "variables, url",
    [({}, "http://127.0.0.1:8099"), ({"BANK_URL": "http://bank:8100"}, "http://bank:8100")],
)
def test_the_address_of_the_bank(app, monkeypatch, variables, url):
    """os.environ.get takes a default."""
    asked = []

    def note_address(connection):
        asked.append(f"http://{connection.host}:{connection.port}")
        raise OSError("nobody is there")

    monkeypatch.setattr(HTTPConnection, "connect", note_address)
    monkeypatch.delenv("BANK_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module = importlib.reload(rates_module())
    with suppress(Exception):  # of what kind, another step asks
        module.rate("USD")
    assert asked == [url], (
        f"With BANK_URL={variables.get('BANK_URL', '')}, rate should ask {url}, but it asked"
        f" {', '.join(asked) or 'nobody'}."
    )


@pytest.mark.step(
    "`rate` raises UnknownCurrency for a currency that the bank doesn't know, and BankError if the"
    " bank answers 503 or keeps silent for five seconds",
    "a-bank",
)
def test_rate_raises_exceptions_of_its_own(rate, bank, monkeypatch):
    """urlopen raises HTTPError, which has a code, and OSError if nobody answers within its timeout.
    Catch them, and raise your own."""
    unknown, error = find_exception("UnknownCurrency"), find_exception("BankError")
    with assert_raises(unknown, 'rate("XXX") should raise UnknownCurrency'):
        rate("XXX")
    bank.failures = 1
    with assert_raises(error, "rate should raise BankError if the bank answers 503"):
        rate("USD")
    timeouts = []

    def time_out(connection):
        timeouts.append(connection.timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(HTTPConnection, "connect", time_out)
    with assert_raises(error, "rate should raise BankError if the bank keeps silent"):
        rate("USD")
    assert timeouts == [5], "urlopen should have a timeout of 5 seconds, no other."


@pytest.mark.step(
    "if a 503 has a Retry-After, `rate` raises BankBusy, a kind of BankError, with its `seconds`",
    "come-back-in-three-seconds",
)
def test_a_busy_bank(rate, bank):
    """The headers of an HTTPError are a dictionary: error.headers["Retry-After"] is text."""
    busy = find_exception("BankBusy")
    assert issubclass(busy, find_exception("BankError")), "BankBusy should inherit from BankError."
    bank.failures, bank.retry_after = 1, 3
    try:
        rate("USD")
    except busy as error:
        assert getattr(error, "seconds", None) == 3, (
            f"BankBusy should have the bank's 3 as its seconds, but it is {error!r}."
        )
    else:
        raise AssertionError("rate should raise BankBusy if the bank asks it to come back later.")


@pytest.mark.step(
    "a copy that `pickle` makes of each exception has the same arguments, and `seconds`",
    "exceptions-travel",
)
@pytest.mark.parametrize(
    "name, argument", [("BankError", "text"), ("BankBusy", 3), ("UnknownCurrency", "XXX")]
)
def test_exceptions_survive_a_journey(app, name, argument):
    """Pass to super().__init__ exactly what __init__ itself was given."""
    error = find_exception(name)(argument)
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception as problem:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(f"pickle should copy {error!r}, but it raised: {problem}.") from None
    assert (type(copy), copy.args, vars(copy)) == (type(error), (argument,), vars(error)), (
        f"A copy of {name}({argument!r}) should be the same, but it is {copy!r}"
        f" with the arguments {copy.args}."
    )


@pytest.mark.step(
    "`from tasks import rate_request` works, and the worker lists `tasks.rates.rate_request`",
    "try-again",
)
@pytest.mark.patient(30)
def test_package_offers_the_task(worker, app):
    """Write tasks/rates.py like tasks/math.py, and import the task in tasks/__init__.py."""
    assert_exported(app, RATE)
    assert_listed(worker, [RATE])


@pytest.mark.step('`rate_request.delay("USD").get(timeout=10)` gives 1.16', "try-again")
def test_rate_request(celery_setup, app, bank):
    """The task calls rates.rate with what it was given."""
    assert_task_returns(app, RATE, ("USD",), DOLLARS)


@pytest.mark.step(
    "`rate_request` logs the currency and the answer at INFO, `rate` logs at DEBUG", "try-again"
)
def test_both_layers_of_log(worker, app, bank):
    """As in chapter 4: logger.info in the task, logger.debug in the function."""
    lines_of_libs = assert_logged(worker, app, RATE, ("JPY",), "", "INFO")
    assert lines_of_libs, "libs.rates.rate should log at DEBUG, but it logged nothing."
    for level, _, line in lines_of_libs:
        assert level == "DEBUG", (
            f"libs.rates.rate should log at DEBUG, but it logged at {level}: {line}"
        )


@pytest.mark.step("if the bank answers 503 twice, the third try gives the answer", "try-again")
def test_a_failing_bank_is_asked_again(celery_setup, app, redis, bank):
    """@app.task takes autoretry_for, a tuple of exceptions, and max_retries."""
    bank.failures = 2
    assert_task_returns(app, RATE, ("USD",), DOLLARS)
    assert_asked(bank, 3, "rate_request, after two failures,")


@pytest.mark.step(
    "if the bank stays down, the task fails with BankError after three retries; the pauses are"
    " random, up to 1, 2 and 4 seconds",
    "try-again",
)
def test_the_task_gives_up(app, bank):
    """retry_backoff=True doubles the longest pause, and jitter is on by default."""
    bank.failures = 1000
    rate_request = find_task(app, RATE)
    wanted = [1, 2, 4]
    longest = [0, 0, 0]
    different = set()
    for number in range(40):
        with retries() as reasons:
            result = rate_request.apply(("USD",))  # which doesn't wait before a retry
        found = [int(pause.rstrip("s")) for pause in pauses(" ".join(reasons))]
        assert (result.state, len(found)) == ("FAILURE", 3), (
            "If the bank stays down, rate_request should fail after 3 retries, but its state is"
            f" {result.state} after {len(found)}."
        )
        longest = [max(pair) for pair in zip(longest, found, strict=True)]
        different.add(tuple(found))
        if longest == wanted and (len(different) > 1 or number > 4):
            break
    assert longest == wanted, (
        "The pauses should be random, up to 1, 2 and 4 seconds, but the longest are"
        f" {', '.join(map(str, longest))}."
    )
    error = find_exception("BankError")
    assert isinstance(result.result, error), (
        f"rate_request should fail with BankError, but its result is {result.result!r}."
    )
    assert len(different) > 1, (
        "The pauses should be random, but they were 1, 2 and 4 seconds each time:"
        " is retry_jitter off?"
    )


@pytest.mark.step(
    "if the bank says when to come back, the retry is due then", "come-back-in-three-seconds"
)
def test_the_bank_says_when(app, bank):
    """With bind=True, the task receives itself: raise self.retry(exc=error, countdown=…)."""
    bank.failures, bank.retry_after = 2, 3
    with retries() as reasons:
        result = find_task(app, RATE).apply(("USD",))
    found = pauses(" ".join(reasons))
    assert (found, result.state) == (["3s", "3s"], "SUCCESS"), (
        "If the bank asks for 3 seconds twice, rate_request should wait 3s and 3s and succeed,"
        f" but it waited {', '.join(found) or 'never'} and is in the state {result.state}."
    )
    bank.failures = 5
    with retries() as reasons:
        result = find_task(app, RATE).apply(("USD",))
    found = pauses(" ".join(reasons))
    error = find_exception("BankError")
    assert len(found) == 3 and isinstance(result.result, error), (
        "If the bank stays busy, rate_request should fail with BankError after 3 retries, but"
        f" after {len(found)} its result is {result.result!r}."
    )


@pytest.mark.step("an unknown currency fails at once", "what-not-to-retry")
def test_what_cannot_succeed_is_not_tried_again(celery_setup, app, bank):
    """autoretry_for should list only what may work later: BankError."""
    result = find_task(app, RATE).delay("XXX")
    wait_until(result.ready, patience(5))
    assert_asked(bank, 1, 'rate_request.delay("XXX")')
    unknown = find_exception("UnknownCurrency")
    with assert_raises(unknown, 'rate_request.delay("XXX").get() should raise UnknownCurrency'):
        fetch(result)


@pytest.mark.step("the soft limit is 10 seconds, the hard limit 20", "time-limits")
@pytest.mark.parametrize(
    "kind, option, wanted", [("soft", "soft_time_limit", 10), ("hard", "time_limit", 20)]
)
def test_limits(app, kind, option, wanted):
    """soft_time_limit and time_limit are options of @app.task, in seconds."""
    found = getattr(find_task(app, RATE), option)
    assert found == wanted, (
        f"The {kind} limit of rate_request should be {wanted} seconds, but it is {found}."
    )


@pytest.mark.step("the tasks and the settings of chapter 5 are still there", "your-turn")
def test_settings_and_the_other_tasks(worker, app, number):
    """Nothing else changes in this chapter."""
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)
    assert_listed(worker, carried_tasks(number))
    assert_task_returns(app, "tasks.math.xsum_request", ([1, 2, 3],), 6)


@pytest.mark.star(
    '`libs.rates.BankRefused(403, "closed")` reaches the caller with its `code`, 403, and its'
    ' `reason`, "closed", and prints as `403 closed`',
    "exceptions-travel",
)
def test_star_refused(app):
    """What super().__init__ is given and what print shows need not be the same: see __str__."""
    error = find_exception("BankRefused")(403, "closed")
    stored = app.backend.prepare_exception(error, "json")
    found = app.backend.exception_to_python(stored)
    try:
        copy = pickle.loads(pickle.dumps(error))
    except TypeError as problem:
        raise AssertionError(f"A worker couldn't rebuild {error!r}: {problem}.") from None
    for what, received in ("caller", found), ("worker's main process", copy):
        shown = type(received).__name__, getattr(received, "code", None), str(received)
        assert shown == ("BankRefused", 403, "403 closed"), (
            f"The {what} should get a BankRefused with the code 403 that prints as 403 closed,"
            f" but it gets {received!r}."
        )
        assert getattr(received, "reason", None) == "closed", (
            f"The {what} should get the reason closed, but it gets {vars(received)}."
        )


# What the lesson says beside its blocks.


def test_a_task_called_as_a_function_does_not_retry(rate, bank, app):
    bank.failures = 1
    error = find_exception("BankError")
    with assert_raises(error, "A plain call of rate_request should raise BankError"):
        find_task(app, RATE)("USD")
    assert_asked(bank, 1, "A plain call of rate_request")


@pytest.mark.isolated(args=ALONE)
def test_a_retry_is_the_same_call_in_a_new_message(worker, app, redis, bank):
    bank.failures, bank.retry_after = 1, 3600
    result = find_task(app, RATE).delay("USD")

    def state_and_counts():
        [scheduled] = ask_workers(app, "scheduled").values()
        ids = [task["request"]["id"] for task in scheduled]
        return result.state, ids, redis.hlen("unacked"), redis.llen("celery")

    wanted = ("RETRY", [result.id], 1, 0)
    wait_until(lambda: state_and_counts() == wanted)
    found = state_and_counts()
    assert found == wanted, (
        "A task that waits for its retry should be in the state RETRY, with its own id scheduled"
        f" and one unacknowledged message, but these were found: {found}."
    )


@pytest.mark.isolated(slow_tasks=True, count=0)
def test_a_retry_waits_its_turn_in_a_queue(app, app_under_test, bank):
    bank.failures, bank.retry_after = 1, 1
    result = find_task(app, RATE).delay("USD")
    naps = [app.tasks["slow.nap"].delay(0.2) for _ in range(16)]
    app_under_test.add_worker(["-c", "1"])
    found = result.get(timeout=60)
    assert found == DOLLARS, f"A retry should return {DOLLARS}, but it returned {found!r}."
    # A worker with one process takes four or five messages. The others are in front of the retry.
    before = sum(nap.ready() for nap in naps)
    assert before >= 8, (
        f"A retry should wait behind a full queue, but only {before} calls came first."
    )


def test_a_second_bank_says_that_the_port_is_taken(bank):
    try:
        type(bank)()
    except OSError as error:
        assert "is taken: is there a bank in another prompt?" in str(error), (
            f"A second bank should say that its port is taken, but it said: {error}."
        )
    else:
        raise AssertionError("A second bank on one port should raise OSError.")
