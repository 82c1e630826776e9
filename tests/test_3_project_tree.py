"""Chapter 3: a package of tasks, and how Celery finds the app in it."""

import importlib
import itertools
import subprocess
import sys

import pytest
from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import NotRegistered
from support.assertions import (
    assert_chapter_2_settings,
    assert_exported,
    assert_listed,
    assert_logged,
    assert_raises,
    assert_task_returns,
    find_task,
)
from support.patience import patience

from course.environment import PINNED, PROGRAMS, environment, free_port

NAMES = ["add", "sub", "mul", "divide"]
SIGNS = {"add": " + ", "sub": " - ", "mul": " * ", "divide": " / "}


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "the worker lists `tasks.math.add`, `sub`, `mul` and `divide`", "how-the-app-finds-its-tasks"
)
def test_worker_lists_the_tasks(worker):
    """The tasks are in tasks/math.py, each with @app.task, and tasks/__init__.py imports them;
    celeryconfig.py stays where it was."""
    assert_listed(worker, [f"tasks.math.{name}" for name in NAMES])


@pytest.mark.step("they add, subtract, multiply and divide", "the-tree")
@pytest.mark.parametrize(
    "name, numbers, result",
    [
        ("add", (4, 3), 7),
        ("sub", (4, 3), 1),
        ("mul", (4, 3), 12),
        ("divide", (8, 2), 4.0),
        ("divide", (7, 2), 3.5),
    ],
)
def test_arithmetic(celery_setup, app, name, numbers, result):
    """Each returns its answer: x + y, x - y, x * y and x / y, the true division, which returns a
    float."""
    assert_task_returns(app, f"tasks.math.{name}", numbers, result)


@pytest.mark.step("`from tasks import add, sub, mul, divide` works", "a-name-is-a-contract")
@pytest.mark.parametrize("name", NAMES)
def test_package_exports_the_task(app, name):
    """In tasks/__init__.py: from tasks.math import add, divide, mul, sub. In tasks/math.py:
    from tasks.celery import app."""
    assert_exported(app, f"tasks.math.{name}")


@pytest.mark.step(
    "each logs its numbers with the sign between them, `4 - 3`, and then the answer, at DEBUG",
    "the-tree",
)
@pytest.mark.parametrize("name", NAMES)
def test_task_says_what_it_does_at_debug(worker, app, name):
    """Each task has the two logger lines of add, with its own sign."""
    assert_logged(worker, app, f"tasks.math.{name}", (700001, 200002), SIGNS[name], "DEBUG")


@pytest.mark.step("the settings of chapter 2 still apply", "the-tree")
def test_settings_are_those_of_chapter_2(app, monkeypatch):
    """tasks/celery.py creates the app, and reads celeryconfig.py as tasks.py did."""
    assert_chapter_2_settings(app, monkeypatch)


@pytest.mark.step(
    "`divide.delay(1, 0).get(timeout=10)` raises ZeroDivisionError in the caller", "the-tree"
)
def test_division_by_zero_is_raised_in_the_caller(worker, app):
    """Let Python raise: don't catch the exception in the task."""
    with assert_raises(
        ZeroDivisionError, "tasks.math.divide.delay(1, 0).get() should raise ZeroDivisionError"
    ):
        find_task(app, "tasks.math.divide").delay(1, 0).get(timeout=30)
    worker.assert_log_exists("raised unexpected: ZeroDivisionError", timeout=patience(5))


@pytest.mark.step("the old name, `tasks.add`, is gone", "a-name-is-a-contract")
def test_old_name_is_not_registered(worker, app, folder):
    """Remove tasks.py, and give no task the name of the old module."""
    assert not (folder / "tasks.py").exists(), (
        "tasks.py should be gone: the package tasks takes its place."
    )
    with assert_raises(
        NotRegistered, "A call to tasks.add, chapter 2's name, should raise NotRegistered"
    ):
        app.send_task("tasks.add", (4, 4)).get(timeout=30)
    worker.assert_log_exists("Received unregistered task of type 'tasks.add'", timeout=patience(5))


@pytest.mark.star(
    "`tasks.text.shout` returns a text in upper case; the worker lists it, and "
    "`from tasks import shout` works",
    "how-the-app-finds-its-tasks",
)
def test_star_shout(worker, app):
    """Write the task in tasks/text.py, and let tasks/__init__.py import it from there."""
    assert_listed(worker, ["tasks.text.shout"])
    assert_exported(app, "tasks.text.shout")
    assert_task_returns(app, "tasks.text.shout", ("hello",), "HELLO")


@pytest.mark.star(
    "for a team that still sends `tasks.minus`, the worker does what `sub` does, and "
    "`tasks.math.sub` is still there",
    "a-name-is-a-contract",
)
def test_star_minus(worker, app):
    """A task has one name, so this takes a second task, with a name that you set. It can call sub
    as a function."""
    names = ["tasks.minus", "tasks.math.sub"]
    assert_listed(worker, names)
    for name in names:
        assert_task_returns(app, name, (4, 3), 1)


# What follows is about Python and Celery themselves: how Celery finds the app of `-A proj`, rule
# by rule, on packages of one line or two.

CELERY = "from celery import Celery\n"
PACKAGE_NUMBERS = itertools.count(1)


def test_tasks_math_does_not_hide_the_standard_one(app):
    import math

    assert math.sqrt(4) == 2, "`import math` should still give the standard library's."
    assert importlib.import_module("tasks.math") is not math, (
        "tasks.math should be a module of its own."
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an empty package that can be imported, with a new name for each test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / f"proj_{next(PACKAGE_NUMBERS)}"
    folder.mkdir()
    (folder / "__init__.py").touch()
    return folder


@pytest.fixture
def find(package):
    """Write the files of the package, and return the name of the app that Celery finds in it."""

    def find(**files):
        for name, text in files.items():
            (package / f"{name}.py").write_text(CELERY + text)
        return find_app(package.name).main

    return find


@pytest.mark.parametrize(
    "wanted, files",
    [
        (
            "app",
            {"__init__": "other = Celery('other')\ncelery = Celery('celery')\napp = Celery('app')"},
        ),
        ("attribute", {"__init__": "other = Celery('other')\ncelery = Celery('attribute')"}),
        (
            "submodule app",
            {"celery": "x = Celery('x')\ncelery = Celery('celery')\napp = Celery('submodule app')"},
        ),
        (
            "submodule celery",
            {"celery": "other = Celery('other')\ncelery = Celery('submodule celery')"},
        ),
        ("submodule", {"__init__": "x = Celery('package')", "celery": "x = Celery('submodule')"}),
        ("package", {"__init__": "other = Celery('package')"}),
    ],
    ids=[
        "first proj.app",
        "then proj.celery that is no module",
        "then app in the submodule",
        "then celery in the submodule",
        "then any app in the submodule, before any in the package",
        "last any app in the package",
    ],
)
def test_where_celery_finds_the_app(find, wanted, files):
    found = find(**files)
    assert found == wanted, f"Celery should find the app {wanted!r}, but it found {found!r}."


def test_no_app(find):
    with assert_raises(AttributeError, "A package without an app should raise AttributeError"):
        find()


def test_no_app_where_the_submodule_has_none(find):
    with assert_raises(AttributeError, "proj/celery.py without an app should raise AttributeError"):
        find(__init__="other = Celery('package')", celery="pass")


def test_import_error_in_the_submodule_is_swallowed(find):
    with assert_raises(
        AttributeError, "An ImportError in proj/celery.py should show as an AttributeError"
    ):
        find(celery="import no_such_module")


TASK = """
from celery import shared_task


@shared_task
def shout(text):
    return text.upper()
"""


def test_an_app_imports_the_modules_that_it_includes(package):
    (package / "text.py").write_text(TASK)
    app = Celery("other", include=[f"{package.name}.text"], set_as_current=False)
    app.loader.import_default_modules()
    assert f"{package.name}.text.shout" in app.tasks, (
        "The app should have the task of an included module."
    )


def test_an_app_discovers_the_module_tasks_of_a_package(package):
    (package / "tasks.py").write_text(TASK)
    app = Celery("other", set_as_current=False)
    app.autodiscover_tasks([package.name])
    app.loader.import_default_modules()
    assert f"{package.name}.tasks.shout" in app.tasks, (
        "The app should discover the task in the package's tasks.py."
    )


def test_only_include_looks_in_the_current_folder(package, monkeypatch):
    (package / "text.py").write_text(TASK)
    (package / "tasks.py").write_text(TASK)
    monkeypatch.chdir(package.parent)
    folders = [folder for folder in sys.path if folder not in ("", str(package.parent))]
    monkeypatch.setattr(sys, "path", folders)
    discovering = Celery("discovering", set_as_current=False)
    discovering.autodiscover_tasks([package.name])
    with assert_raises(ModuleNotFoundError, "autodiscover_tasks shouldn't find the package"):
        discovering.loader.import_default_modules()
    including = Celery("including", include=[f"{package.name}.text"], set_as_current=False)
    including.loader.import_default_modules()
    assert f"{package.name}.text.shout" in including.tasks, (
        "include should find the module in the current folder."
    )


def run_library(folder, call, broker_url=None, seconds=60):
    """Run a call of a library's shout in a process that imports no app; return what it prints.

    Raises a TimeoutExpired after this many seconds.
    """
    (folder / "library.py").write_text(TASK)
    env = environment()
    if broker_url:
        env["CELERY_BROKER_URL"] = broker_url
    command = [PROGRAMS / "python", "-c", f"from library import shout; {call}"]
    run = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )
    return run.stdout + run.stderr


def test_a_shared_task_without_an_app_goes_to_port_5672(tmp_path):
    wanted = "amqp://guest:**@localhost:5672//"
    found = run_library(tmp_path, "print(shout.app.connection().as_uri())").strip()
    assert found == wanted, f"Without an app, a call should go to {wanted}, but it goes to {found}."


def test_a_shared_task_without_an_app_uses_a_celeryconfig_that_can_be_imported(tmp_path):
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'redis://127.0.0.1:6380/5'")
    found = run_library(tmp_path, "print(shout.app.connection().info()['virtual_host'])").strip()
    assert found == "5", (
        f"Without an app, a call should go to the broker of celeryconfig.py, not to {found}."
    )


def test_a_shared_task_without_an_app_is_refused_or_hangs(tmp_path):
    broker_url = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    if PINNED:
        with pytest.raises(subprocess.TimeoutExpired):
            run_library(tmp_path, "shout.delay('hello')", broker_url, seconds=5)
        return
    printed = run_library(tmp_path, "shout.delay('hello')", broker_url)
    assert "Connection refused" in printed, (
        f"Without RabbitMQ, a call should print Connection refused, but it printed {printed}."
    )
