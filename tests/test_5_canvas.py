"""Chapter 5: signatures, partials, groups, chains and chords."""

import importlib
import json

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from support.assertions import (
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
    return find_task(app, "tasks.math.xsum_request")


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
    assert_listed(worker, [f"tasks.math.{name}_request" for name in NAMES])


@pytest.mark.step("`from tasks import add_request, xsum_request` works", "whats-new")
@pytest.mark.parametrize("name", NAMES)
def test_package_exports_the_task(app, name):
    """Add xsum_request to the import in tasks/__init__.py, and to __all__."""
    assert_exported(app, f"tasks.math.{name}_request")


@pytest.mark.step("`xsum_request.delay([1, 2, 3]).get(timeout=10)` gives 6", "whats-new")
@pytest.mark.parametrize("numbers, result", [([1, 2, 3], 6), ([], 0)])
def test_xsum_request(celery_setup, app, numbers, result):
    """The task takes one list, not several numbers, and returns what libs.math.xsum gives; it waits for no other task."""
    assert_task_returns(app, "tasks.math.xsum_request", (numbers,), result)


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
def test_both_layers_of_log(worker, app, name):
    """As in chapter 4, use logger.info in the task and logger.debug in the function."""
    numbers = ([700001, 200002],) if name == "xsum" else (700001, 200002)
    libs = assert_logged(worker, app, f"tasks.math.{name}_request", numbers, SIGNS[name], "INFO")
    assert libs, f"libs.math.{name} should log at DEBUG, but it logged nothing."
    for level, _, line in libs:
        assert level == "DEBUG", (
            f"libs.math.{name} should log at DEBUG, but it logged at {level}: {line}"
        )


def test_signatures(add):
    short, long = add.s(2, 2), add.signature((2, 2), countdown=10)
    assert repr(short) == repr(long) == "tasks.math.add_request(2, 2)", (
        f"Both signatures should print tasks.math.add_request(2, 2), but they print {short!r} and {long!r}."
    )
    assert short != long, "A countdown is part of a signature: the two should differ."
    assert long.options["countdown"] == 10, (
        "The countdown should travel in the signature's options."
    )
    assert_result("add_request.s(2, 2)", short.delay(), 4)


def test_signature_survives_json(add, app):
    again = app.signature(json.loads(json.dumps(add.s(2, 2))))
    assert_result("A signature that went through JSON", again.delay(), 4)


def test_partial(add):
    assert_result("add_request.s(2).delay(8)", add.s(2).delay(8), 10)


def test_new_argument_goes_in_front(divide):
    assert_result("divide_request.s(2).delay(8)", divide.s(2).delay(8), 4.0)


def test_immutable_signature_ignores_what_came_before(add):
    assert_result(
        "add_request.s(4, 4) | add_request.si(1, 1)", chain(add.s(4, 4), add.si(1, 1)).delay(), 2
    )


def test_group(add):
    result = group(add.s(i, i) for i in range(10)).delay()
    assert_result("The group of ten additions", result, list(range(0, 20, 2)))
    done = result.completed_count()
    assert done == 10 and result.successful(), (
        f"The group should count 10 completed tasks, but it counts {done}."
    )


def test_partial_group(add):
    assert_result(
        "The partial group, called with 10,",
        group(add.s(i) for i in range(10)).delay(10),
        list(range(10, 20)),
    )


def test_chain_three_ways(add, mul):
    assert_result(
        "chain(add_request.s(4, 4) | mul_request.s(8))", chain(add.s(4, 4) | mul.s(8)).delay(), 64
    )
    assert_result("add_request.s(4, 4) | mul_request.s(8)", (add.s(4, 4) | mul.s(8)).delay(), 64)
    assert_result("The partial chain, called with 4,", chain(add.s(4) | mul.s(8)).delay(4), 64)


def test_chain_knows_its_parent(add, mul):
    result = chain(add.s(4, 4) | mul.s(8)).delay()
    assert_result("The chain", result, 64)
    assert_result("The chain's parent", result.parent, 8)


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


def test_group_with_a_failing_member(divide):
    result = group(divide.s(8, 2), divide.s(1, 0), divide.s(9, 3)).delay()
    with assert_raises(
        ZeroDivisionError, "get() of a group with a failing member should raise ZeroDivisionError"
    ):
        result.get(timeout=10)
    found = result.get(timeout=10, propagate=False)
    kinds = [type(each).__name__ for each in found]
    assert kinds == ["float", "ZeroDivisionError", "float"], (
        f"get(propagate=False) should list every member, the failed one as its exception, but it gave {found!r}."
    )
    done = result.completed_count()
    assert done == 2 and result.failed(), (
        f"Two of the three should count as completed, but {done} do."
    )


def test_chord_whose_header_fails(worker, divide, xsum):
    result = chord([divide.s(8, 2), divide.s(1, 0)], xsum.s()).delay()
    with assert_raises(
        ZeroDivisionError, "get() of a chord whose header fails should raise ZeroDivisionError"
    ):
        result.get(timeout=10)
    found = result.get(timeout=10, propagate=False)
    assert isinstance(found, ChordError), (
        f"get(propagate=False) should give the ChordError, but it gave {found!r}."
    )
    assert f"xsum_request[{result.id}]" not in worker.logs(), (
        "The body of that chord should not run, but it did."
    )


def test_link_is_called_with_the_result(worker, add):
    callback = add.s(700000).set(task_id="the-callback")
    add.apply_async((4, 4), link=callback).get(timeout=10)
    assert_result("The callback of add_request(4, 4)", add.AsyncResult("the-callback"), 700008)


def test_link_error_is_called(worker, divide, add):
    # The worker calls the errback at once and in place, so there is no result to fetch, but its lines of log.
    with assert_raises(ZeroDivisionError, "divide_request(1, 0) should raise ZeroDivisionError"):
        divide.apply_async((1, 0), link_error=add.si(700001, 200002)).get(timeout=10)
    found = wait_until(lambda: "900003" in worker.logs(), 5)
    assert found, "The errback of divide_request(1, 0) should run in the worker, but it didn't."
