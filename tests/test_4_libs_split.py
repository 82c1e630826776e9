"""Chapter 4: plain functions below, tasks above, and a layer of log for each."""

import ast
import importlib
import subprocess
import sys

import pytest
from course import (
    child_environment,
    expect,
    expect_listed,
    expect_logged,
    expect_raises,
    expect_result,
    expect_settings,
    task,
)

CHAPTER = "4-libs-split"
CALLS = [("add", (4, 3), 7), ("sub", (4, 3), 1), ("mul", (4, 3), 12), ("divide", (7, 2), 3.5)]
# Numbers that stand in no time stamp and no id.
NUMBERS = (700001, 200002)


def test_worker_lists_the_tasks(worker):
    expect_listed(worker, [f"tasks.math.{name}_request" for name, _, _ in CALLS])


@pytest.mark.parametrize("name, arguments, result", CALLS)
def test_request(celery_setup, app, name, arguments, result):
    expect_result(app, f"tasks.math.{name}_request", arguments, result)


@pytest.mark.parametrize("name, arguments, result", CALLS)
def test_function_needs_no_broker(app, monkeypatch, name, arguments, result):
    for variable in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(variable, "redis://127.0.0.1:1/0")
    function = getattr(importlib.import_module("libs.math"), name, None)
    expect(function, f"libs.math should have a function {name}.")
    found = function(*arguments)
    expect(found == result, f"libs.math.{name}{arguments} should return {result!r}, it returned {found!r}.")


def test_request_calls_the_function(app, monkeypatch):
    called = []
    monkeypatch.setattr(importlib.import_module("libs.math"), "add", lambda x, y: called.append((x, y)) or 0)
    found = task(app, "tasks.math.add_request")(4, 4)
    by_name = "add" in importlib.import_module("tasks.math").__dict__
    expect(called or by_name, f"add_request should call libs.math.add, it gave {found!r} without.")


def test_settings_are_those_of_chapter_2(app, monkeypatch):
    expect_settings(app, monkeypatch)


def test_division_by_zero_is_raised_in_the_caller(celery_setup, app):
    with expect_raises(ZeroDivisionError, "divide_request.delay(1, 0).get() should raise ZeroDivisionError"):
        task(app, "tasks.math.divide_request").delay(1, 0).get(timeout=10)


def test_libs_know_nothing_of_celery(folder):
    for path in sorted((folder / "libs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = [name for name in names if name.partition(".")[0] in ("celery", "tasks")]
            expect(
                not wrong, f"{path.relative_to(folder)} should import nothing of Celery, it imports {wrong}."
            )


def test_libs_import_without_celery(folder):
    code = "import sys, libs.math; sys.exit('celery' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=child_environment(), check=False)
    expect(done.returncode == 0, "`import libs.math` should work, and should import no celery.")


def expect_layers(worker, app, name="add_request"):
    """Fail unless the task logs at INFO and its function at DEBUG."""
    libs = expect_logged(worker, app, f"tasks.math.{name}", NUMBERS, "INFO")
    function = f"libs.math.{name.removesuffix('_request')}"
    expect(libs, f"{function} should log what it did at DEBUG, and logged nothing.")
    expect(all("| DEBUG " in line for line in libs), f"{function} should log at DEBUG, it logged: {libs[0]}")


@pytest.mark.parametrize("name", [name for name, _, _ in CALLS])
def test_both_layers(worker, app, name):
    expect_layers(worker, app, f"{name}_request")


def test_loglevel_info_shows_celerys_lines(worker, app):
    expect_layers(worker, app)
    received = "Task tasks.math.add_request" in worker.logs()
    expect(received, "With --loglevel=info Celery should log the task that it received, and did not.")


@pytest.mark.own_worker(args=["--loglevel=warning"])
def test_loglevel_warning_hides_celerys_lines_and_neither_layer(worker, app):
    expect_layers(worker, app)
    received = "Task tasks.math.add_request" in worker.logs()
    expect(not received, "With --loglevel=warning Celery should not log the task that it received, and did.")


@pytest.mark.own_worker(env={"LOGURU_LEVEL": "INFO"})
def test_loguru_level_drops_the_debug_layer(worker, app):
    libs = expect_logged(worker, app, "tasks.math.add_request", NUMBERS, "INFO")
    expect(not libs, f"With LOGURU_LEVEL=INFO the libs' lines should be gone, there is: {libs}")
