"""Chapter 5's star steps: workflows that no listing shows, in a module workflows.py."""

import importlib
import re

import pytest
from celery.canvas import Signature
from support.assertions import assert_result, describe, fetch
from support.patience import patience
from support.signals import published_messages

from course.waiting import wait_until


@pytest.fixture
def published(app):
    """A list of the messages that the test has sent."""
    with published_messages() as messages:
        yield messages


def build(published, name, *arguments):
    """Return the signature that a function of workflows.py builds; fail if it sends a message."""
    try:
        workflows = importlib.import_module("workflows")
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(
            f"`import workflows` should work, but it raised {describe(error)}."
        ) from None
    function = getattr(workflows, name, None)
    assert callable(function), f"workflows.py should have a function {name}."
    published.clear()
    try:
        found = function(*arguments)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(
            f"workflows.{name} should return a signature, but it raised {describe(error)}."
        ) from None
    assert not published, f"workflows.{name} should send nothing, but it sent {published[0].name}."
    assert isinstance(found, Signature), (
        f"workflows.{name} should return a signature, but it returned {found!r}."
    )
    return found


def received_tasks(log):
    """Return the names of the tasks that a worker has received, from lines of its log."""
    return re.findall(r"Task (\S+)\[\S+\] received", log)


def assert_second_round_is_sent(worker, start, result):
    """Fail if a worker can't send what follows a group, as its log says from this position on."""
    wait_until(lambda: find_callback_error(worker, start) or result.ready(), patience(8))
    error = find_callback_error(worker, start)
    assert not error, (
        "workflows.rounds should send the second additions after the first,"
        f" but sending them raised {error[1]}."
    )


def find_callback_error(worker, start):
    """Return the exception that a worker raised as it sent a chord's callback, or None."""
    return re.search(r"Chord callback for \S+ raised: (.+)", worker.logs()[start:])


@pytest.mark.star(
    "`workflows.mean(pairs)` multiplies each pair with `mul_request` and gives the mean of the"
    " products, 11.5 for `[(4, 2), (3, 5)]`",
    "chords-side-by-side-then-together",
)
def test_star_mean(worker, app, published):
    """Pipe a group into the sum, and the sum into the division, whose other argument you know."""
    for pairs, mean in (([(4, 2), (3, 5)], 11.5), ([(1, 1), (2, 2), (3, 3), (1, 2)], 4.0)):
        before = len(worker.logs())
        result = build(published, "mean", pairs).delay()
        assert_result(f"workflows.mean({pairs})", result, mean)
        received = received_tasks(worker.logs()[before:])
        products = received.count("tasks.math.mul_request")
        assert products == len(pairs), (
            f"workflows.mean({pairs}) should call mul_request {len(pairs)} times,"
            f" but it called it {products} times."
        )


@pytest.mark.star(
    "`workflows.report(pairs)` divides each pair in a task of its own and gives the sum of the"
    " quotients and how many divisions failed, `[7.0, 1]` for `[(8, 2), (1, 0), (9, 3)]`",
    "what-goes-wrong",
)
def test_star_report(worker, app, published):
    """You need two tasks: one that returns what can't be a quotient, and one that sorts it out."""
    cases = [
        ([(8, 2), (1, 0), (9, 3)], [7.0, 1]),
        ([(0, 2), (9, 3)], [3.0, 0]),
        ([(0, 2), (1, 0), (2, 0), (9, 3)], [3.0, 2]),
    ]
    for pairs, wanted in cases:
        before = len(worker.logs())
        result = build(published, "report", pairs).delay()
        assert_result(f"workflows.report({pairs})", result, wanted)
        received = received_tasks(worker.logs()[before:])
        assert len(received) > len(pairs), (
            f"workflows.report({pairs}) should run a task for each pair and one for the report,"
            f" but it ran {len(received)}."
        )


@pytest.mark.star(
    "`workflows.rounds(first, second)` adds the pairs of `first` with `add_request`, side by side,"
    " then those of `second`, and gives the second sums; if a first addition fails, no second one"
    " runs",
    "chains-one-after-the-other",
)
def test_star_rounds(worker, app, published):
    """A group can follow a group. The second one must ignore what the first returned."""
    first, second = [(1, 1), (2, 2)], [(800001, 3), (800002, 4), (800003, 5)]
    before = len(worker.logs())
    result = build(published, "rounds", first, second).delay()
    early = [message for message in published if "80000" in message.arguments]
    assert not early, (
        "workflows.rounds should send the first additions alone,"
        f" but it also sent {early[0].name}{early[0].arguments} at once."
    )
    assert_second_round_is_sent(worker, before, result)
    assert_result(f"workflows.rounds({first}, {second})", result, [800004, 800006, 800008])
    before = len(worker.logs())
    build(published, "rounds", [(1, 1), (2, "two"), (3, 3)], [(900001, 3), (900002, 4)]).delay()
    failed = wait_until(
        lambda: "raised unexpected: TypeError" in worker.logs()[before:], patience(10)
    )
    assert failed, "workflows.rounds should add 2 and 'two' in the first round, but it didn't."
    runs = wait_until(lambda: "900001 + 3" in worker.logs()[before:], 1)
    assert not runs, (
        "workflows.rounds should run no second addition if a first one fails, but it ran one."
    )


@pytest.mark.star(
    "`workflows.chunked(pairs)` adds 200 pairs with at most 20 messages, and gives the sums in"
    " lists",
    "groups-side-by-side",
)
def test_star_chunked(worker, app, published):
    """Twenty messages for 200 pairs are ten pairs in each."""
    pairs = [(number, number) for number in range(200)]
    result = build(published, "chunked", pairs).delay()
    messages = len(published)
    assert messages <= 20, (
        f"workflows.chunked should send at most 20 messages, but it sent {messages}."
    )
    sums = []
    for chunk in fetch(result):
        assert isinstance(chunk, list), (
            f"workflows.chunked should give lists of sums, but one of them is {chunk!r}."
        )
        sums.extend(chunk)
    assert sums == list(range(0, 400, 2)), (
        f"workflows.chunked should give the sums of all pairs in order, but it gave {sums}."
    )
