"""Chapter 4: plain functions below, tasks above, and a layer of log for each."""

import ast
import importlib
import subprocess
from decimal import Decimal
from functools import partial

import pytest
from support.assertions import (
    assert_calls_into,
    assert_chapter_2_settings,
    assert_exported,
    assert_listed,
    assert_logged,
    assert_raises,
    assert_returns,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)

from course.change import find_changes
from course.environment import PROGRAMS, URLS, environment
from course.lesson import apply_diff
from course.waiting import wait_until

CALLS = [("add", (4, 3), 7), ("sub", (4, 3), 1), ("mul", (4, 3), 12), ("divide", (7, 2), 3.5)]
NAMES = [name for name, _, _ in CALLS]
SIGNS = {"add": " + ", "sub": " - ", "mul": " * ", "divide": " / "}
# Numbers that stand in no time stamp and no id.
NUMBERS = (700001, 200002)
PRICES = [("9.95", 19, "11.84"), ("0.50", 1, "0.51"), ("100.00", 0, "100.00")]


def test_lesson(lesson):
    lesson.holds()


def find_function(module, name):
    """Return a function of a module in libs, or fail."""
    try:
        libs = importlib.import_module(f"libs.{module}")
    except ImportError as error:
        raise AssertionError(
            f"`from libs import {module}` should work, but it raised ImportError: {error}."
        ) from None
    function = getattr(libs, name, None)
    assert function, f"libs.{module} should have a function {name}."
    return function


def imported_modules(node):
    """Return the names of the modules that a node of a syntax tree imports."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return []


@pytest.mark.step(
    "`libs.math` has the functions `add`, `sub`, `mul` and `divide`, which need no broker",
    "the-tree",
)
@pytest.mark.parametrize("name, numbers, result", CALLS)
def test_function_needs_no_broker(app, monkeypatch, name, numbers, result):
    """Move the arithmetic of each task into libs/math.py; libs/__init__.py may be empty."""
    for variable in URLS:
        monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")
    function = find_function("math", name)
    assert_returns(f"libs.math.{name}{numbers}", lambda: function(*numbers), result)


@pytest.mark.step("`libs` imports neither `celery` nor `tasks`", "the-tree")
def test_libs_know_nothing_of_celery(folder):
    """Only tasks/ imports celery; libs/ imports loguru at most."""
    for path in sorted((folder / "libs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for module in imported_modules(node):
                assert module.partition(".")[0] not in ("celery", "tasks"), (
                    f"{path.relative_to(folder)} should import neither celery nor tasks,"
                    f" but it imports {module}."
                )
    code = "import sys, libs.math; sys.exit('celery' in sys.modules)"
    done = subprocess.run(
        [PROGRAMS / "python", "-c", code], cwd=folder, env=environment(), check=False
    )
    assert done.returncode == 0, "`import libs.math` should work without importing celery."


@pytest.mark.step(
    "the worker lists `tasks.math.add_request`, `sub_request`, `mul_request` and `divide_request`",
    "the-tree",
)
def test_worker_lists_the_tasks(worker):
    """Rename the tasks in tasks/math.py, and what tasks/__init__.py imports from there."""
    assert_listed(worker, [f"tasks.math.{name}_request" for name in NAMES])


@pytest.mark.step("`from tasks import add_request` works, and so do the other three", "the-tree")
@pytest.mark.parametrize("name", NAMES)
def test_package_exports_the_task(app, name):
    """Import all four from tasks.math in tasks/__init__.py, and add them to __all__."""
    assert_exported(app, f"tasks.math.{name}_request")


@pytest.mark.step("they answer with what the functions return", "the-tree")
@pytest.mark.parametrize("name, numbers, result", CALLS)
def test_request(celery_setup, app, name, numbers, result):
    """Each task calls its function, as in math.add(x, y), and returns the answer."""
    assert_task_returns(app, f"tasks.math.{name}_request", numbers, result)


@pytest.mark.step("`add_request` calls `libs.math.add`", "the-tree")
def test_request_calls_the_function(app, folder):
    """Call the function; don't compute in the task."""
    assert_calls_into(folder / "libs" / "math.py", find_task(app, "tasks.math.add_request"), 4, 4)


@pytest.mark.step(
    "the tasks log the request, `4 - 3`, and the answer at INFO, and the functions log at DEBUG",
    "two-layers-of-logging",
)
@pytest.mark.parametrize("name", NAMES)
def test_both_layers(worker, app, folder, name):
    """Use logger.info in tasks/math.py, and logger.debug, with the answer, in libs/math.py."""
    expect_layers(worker, app, folder, name)


@pytest.mark.step("the settings of chapter 2 still apply", "the-tree")
def test_settings_are_those_of_chapter_2(app, monkeypatch):
    """celeryconfig.py and tasks/celery.py stay as they were."""
    assert_chapter_2_settings(app, monkeypatch)


@pytest.mark.step(
    "`divide_request.delay(1, 0).get(timeout=10)` raises ZeroDivisionError in the caller",
    "what-you-gain",
)
def test_division_by_zero_is_raised_in_the_caller(celery_setup, app):
    """Let Python raise: catch nothing, neither in the function nor in the task."""
    with assert_raises(
        ZeroDivisionError, "divide_request.delay(1, 0).get() should raise ZeroDivisionError"
    ):
        find_task(app, "tasks.math.divide_request").delay(1, 0).get(timeout=30)


# Star steps.


@pytest.mark.star(
    "`libs.prices.gross(net, percent)` adds the tax to a Decimal and rounds half up to cents:"
    ' `gross(Decimal("0.50"), 1)` is `Decimal("0.51")`',
    "what-you-gain",
)
def test_star_gross(app):
    """Calculate with Decimals alone, as floats have no exact cents, and end with quantize."""
    gross = find_function("prices", "gross")
    for net, percent, result in PRICES:
        call = f'libs.prices.gross(Decimal("{net}"), {percent})'
        assert_returns(call, partial(gross, Decimal(net), percent), Decimal(result))


@pytest.mark.star(
    "the worker lists `tasks.prices.gross_request`, which takes and gives text: called with"
    ' `"9.95"` and 19, it gives `"11.84"`, which `libs.prices.gross` computes',
    "the-tree",
)
def test_star_gross_request(worker, app, folder):
    """The task makes a Decimal of the text, calls the function, and makes text of its answer."""
    assert_listed(worker, ["tasks.prices.gross_request"])
    task = find_task(app, "tasks.prices.gross_request")
    call = "gross_request('9.95', 19), called as a function,"
    assert_returns(call, lambda: task("9.95", 19), "11.84")
    assert_task_returns(app, "tasks.prices.gross_request", ("9.95", 19), "11.84")
    assert_calls_into(folder / "libs" / "prices.py", task, "9.95", 19)


# What follows is about Celery's log and loguru's.


def expect_layers(worker, app, folder, name="add"):
    """Fail unless the task logs at INFO and its function at DEBUG."""
    task = f"tasks.math.{name}_request"
    libs = assert_logged(worker, app, task, NUMBERS, SIGNS[name], "INFO")
    if not libs:
        assert_calls_into(folder / "libs" / "math.py", find_task(app, task), *NUMBERS)
    assert libs, f"libs.math.{name} should log what it did at DEBUG, but it logged nothing."
    for level, _, line in libs:
        assert level == "DEBUG", (
            f"libs.math.{name} should log at DEBUG, but it logged at {level}: {line}"
        )


def test_loguru_writes_to_stderr(folder):
    code = "from libs import math; math.add(1, 2)"
    done = subprocess.run(
        [PROGRAMS / "python", "-c", code],
        cwd=folder,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert b"1 + 2 = 3" in done.stderr and not done.stdout, (
        "Loguru should write to stderr, not to stdout."
    )


def test_loglevel_info_shows_celerys_lines(worker, app, folder):
    expect_layers(worker, app, folder)
    received = "Task tasks.math.add_request" in worker.logs()
    assert received, (
        "With --loglevel=info, Celery should log the task that it received, but it didn't."
    )


@pytest.mark.isolated(args=["--loglevel=warning"])
def test_loglevel_warning_hides_celerys_lines_and_neither_layer(worker, app, folder):
    expect_layers(worker, app, folder)
    received = "Task tasks.math.add_request" in worker.logs()
    assert not received, (
        "With --loglevel=warning, Celery should not log the task that it received, but it did."
    )
    assert " ready." not in worker.logs(), (
        "With --loglevel=warning, Celery should not say that it is ready, but it did."
    )


@pytest.mark.isolated(env={"LOGURU_LEVEL": "INFO"})
def test_loguru_level_drops_the_debug_layer(worker, app):
    libs = assert_logged(worker, app, "tasks.math.add_request", NUMBERS, " + ", "INFO")
    assert not libs, (
        f"With LOGURU_LEVEL=INFO, the functions' lines should be gone, but there are {libs}."
    )


@pytest.mark.isolated(count=0, copy=True)
@pytest.mark.parametrize("level, count", [("info", 0), ("debug", 1)])
def test_one_switch_for_both(app_under_test, app, level, count):
    path = app_under_test.folder / "tasks" / "celery.py"
    for diff in find_changes("4")[2]:
        path.write_text(apply_diff(path.read_text(), diff.source))
    worker = wait_until_ready(app_under_test.add_worker([f"--loglevel={level}"]))
    fetch(find_task(app, "tasks.math.add_request").delay(*NUMBERS))
    wait_until(lambda: "answer: 900003" in worker.logs())
    found = worker.logs().count("700001 + 200002 = 900003")
    assert found == count, (
        f"With --loglevel={level}, the function should log {count} lines, but it logged {found}."
    )


NOTE = """

from celery.utils.log import get_task_logger


@app.task
def note():
    get_task_logger(__name__).info("noted")
    get_task_logger(__name__).debug("noted in detail")
"""


@pytest.mark.isolated(count=0, copy=True)
def test_task_logger_follows_the_level_and_names_the_call(app_under_test, app):
    with (app_under_test.folder / "tasks" / "math.py").open("a") as file:
        file.write(NOTE)
    worker = wait_until_ready(app_under_test.add_worker())
    result = app.send_task("tasks.math.note")
    result.get(timeout=10)
    line = f"tasks.math.note[{result.id}]: noted"
    assert wait_until(lambda: line in worker.logs(), 5), (
        f"get_task_logger's logger should log {line}, but the worker logged:\n{worker.logs()}"
    )
    assert "in detail" not in worker.logs(), "At --loglevel=info, no DEBUG line should be logged."
