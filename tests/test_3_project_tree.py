"""Chapter 3: a package of tasks, and how Celery finds the app in it."""

import importlib
import sys

import pytest
from celery.app.utils import find_app
from celery.exceptions import NotRegistered
from course import expect, expect_listed, expect_logged, expect_raises, expect_result, expect_settings, task

CHAPTER = "3-project-tree"
NAMES = ["tasks.math.add", "tasks.math.sub", "tasks.math.mul", "tasks.math.divide"]


def test_worker_lists_the_tasks(worker):
    expect_listed(worker, NAMES)


@pytest.mark.parametrize(
    "name, arguments, result",
    [
        ("add", (4, 3), 7),
        ("sub", (4, 3), 1),
        ("mul", (4, 3), 12),
        ("divide", (8, 2), 4.0),
        ("divide", (7, 2), 3.5),
    ],
)
def test_arithmetic(celery_setup, app, name, arguments, result):
    expect_result(app, f"tasks.math.{name}", arguments, result)


@pytest.mark.parametrize("name", NAMES)
def test_task_says_what_it_does_at_debug(worker, app, name):
    expect_logged(worker, app, name, (700001, 200002), "DEBUG")


def test_settings_are_those_of_chapter_2(app, monkeypatch):
    expect_settings(app, monkeypatch)


def test_division_by_zero_is_raised_in_the_caller(worker, app):
    with expect_raises(
        ZeroDivisionError, "tasks.math.divide.delay(1, 0).get() should raise ZeroDivisionError"
    ):
        task(app, "tasks.math.divide").delay(1, 0).get(timeout=10)
    worker.assert_log_exists("raised unexpected: ZeroDivisionError", timeout=5)


def test_old_name_is_not_registered(worker, app):
    with expect_raises(NotRegistered, "A call of tasks.add, chapter 2's name, should raise NotRegistered"):
        app.send_task("tasks.add", (4, 4)).get(timeout=10)
    worker.assert_log_exists("Received unregistered task of type 'tasks.add'", timeout=5)


def test_tasks_math_does_not_hide_the_standard_one(app):
    import math

    expect(math.sqrt(4) == 2, "`import math` should still give the standard library's.")
    expect(importlib.import_module("tasks.math") is not math, "tasks.math should be a module of its own.")


# Where Celery looks for the app of `-A proj`, rule by rule, on packages of one line or two.

CELERY = "from celery import Celery\n"


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Write the files of a package proj, and return the name of the app that Celery finds in it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def find(**files):
        (tmp_path / "proj").mkdir()
        for name in {"__init__": "", **files}:
            text = files.get(name, "")
            (tmp_path / "proj" / f"{name}.py").write_text(CELERY + text if text else "")
        return find_app("proj").main

    yield find
    for name in [name for name in sys.modules if name.partition(".")[0] == "proj"]:
        del sys.modules[name]


def expect_found(found, wanted):
    expect(found == wanted, f"Celery should find the app {wanted!r}, it found {found!r}.")


def test_first_proj_app(find):
    expect_found(
        find(__init__="other = Celery('other')\ncelery = Celery('celery')\napp = Celery('app')"), "app"
    )


def test_then_proj_celery_that_is_no_module(find):
    files = {"__init__": "other = Celery('other')\ncelery = Celery('attribute')"}
    expect_found(find(**files), "attribute")


def test_then_app_in_the_submodule(find):
    files = {"celery": "other = Celery('other')\ncelery = Celery('celery')\napp = Celery('submodule app')"}
    expect_found(find(**files), "submodule app")


def test_then_celery_in_the_submodule(find):
    files = {"celery": "other = Celery('other')\ncelery = Celery('submodule celery')"}
    expect_found(find(**files), "submodule celery")


def test_then_any_app_in_the_submodule_before_any_in_the_package(find):
    files = {"__init__": "other = Celery('package')", "celery": "other = Celery('submodule')"}
    expect_found(find(**files), "submodule")


def test_last_any_app_in_the_package(find):
    expect_found(find(__init__="other = Celery('package')"), "package")


def test_no_app(find):
    with expect_raises(AttributeError, "A package without an app should raise AttributeError"):
        find()
