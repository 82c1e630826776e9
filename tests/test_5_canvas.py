"""Chapter 5: signatures, partials, groups, chains and chords."""

import importlib
import json

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, NotRegistered, TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from kombu.exceptions import EncodeError
from support.assertions import (
    assert_calls_into,
    assert_chapter_2_settings,
    assert_exported,
    assert_listed,
    assert_logged,
    assert_raises,
    assert_result,
    assert_returns,
    assert_task_returns,
    find_task,
)
from support.celery_internals import look_at_header_too_early
from support.names import MATH_TASKS, XSUM
from support.signals import published_messages

from course.environment import PINNED
from course.waiting import wait_until

NAMES = ["add", "sub", "mul", "divide", "xsum"]
SIGNS = {"add": " + ", "sub": " - ", "mul": " * ", "divide": " / ", "xsum": ""}


def test_lesson(lesson):
    lesson.holds()


@pytest.fixture
def add(celery_setup, app):
    return find_task(app, "tasks.math.add_request")


@pytest.fixture
def mul(celery_setup, app):
    return find_task(app, "tasks.math.mul_request")


@pytest.fixture
def divide(celery_setup, app):
    return find_task(app, "tasks.math.divide_request")


@pytest.fixture
def xsum(celery_setup, app):
    return find_task(app, XSUM)


@pytest.fixture
def published(app):
    """A list of the messages that the test has sent."""
    with published_messages() as messages:
        yield messages


@pytest.mark.step("`libs.math.xsum(range(5))` returns 10", "whats-new")
def test_xsum_is_a_plain_function(app):
    """xsum takes one iterable of numbers, not several numbers: return sum(numbers)."""
    xsum = getattr(importlib.import_module("libs.math"), "xsum", None)
    assert xsum, "libs.math should have a function xsum."
    assert_returns("libs.math.xsum(range(5))", lambda: xsum(range(5)), 10)


@pytest.mark.step(
    "the worker lists `tasks.math.xsum_request` and the four tasks of chapter 4", "whats-new"
)
def test_worker_lists_the_tasks(worker):
    """Add xsum_request to tasks/math.py, with @app.task, and to what tasks/__init__.py imports."""
    assert_listed(worker, MATH_TASKS)


@pytest.mark.step("`from tasks import add_request, xsum_request` works", "whats-new")
@pytest.mark.parametrize("name", MATH_TASKS)
def test_package_exports_the_task(app, name):
    """Add xsum_request to the import in tasks/__init__.py, and to __all__."""
    assert_exported(app, name)


@pytest.mark.step("`xsum_request.delay([1, 2, 3]).get(timeout=10)` gives 6", "whats-new")
@pytest.mark.parametrize("numbers, result", [([1, 2, 3], 6), ([2, 2], 4), ([], 0)])
def test_xsum_request(celery_setup, app, numbers, result):
    """The task takes one list and returns what libs.math.xsum gives; it waits for no other task."""
    assert_task_returns(app, XSUM, (numbers,), result)


@pytest.mark.step("the tasks and the settings of chapter 4 are still there", "whats-new")
@pytest.mark.parametrize(
    "name, numbers, result",
    [("add", (4, 3), 7), ("sub", (4, 3), 1), ("mul", (4, 3), 12), ("divide", (7, 2), 3.5)],
)
def test_request(celery_setup, app, monkeypatch, name, numbers, result):
    """Nothing else changes in this chapter."""
    assert_task_returns(app, f"tasks.math.{name}_request", numbers, result)
    assert_chapter_2_settings(app, monkeypatch)


@pytest.mark.step(
    "`xsum_request` logs the numbers and the answer at INFO, and `xsum` logs at DEBUG", "whats-new"
)
@pytest.mark.parametrize("name", NAMES)
def test_both_layers_of_log(worker, app, folder, name):
    """As in chapter 4, use logger.info in the task and logger.debug in the function."""
    numbers = (700001, 200002)
    if name == "xsum":
        numbers = ([700001, 200002],)
    task = f"tasks.math.{name}_request"
    libs = assert_logged(worker, app, task, numbers, SIGNS[name], "INFO")
    if not libs:
        assert_calls_into(folder / "libs" / "math.py", find_task(app, task), *numbers)
    assert libs, f"libs.math.{name} should log at DEBUG, but it logged nothing."
    for level, _, line in libs:
        assert level == "DEBUG", (
            f"libs.math.{name} should log at DEBUG, but it logged at {level}: {line}"
        )


# What the lesson's opening tries.


def test_a_receipt_is_no_argument(add, xsum):
    parts = [add.delay(1, 1)]
    with assert_raises(EncodeError, "A receipt as an argument should raise EncodeError"):
        xsum.delay(parts)


# Signatures.


def test_signatures(add):
    short = add.s(2, 2)
    long = add.signature((2, 2), countdown=10)
    for signature in (short, long):
        assert repr(signature) == "tasks.math.add_request(2, 2)", (
            f"A signature should print tasks.math.add_request(2, 2), but it prints {signature!r}."
        )
    assert short != long, "A countdown is part of a signature: the two should differ."
    assert long.options == {"countdown": 10}, (
        f"The signature's options should be its countdown of 10, but they are {long.options}."
    )
    assert_result("add_request.s(2, 2)", short.delay(), 4)


def test_signature_survives_json(add, app):
    again = app.signature(json.loads(json.dumps(add.s(2, 2))))
    assert_result("A signature that went through JSON", again.delay(), 4)


def test_json_has_no_tuples_and_no_integer_keys(add):
    found = json.loads(json.dumps(add.s({1: 2}, (3, 4))))["args"]
    assert found == [{"1": 2}, [3, 4]], (
        f"JSON should turn the key into a string and the tuple into a list, but it gave {found}."
    )


def test_partial(add):
    assert_result("add_request.s(2).delay(8)", add.s(2).delay(8), 10)


def test_new_argument_goes_in_front(divide):
    assert_result("divide_request.s(2).delay(8)", divide.s(2).delay(8), 4.0)


def test_immutable_signature_ignores_what_came_before(add):
    workflow = chain(add.s(4, 4), add.si(1, 1))
    assert_result("add_request.s(4, 4) | add_request.si(1, 1)", workflow.delay(), 2)


# Groups and chains.


def test_group(add):
    result = group(add.s(i, i) for i in range(10)).delay()
    assert_result("The group of ten additions", result, list(range(0, 20, 2)))
    done = result.completed_count()
    assert done == 10 and result.successful(), (
        f"The group should count 10 completed tasks, but it counts {done}."
    )


def test_partial_group(add):
    result = group(add.s(i) for i in range(10)).delay(10)
    assert_result("The partial group, called with 10,", result, list(range(10, 20)))


def test_chunks_send_fewer_messages(add, published):
    result = add.chunks(zip(range(100), range(100), strict=True), 10).delay()
    messages = len(published)
    assert messages == 10, f"100 calls in chunks of 10 should be 10 messages, not {messages}."
    wanted = [list(range(start, start + 20, 2)) for start in range(0, 200, 20)]
    assert_result("add_request.chunks of a hundred pairs", result, wanted)


def test_chain_three_ways(add, mul):
    workflow = chain(add.s(4, 4) | mul.s(8))
    assert_result("chain(add_request.s(4, 4) | mul_request.s(8))", workflow.delay(), 64)
    assert_result("add_request.s(4, 4) | mul_request.s(8)", (add.s(4, 4) | mul.s(8)).delay(), 64)
    assert_result("The partial chain, called with 4,", chain(add.s(4) | mul.s(8)).delay(4), 64)


def test_chain_knows_its_parent(add, mul):
    result = chain(add.s(4, 4) | mul.s(8)).delay()
    assert_result("The chain", result, 64)
    assert_result("The chain's parent", result.parent, 8)


@pytest.mark.row("A chain that ends in an empty group")
def test_chain_with_an_empty_group(add):
    result = chain(add.s(1, 1), group([])).delay()
    wanted = [] if PINNED else 2
    assert_result("chain(add_request.s(1, 1), group([]))", result, wanted)


# Chords.


@pytest.mark.step(
    "a chord of ten additions, `add_request(i, i)`, into `xsum_request` gives 90",
    "chords-side-by-side-then-together",
)
def test_chord(add, xsum):
    """At the prompt: chord((add_request.s(i, i) for i in range(10)), xsum_request.s())."""
    result = chord((add.s(i, i) for i in range(10)), xsum.s()).delay()
    assert_result("The chord of ten additions into xsum_request", result, 90)


def test_group_piped_into_a_task_is_a_chord(add, xsum):
    piped = group(add.s(i, i) for i in range(10)) | xsum.s()
    kind = type(piped).__name__.strip("_")
    assert kind == "chord", f"A group piped into a task should become a chord, but it is a {kind}."
    assert_result("The group piped into xsum_request", piped.delay(), 90)
    alone = group([add.s(3, 4)])
    assert_result("A group of one piped into xsum_request", (alone | xsum.s()).delay(), 7)
    # add needs a number, and would refuse a list.
    assert_result("What follows a group of one in a chain", chain(alone, add.s(1)).delay(), 8)
    behind = add.s(1, 1) | group([add.s(3)]) | add.s(1)
    assert_result("What follows a group of one behind a task", behind.delay(), 6)


# What goes wrong.


def test_group_with_a_failing_member(divide):
    result = group(divide.s(8, 2), divide.s(1, 0), divide.s(9, 3)).delay()
    with assert_raises(
        ZeroDivisionError, "get() of a group with a failing member should raise ZeroDivisionError"
    ):
        result.get(timeout=30)
    found = result.get(timeout=30, propagate=False)
    kinds = [type(value).__name__ for value in found]
    assert kinds == ["float", "ZeroDivisionError", "float"], (
        "get(propagate=False) should list every member, the failed one as its exception,"
        f" but it returned {found!r}."
    )
    done = result.completed_count()
    assert done == 2 and result.failed(), (
        f"Two of the three should count as completed, but {done} do."
    )


def test_chain_with_a_failing_task(worker, divide, add):
    later = add.s(700000).set(task_id="the-later-task")
    result = chain(divide.s(1, 0), later).delay()
    with assert_raises(ZeroDivisionError, "get() of the chain should raise ZeroDivisionError"):
        result.get(timeout=30)
    runs = wait_until(lambda: "add_request[the-later-task]" in worker.logs(), 1)
    assert not runs, "The task after the one that failed should not run, but it did."


def test_chord_whose_header_fails(worker, divide, xsum):
    result = chord([divide.s(8, 2), divide.s(1, 0)], xsum.s()).delay()
    wait_until(result.parent.ready)
    with assert_raises(
        ZeroDivisionError, "get() of a chord whose header fails should raise ZeroDivisionError"
    ):
        result.get(timeout=30)
    found = result.get(timeout=30, propagate=False)
    assert isinstance(found, ChordError), (
        f"get(propagate=False) should give the ChordError, but it gave {found!r}."
    )
    with assert_raises(ChordError, "The body's own result should raise ChordError"):
        xsum.AsyncResult(result.id).get(timeout=30)
    assert_body_never_ran(worker, result)


@pytest.mark.row("A chord that fails just as `get` begins")
def test_chord_that_fails_just_as_get_begins(divide, xsum, monkeypatch):
    result = chord([divide.s(8, 2), divide.s(1, 0)], xsum.s()).delay()
    wait_until(xsum.AsyncResult(result.id).ready)
    look_at_header_too_early(monkeypatch)
    error = ZeroDivisionError if PINNED else ChordError
    with assert_raises(error, f"get() of the chord should raise {error.__name__}"):
        result.get(timeout=30)


def test_chord_with_an_unknown_task_in_its_header(worker, app, add, xsum):
    unknown = app.signature("tasks.math.power_request", (2, 2))
    result = chord([add.s(1, 1), unknown], xsum.s()).delay()
    with assert_raises(NotRegistered, "get() of the chord should raise NotRegistered"):
        result.get(timeout=30)
    with assert_raises(CeleryTimeout, "The body's own result should stay PENDING"):
        xsum.AsyncResult(result.id).get(timeout=1)
    assert_body_never_ran(worker, result)


@pytest.mark.row("A group that follows a group of which a member fails")
def test_group_after_a_group_with_a_failing_member(divide, add):
    workflow = group(divide.s(1, 0), divide.s(8, 2)) | group(add.si(1, 1), add.si(2, 2))
    result = workflow.delay()
    error, seconds = ZeroDivisionError, 30
    if PINNED:
        error, seconds = CeleryTimeout, 3
    with assert_raises(error, f"get() of the second group should raise {error.__name__}"):
        result.get(timeout=seconds)
    wait_until(result.parent.ready)
    states = [member.state for member in result.parent.results]
    assert states == ["FAILURE", "SUCCESS"], (
        f"The states of the first group should be FAILURE and SUCCESS, but they are {states}."
    )


@pytest.mark.isolated(slow_tasks=True, settings={"result_expires": 1})
def test_chord_whose_first_result_expires_before_the_last(worker, app):
    nap = find_task(app, "slow.nap")
    xsum = find_task(app, XSUM)
    result = chord([nap.s(0, 1), nap.s(2.5, 2)], xsum.s()).delay()
    last = result.parent.results[1].id
    worker.wait_for_log(f"Task slow.nap[{last}] succeeded")
    with assert_raises(CeleryTimeout, "The chord should give nothing"):
        result.get(timeout=1)
    assert_body_never_ran(worker, result)
    for level in ("WARNING", "ERROR", "CRITICAL"):
        assert f": {level}/" not in worker.logs(), (
            f"The worker should log nothing about the lost result, but it logged a line at {level}."
        )


def test_revoked_group(add):
    result = group(add.signature((i, i), countdown=4) for i in range(3)).delay()
    result.revoke()
    for member in result.results:
        with assert_raises(TaskRevokedError, "A member of a revoked group should be revoked"):
            member.get(timeout=30)


def test_revoking_a_chord_does_not_stop_its_header(worker, add, xsum):
    result = chord([add.signature((i, i), countdown=4) for i in range(2)], xsum.s()).delay()
    result.revoke()
    for member in result.parent.results:
        done = wait_until(lambda member=member: member.state == "SUCCESS")
        assert done, f"The header should run, but the state of a member is {member.state}."
    with assert_raises(TaskRevokedError, "The body of a revoked chord should be revoked"):
        result.get(timeout=30)


def test_revoking_the_header_stops_a_chord(worker, add, xsum):
    result = chord([add.signature((i, i), countdown=4) for i in range(2)], xsum.s()).delay()
    result.parent.revoke()
    with assert_raises(TaskRevokedError, "get() of the chord should raise TaskRevokedError"):
        result.get(timeout=30)
    assert_body_never_ran(worker, result)


def assert_body_never_ran(worker, result):
    """Fail if the worker has received the body of the chord that has this result."""
    assert f"xsum_request[{result.id}]" not in worker.logs(), (
        "The body of that chord should not run, but it did."
    )


def test_link_is_called_with_the_result(worker, add):
    callback = add.s(700000).set(task_id="the-callback")
    add.apply_async((4, 4), link=callback).get(timeout=30)
    assert_result("The callback of add_request(4, 4)", add.AsyncResult("the-callback"), 700008)


def test_link_error_is_called(worker, divide, add):
    # The worker calls the errback in place: there is no result to fetch, only lines of its log.
    with assert_raises(ZeroDivisionError, "divide_request(1, 0) should raise ZeroDivisionError"):
        divide.apply_async((1, 0), link_error=add.si(700001, 200002)).get(timeout=30)
    found = wait_until(lambda: "900003" in worker.logs())
    assert found, "The errback of divide_request(1, 0) should run in the worker, but it didn't."


def test_errback_of_one_argument_is_sent(celery_setup, divide, xsum):
    errback = xsum.si([700001, 200002]).set(task_id="the-errback")
    with assert_raises(ZeroDivisionError, "divide_request(1, 0) should raise ZeroDivisionError"):
        divide.apply_async((1, 0), link_error=errback).get(timeout=10)
    assert_result("The errback of one argument", xsum.AsyncResult("the-errback"), 900003)


def test_mutable_errback_gets_more_arguments(worker, divide, add):
    divide.apply_async((1, 0), link_error=add.s(700001, 200002))
    refused = "add_request() takes 2 positional arguments but"
    found = wait_until(lambda: refused in worker.logs())
    assert found, "An errback made with s should get arguments that describe the failure."
