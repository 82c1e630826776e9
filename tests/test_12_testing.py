"""Chapter 12: the app's own tests, which are graded by the bugs that they catch."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from support.carried import assert_carried_settings, assert_carried_tasks

from course.chapters import NOT_CODE, ROOT, find_chapter
from course.environment import PROGRAMS, environment
from course.waiting import wait_until

OWN_TESTS = Path(__file__).with_name("test_12_own_tests")
# Seconds that one of the folder's own tests may take.
TEST_SECONDS = 60
if os.environ.get("DIR"):
    TEST_SECONDS = 10
# In a check, a step may take longer than usual: it runs all the tests of the attempt.
pytestmark = pytest.mark.patient(40)
# A URL that fails at once: the tests wait for no server, and don't use the learner's own.
NO_REDIS = ("celeryconfig.py", 'broker_url = result_backend = "no-redis-here://"')


class Outcome(NamedTuple):
    """The end of a run: the tests that passed, the one that failed or "", and why it failed."""

    passed: list
    failed: str
    why: str


class Runs:
    """Runs of pytest in the background, in copies of a folder: see mutants.py.

    `planted` has a name for each run, and the (path, text) pairs that are appended to its files.
    """

    def __init__(self, reaper, folder, temp, planted, ignored=NOT_CODE):
        self.reaper = reaper
        self.temp = temp
        self.name = folder.name
        for name, texts in planted.items():
            self.plant(folder, name, [NO_REDIS, *texts], ignored)
        folders = [self.folder(name) for name in planted]
        words = [sys.executable, OWN_TESTS / "mutants.py", str(TEST_SECONDS), *folders]
        env = {}
        for name, value in environment().items():
            if not name.startswith(("PYTEST", "TEST_")):
                env[name] = value
        self.process = subprocess.Popen(words, env=env, process_group=0)
        reaper.watch(self.process.pid)

    def plant(self, folder, name, texts, ignored):
        """Copy the folder for the run of this name, and append the texts to the copy's files."""
        copy = self.folder(name)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*ignored))
        for path, text in texts:
            with (copy / path).open("a") as file:
                file.write(f"\n\n{text}\n")

    def folder(self, name):
        return self.temp / name / self.name

    def outcome(self, name):
        """Wait until this run has ended; return its Outcome."""
        path = self.temp / name / "outcome"
        wait_until(lambda: path.exists() or self.process.poll() is not None, 300)
        return Outcome(**json.loads(path.read_text()))

    def close(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reaper.forget(self.process.pid)


@dataclass
class Bug:
    """Code that is appended to a file of the app, and the hint if no test catches it."""

    file: str
    code: str
    with_it: str
    notice: str


BUGS = {
    "sub": Bug(
        "libs/math.py",
        "def sub(x, y):\n    return y - x",
        "with libs.math.sub(x, y) returning y - x",
        "compare sub(9, 2) with 7",
    ),
    "divide": Bug(
        "libs/math.py",
        "def divide(x, y):\n    return x // y * 1.0",
        "with libs.math.divide(x, y) rounding down",
        "divide numbers that leave a rest",
    ),
    "report": Bug(
        "libs/math.py",
        "_xsum = xsum\ndef xsum(numbers, report=None):\n    return _xsum(numbers)",
        "with libs.math.xsum never calling its report",
        "give xsum a function, and compare what it was called with",
    ),
    "key": Bug(
        "libs/ledger.py",
        "import itertools\n_enter, _count = enter, itertools.count()\n"
        'def enter(id, amount):\n    return _enter(f"{id} {next(_count)}", amount)',
        "without the ledger's PRIMARY KEY",
        "enter the same id twice, and compare the balance",
    ),
    "ignore": Bug(
        "libs/ledger.py",
        "import os, sqlite3\n_enter, _ids = enter, set()\n"
        "def enter(id, amount):\n    if (os.getcwd(), id) in _ids:\n"
        '        raise sqlite3.IntegrityError("UNIQUE constraint failed: entries.id")\n'
        "    _ids.add((os.getcwd(), id))\n    return _enter(id, amount)",
        "with INSERT instead of INSERT OR IGNORE",
        "enter the same id twice",
    ),
    "commit": Bug(
        "libs/ledger.py",
        "import contextlib, tempfile\n_enter = enter\n"
        "def enter(id, amount):\n    with tempfile.TemporaryDirectory() as folder:\n"
        "        with contextlib.chdir(folder):\n            return _enter(id, amount)",
        "with libs.ledger.enter never committing",
        "enter two ids, and compare the second balance",
    ),
    "twice": Bug(
        "libs/ledger.py",
        "import itertools\n_pay, _count = pay_interest, itertools.count()\n"
        'def pay_interest(day, rate):\n    return _pay(f"{day} {next(_count)}", rate)',
        "with pay_interest paying each time it is called",
        "pay the same day's interest twice, and compare the balance",
    ),
    "day": Bug(
        "libs/ledger.py",
        '_pay = pay_interest\ndef pay_interest(day, rate):\n    return _pay("", rate)',
        "with an id for pay_interest that lacks the day",
        "pay the interest of two days, and compare the balance",
    ),
    "swapped": Bug(
        "tasks/math.py",
        "_sub = sub_request.run\nsub_request.run = lambda x, y: _sub(y, x)",
        "with sub_request passing its numbers on in the wrong order",
        "compare sub_request(9, 2) with 7",
    ),
    "return": Bug(
        "tasks/math.py",
        "_mul = mul_request.run\ndef _forget(x, y):\n    _mul(x, y)\nmul_request.run = _forget",
        "without the return in mul_request",
        "compare mul_request(9, 2) with 18",
    ),
    "export": Bug(
        "tasks/__init__.py",
        "from tasks.math import add_request as mul_request",
        "with tasks exporting add_request under the name mul_request",
        "import mul_request from tasks, and compare what it returns with 18",
    ),
    "directly": Bug(
        "tasks/math.py",
        'def _report(numbers):\n    meta = {"done": 1, "of": len(numbers)}\n'
        '    xsum_request.update_state(state="PROGRESS", meta=meta)\n'
        "    return sum(numbers)\nxsum_request.run = _report",
        "with xsum_request calling update_state when it is called as a function",
        "call xsum_request as a function",
    ),
    "progress": Bug(
        "tasks/math.py",
        "xsum_request.run = lambda numbers: sum(numbers)",
        "with xsum_request never calling update_state",
        "replace xsum_request.update_state by a Mock, and look at what apply called it with",
    ),
    "retries": Bug(
        "tasks/ledger.py",
        "enter_request.max_retries = 0",
        "with enter_request never tried again",
        "let libs.ledger.enter raise OperationalError twice, and apply the task",
    ),
    "once": Bug(
        "tasks/ledger.py",
        "enter_request.max_retries = 1",
        "with enter_request tried again only once",
        "let libs.ledger.enter raise OperationalError more than once, and apply the task",
    ),
    "every": Bug(
        "tasks/ledger.py",
        "from celery.exceptions import Retry\n_enter = enter_request.run\n"
        "def _again(*args, **kwargs):\n    try:\n        return _enter(*args, **kwargs)\n"
        "    except Retry:\n        raise\n"
        "    except Exception as error:\n"
        "        raise enter_request.retry(exc=error, countdown=0)\n"
        "enter_request.run = _again",
        "with enter_request tried again after every error",
        "let libs.ledger.enter raise another exception, apply the task, and count the calls",
    ),
    "fraction": Bug(
        "libs/math.py",
        "from fractions import Fraction\ndef divide(x, y):\n    return Fraction(x, y)",
        "with libs.math.divide returning a Fraction",
        "send divide_request to a worker, since JSON can't carry that",
    ),
    "pickle": Bug(
        "celeryconfig.py",
        'task_serializer = result_serializer = "pickle"\naccept_content = ["json", "pickle"]',
        "with messages in pickle instead of JSON",
        "send a set, and expect EncodeError",
    ),
    "route": Bug(
        "celeryconfig.py",
        'task_routes = {"tasks.leger.*": {"queue": "ledger"}}',
        "with a route for tasks.leger.*",
        "ask app.amqp.router for the queue of enter_request",
    ),
    "crontab": Bug(
        "celeryconfig.py",
        "from celery.schedules import crontab\nfor _entry in beat_schedule.values():\n"
        '    _entry["schedule"] = crontab(hour=4)',
        "with crontab(hour=4), which is every minute of that hour",
        "compare the entry's schedule with crontab(hour=4, minute=0)",
    ),
    "beat": Bug(
        "celeryconfig.py",
        'for _entry in beat_schedule.values():\n    _entry["task"] = "tasks.ledger.interest"',
        "with beat sending tasks.ledger.interest, which is no task",
        "look the entry's task up in app.tasks",
    ),
}


@pytest.fixture(scope="module")
def graded(nodes, folder, tmp_path_factory):
    """The runs of the folder's tests: "good" on the app as it is, and one with each bug."""
    planted = {"good": []}
    for name, bug in BUGS.items():
        planted[name] = [(bug.file, bug.code)]
    runs = Runs(nodes.reaper, folder, tmp_path_factory.mktemp("graded"), planted)
    yield runs
    runs.close()


def assert_caught(graded, name):
    """Fail unless a test of the folder fails with this bug."""
    bug = BUGS[name]
    outcome = graded.outcome(name)
    assert outcome.failed, (
        f"A test should fail {bug.with_it}, but {len(outcome.passed)} passed: {bug.notice}."
    )


def bugs(*names):
    return pytest.mark.parametrize("bug", names)


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step("`pytest` finds your tests in the folder", "run-the-tests")
def test_tests_are_found(folder, graded):
    """pytest.ini has testpaths and pythonpath, below [pytest]."""
    names = ("pytest.ini", "pytest.toml", "pyproject.toml", "tox.ini", "setup.cfg")
    assert any((folder / name).exists() for name in names), (
        "There should be a pytest.ini: without one, pytest takes the settings of the course."
    )
    passed, failed, why = graded.outcome("good")
    assert passed or failed, (
        "pytest should find your tests, in files such as tests/test_libs.py, but it found none."
    )
    for name in "libs", "tasks":
        assert f"No module named '{name}" not in why, (
            f"{failed} should find the app, but it failed: {why}"
        )


@pytest.mark.step("each test has its own ledger, and no ledger is left in the folder", "in-memory")
def test_no_ledger_is_left(graded):
    """A fixture with autouse=True calls monkeypatch.chdir(tmp_path)."""
    graded.outcome("good")
    left = [path.name for path in graded.folder("good").rglob("*.db")]
    assert not left, (
        f"Your tests should leave no ledger in the folder, but they left {', '.join(left)}."
    )


@pytest.mark.step("they pass without Redis", "in-memory")
def test_tests_pass(graded):
    """tests/conftest.py sets memory:// and cache+memory:// before the app is used."""
    _, failed, why = graded.outcome("good")
    assert "no-redis-here" not in why, (
        "Your tests should use memory:// and cache+memory://,"
        f" but {failed} used celeryconfig.py's URLs."
    )
    assert "it didn't end within" not in why, (
        f"Your tests should pass without Redis, but {failed} is stuck: {why}. Does it wait for a"
        " Redis or a worker?"
    )
    assert not failed, f"Your tests should pass without Redis, but {failed} failed: {why}"


@pytest.mark.step(
    "they catch a `sub` with its numbers swapped, a `divide` that rounds down, an `xsum` that"
    " doesn't report",
    "the-function-and-the-task",
)
@bugs("sub", "divide", "report")
def test_functions(graded, bug):
    """Import libs.math, call its functions, and compare. Choose numbers for which a wrong
    function gives another answer."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch an entry that is made twice, refused the second time, or not kept",
    "the-function-and-the-task",
)
@bugs("key", "ignore", "commit")
def test_entries(graded, bug):
    """Call libs.ledger.enter more than once in a test: with another id, and with the same."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch interest that is paid twice a day, or only on the first day",
    "the-function-and-the-task",
)
@bugs("twice", "day")
def test_interest(graded, bug):
    """libs.ledger.pay_interest takes the day as an argument, so a test chooses it."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch a task that swaps its numbers, returns no answer, or is exported under another"
    " task's name",
    "the-function-and-the-task",
)
@bugs("swapped", "return", "export")
def test_tasks_as_functions(graded, bug):
    """Import each task from tasks, call it as a function, and compare."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch an `xsum_request` that reports when it is called as a function, or never reports",
    "retries-and-progress",
)
@bugs("directly", "progress")
def test_progress(graded, bug):
    """monkeypatch.setattr(xsum_request, "update_state", Mock()), then
    xsum_request.apply(([9, 2],))."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch missing retries, too few retries, and retries after any error",
    "retries-and-progress",
)
@bugs("retries", "once", "every")
def test_retries(graded, bug):
    """Replace libs.ledger.enter by a Mock with a side_effect, call enter_request.apply, and look
    at call_count."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch an answer that JSON can't carry, and messages that aren't JSON", "a-message"
)
@bugs("fraction", "pickle")
def test_messages(graded, bug):
    """start_worker(app, perform_ping_check=False) runs a worker in a thread. Send it each of the
    tasks."""
    assert_caught(graded, bug)


@pytest.mark.step(
    "they catch a misspelt route, and a wrong time or task in the schedule", "queues-and-schedules"
)
@bugs("route", "crontab", "beat")
def test_configuration(graded, bug):
    """app.amqp.router.route({}, task.name) finds the queue. app.conf.beat_schedule is a
    dictionary."""
    assert_caught(graded, bug)


@pytest.mark.isolated(count=0)
def test_what_chapter_11_had(app, number):
    assert_carried_tasks(app, number)
    assert_carried_settings(app, number)


# What follows is about Celery itself, and its plugins for pytest.

INNER_TESTS = (OWN_TESTS / "inner_tests.py").read_text()
# pytest-celery needs a Docker engine when its first container starts.
NO_DOCKER = "os.environ['DOCKER_HOST'] = 'tcp://127.0.0.1:1'"
ONE_LEDGER = """
import pytest
from libs import ledger
@pytest.mark.parametrize("id", "12")
def test(id):
    assert ledger.enter(id, 100) == 100.0
"""
NO_PING = """
from celery.contrib.testing.worker import start_worker
from tasks.celery import app
def test():
    with start_worker(app):
        pass
"""
CELERYS_OWN = """
from tasks import add_request
def test(celery_worker, celery_app):
    assert celery_worker.app is celery_app is not add_request.app
"""
CELERYS_PLUGIN = """
pytest_plugins = ("celery.contrib.pytest",)
import celery.contrib.testing.tasks
"""
# For each claim, what is appended to the chapter's tests/conftest.py, and a test.
CLAIMS = {
    "inner tests": ("", INNER_TESTS),
    "one ledger": ("own_ledger = None", ONE_LEDGER),
    "no ping": ("", NO_PING),
    "pytest-celery's": (NO_DOCKER, "def test(celery_worker):\n    pass"),
    "Celery's": (f"{NO_DOCKER}\n{CELERYS_PLUGIN}", CELERYS_OWN),
}


@pytest.fixture(scope="module")
def claims(nodes, number, tmp_path_factory):
    """The runs of these tests, one for each claim, in copies of the chapter."""
    planted = {}
    for name, (conftest, test) in CLAIMS.items():
        planted[name] = [("tests/conftest.py", conftest), ("tests/test_claim.py", test)]
    folder = ROOT / "chapters" / find_chapter(number)
    temp = tmp_path_factory.mktemp("claims")
    runs = Runs(nodes.reaper, folder, temp, planted, (*NOT_CODE, "test_*.py"))
    yield runs
    runs.close()


def test_what_celery_does_in_tests(claims):
    passed, failed, why = claims.outcome("inner tests")
    assert not failed, f"The tests of inner_tests.py should pass, but {failed} failed: {why}"
    wanted = INNER_TESTS.count("\ndef test_")
    assert len(passed) == wanted, (
        f"All {wanted} tests of inner_tests.py should run, but {len(passed)} did."
    )


def test_without_its_own_ledger_a_test_sees_another_one_s(claims):
    why = claims.outcome("one ledger").why
    assert "200.0 == 100.0" in why, (
        f"Two tests should enter 100.0 in the same ledger, but the second one's failure is {why!r}."
    )


def test_the_ping_needs_an_import(claims):
    outcome = claims.outcome("no ping")
    assert outcome.failed and "AssertionError" in outcome.why, (
        "start_worker should raise AssertionError without the import of its ping task, but the"
        f" failure is {outcome.why!r}."
    )


def test_pytest_celery_has_another_celery_worker(claims):
    why = claims.outcome("pytest-celery's").why
    assert "DockerException" in why, (
        f"pytest-celery's celery_worker should need Docker, but the failure is {why!r}."
    )
    _, failed, why = claims.outcome("Celery's")
    assert not failed, (
        f"celery.contrib.pytest should bring back Celery's celery_worker, but {failed} failed:"
        f" {why}"
    )


def run_pytest(folder, *options, **variables):
    """Run the folder's tests as a learner does; return the output, or fail unless they pass."""
    words = [PROGRAMS / "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"pytest should exit with 0, but it exited with {done.returncode}:"
        f" {done.stdout}{done.stderr}"
    )
    return done.stdout


def test_the_same_tests_on_redis(folder, app_under_test):
    redis = app_under_test.broker
    output = run_pytest(folder, TEST_REDIS=redis.celeryconfig["host_url"])
    assert "passed" in output and redis.client.keys("celery-task-meta-*"), (
        f"With TEST_REDIS, results should be in Redis, but none is there: {output}"
    )


def test_containers(request, folder):
    if not request.config.option.docker:
        pytest.skip("needs a Docker engine: make test-docker")
    from support import containers

    output = run_pytest(folder, "tests/test_containers.py", TEST_IMAGE=containers.IMAGE)
    assert "1 passed" in output, (
        f"A test should kill a worker in its container and pass, but pytest printed: {output}"
    )
