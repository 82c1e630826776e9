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

import pytest
from support.carried import assert_carried_settings, assert_carried_tasks
from support.checkout import needs_docker

from course.chapters import NOT_CODE
from course.environment import PROGRAMS, environment

DATA = Path(__file__).with_name("test_12_testing")
# Seconds that one of the folder's own tests may take.
TEST_SECONDS = 60
if os.environ.get("DIR"):
    TEST_SECONDS = 10
# In a check, a step may take longer than usual: it runs all the tests of the attempt.
pytestmark = pytest.mark.patient(40)
# URLs that fail at once: the tests wait for no server, and don't use the learner's own.
NO_REDIS = '\n\nbroker_url = result_backend = "no-redis-here://"\n'
STAR_BUGS = ["yesterday", "refused"]
ALL_BUGS = []  # in the order of the steps


def bugs(*names):
    """Run a test with each of these bugs, which are functions of bugs.py."""
    ALL_BUGS.extend(names)
    return pytest.mark.parametrize("bug", names)


@dataclass
class Outcome:
    """The end of a run of the folder's tests: see mutants.py."""

    bug: str
    passed: int
    failed: str
    why: str
    about: str = ""


class Runs:
    """Runs of a folder's tests in the background: without a bug, then with each of these."""

    def __init__(self, reaper, folder, temp, bugs):
        self.reaper = reaper
        self.folder = temp / folder.name
        self.log = temp / "log"
        self.outcomes = {}
        shutil.copytree(folder, self.folder, ignore=shutil.ignore_patterns(*NOT_CODE))
        with (self.folder / "celeryconfig.py").open("a") as file:
            file.write(NO_REDIS)
        self.start(bugs)

    def start(self, bugs):
        env = {}
        for name, value in environment().items():
            if not name.startswith(("BANK_", "PYTEST", "TEST_")):
                env[name] = value
        reader, writer = os.pipe()
        words = [sys.executable, DATA / "mutants.py", str(writer), str(TEST_SECONDS), *bugs]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writer],
                process_group=0,
            )
        os.close(writer)
        self.reaper.watch(self.process.pid)
        self.reports = os.fdopen(reader)

    def outcome(self, bug=""):
        """Wait for the run with a bug; return its Outcome."""
        while bug not in self.outcomes:
            line = self.reports.readline()
            if not line:
                return self.missing_outcome(bug)
            found = Outcome(**json.loads(line))
            self.outcomes[found.bug] = found
        return self.outcomes[bug]

    def missing_outcome(self, bug):
        """Return the outcome without a bug if pytest has run nothing; fail with a bug."""
        printed = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
        assert not bug, f"pytest should run your tests with a bug, but it printed: {printed}"
        return Outcome("", 0, "", printed)

    def close(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reports.close()
        self.reaper.forget(self.process.pid)


@pytest.fixture(scope="module")
def runs(nodes, folder, overlay, tmp_path_factory):
    """The runs of the folder's tests; on an overlay, with the bug of its star step alone."""
    names = [*ALL_BUGS, *STAR_BUGS]
    if overlay:
        names = [overlay.name.partition("_")[0]]
    runs = Runs(nodes.reaper, folder, tmp_path_factory.mktemp("runs"), names)
    yield runs
    runs.close()


def assert_caught(runs, bug):
    """Fail unless the folder's tests pass, but one of them fails with this bug."""
    assert_good(runs)
    outcome = runs.outcome(bug)
    assert outcome.failed, (
        f"A test should fail {outcome.about.replace(':', f', but {outcome.passed} passed:', 1)}."
    )


def assert_good(runs):
    """Fail unless the folder's tests pass without a bug."""
    outcome = runs.outcome()
    failed, why = outcome.failed, outcome.why
    assert "no-redis-here" not in why, (
        "Your tests should use memory:// and cache+memory://,"
        f" but {failed} used celeryconfig.py's URLs."
    )
    assert "it didn't end within" not in why, (
        f"Your tests should pass without Redis, but {failed} is stuck: {why}. Does it wait for a"
        " Redis or a worker?"
    )
    assert not failed, f"Your tests should pass without Redis, but {failed} failed: {why}"


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step("`pytest` finds your tests in the folder", "a-test-that-hangs")
def test_tests_are_found(folder, runs):
    """pytest.ini has testpaths and pythonpath, below [pytest]."""
    names = ("pytest.ini", "pytest.toml", "pyproject.toml", "tox.ini", "setup.cfg")
    assert any((folder / name).exists() for name in names), (
        "There should be a pytest.ini: without one, pytest takes the settings of the course."
    )
    outcome = runs.outcome()
    assert outcome.passed or outcome.failed, (
        "pytest should find your tests, in files such as tests/test_libs.py, but it found none."
    )
    for name in "libs", "tasks":
        assert f"No module named '{name}" not in outcome.why, (
            f"{outcome.failed} should find the app, but it failed: {outcome.why}"
        )


@pytest.mark.step("each test has its own ledger, and no ledger is left in the folder", "in-memory")
def test_no_ledger_is_left(runs):
    """A fixture with autouse=True calls monkeypatch.chdir(tmp_path)."""
    runs.outcome()
    left = [path.name for path in runs.folder.rglob("*.db")]
    assert not left, (
        f"Your tests should leave no ledger in the folder, but they left {', '.join(left)}."
    )


@pytest.mark.step("they pass without Redis", "in-memory")
def test_tests_pass(runs):
    """tests/conftest.py sets memory:// and cache+memory:// before the app is used."""
    assert_good(runs)


@pytest.mark.step(
    "they catch a `sub` with its numbers swapped, a `divide` that rounds down, an `xsum` that"
    " doesn't report",
    "the-function-and-the-task",
)
@bugs("sub", "divide", "report")
def test_functions(runs, bug):
    """Import libs.math, call its functions, and compare. Choose numbers for which a wrong
    function gives another answer."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch an entry that is made twice, refused the second time, or not kept",
    "the-function-and-the-task",
)
@bugs("key", "ignore", "commit")
def test_entries(runs, bug):
    """Call libs.ledger.enter more than once in a test: with another key, and with the same."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch interest that is paid twice a day, or only on the first day",
    "the-function-and-the-task",
)
@bugs("twice", "day")
def test_interest(runs, bug):
    """libs.ledger.pay_interest takes the day as an argument, so a test chooses it."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch a task that swaps its numbers, returns no answer, or calls another task's function",
    "the-function-and-the-task",
)
@bugs("swapped", "returns", "copied")
def test_tasks_as_functions(runs, bug):
    """Import each task from tasks, call it as a function, and compare."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch an `xsum_request` that reports when it is called as a function, or never reports",
    "the-function-and-the-task",
)
@bugs("directly", "progress")
def test_progress(runs, bug):
    """monkeypatch.setattr(xsum_request, "update_state", Mock()), then
    xsum_request.apply(([9, 2],))."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch a `rate_request` that is never tried again, only once, or after every error",
    "a-bank-for-the-tests",
)
@bugs("retries", "once", "every")
def test_retries(runs, bug):
    """Let the bank fail twice, or not know the currency; call rate_request.apply, and look at
    bank.asked."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch pauses of three minutes, and a `Retry-After` that is ignored",
    "a-bank-for-the-tests",
)
@bugs("pauses", "when")
def test_countdowns(runs, bug):
    """Replace rate_request.retry by Mock(wraps=rate_request.retry), and look at the countdowns
    that it was called with."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch an answer that JSON can't carry, and messages that aren't JSON", "a-message"
)
@bugs("fraction", "pickle")
def test_messages(runs, bug):
    """start_worker(app, perform_ping_check=False) runs a worker in a thread. Send it each of the
    tasks."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch a `BankBusy` that has lost its seconds when the caller gets it", "a-message"
)
@bugs("rebuilt")
def test_exceptions(runs, bug):
    """Set rate_request's max_retries to 0, so that a worker in a thread raises the first BankBusy,
    and look at its seconds."""
    assert_caught(runs, bug)


@pytest.mark.step(
    "they catch a misspelt route, and a wrong time or task in the schedule", "queues-and-schedules"
)
@bugs("route", "time_of_day", "beat")
def test_configuration(runs, bug):
    """app.amqp.router.route({}, task.name) finds the queue. app.conf.beat_schedule is a
    dictionary."""
    assert_caught(runs, bug)


@pytest.mark.star(
    "they catch an `interest_request` that pays for yesterday", "the-function-and-the-task"
)
def test_star_yesterday(runs):
    """The task gets the time from datetime in its own module, tasks.ledger: a Mock can take its
    place."""
    assert_caught(runs, "yesterday")


@pytest.mark.star(
    "they catch a `rate` that raises ConnectionRefusedError, and no BankError, where no bank"
    " listens",
    "a-bank-for-the-tests",
)
def test_star_refused(runs):
    """Set rates.BANK_URL to a port where nothing listens; and rates.own, which keeps the connection
    to the bank, to a new threading.local()."""
    assert_caught(runs, "refused")


@pytest.mark.isolated(count=0)
def test_what_chapter_11_had(app, number):
    assert_carried_tasks(app, number)
    assert_carried_settings(app, number)


# What follows is about Celery itself, and its plugins for pytest.


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


def run_claims(folder, temp, name, conftest="", settings="", **variables):
    """Run tests of ours in a copy of the chapter, whose conftest.py and settings get these lines
    too."""
    copy = shutil.copytree(folder, temp / "copy", ignore=shutil.ignore_patterns(*NOT_CODE))
    for path in copy.glob("tests/test_*.py"):
        path.unlink()
    shutil.copy(DATA / name, copy / "tests" / "test_claims.py")
    for path, lines in (("tests/conftest.py", conftest), ("celeryconfig.py", settings)):
        with (copy / path).open("a") as file:
            file.write(lines)
    run_pytest(copy, "-p", "no:valkey", **variables)


def test_what_celery_does_in_tests(folder, tmp_path):
    run_claims(folder, tmp_path, "inner_tests.py")


CELERYS_PLUGIN = """
pytest_plugins = ("celery.contrib.pytest",)
import celery.contrib.testing.tasks
"""
WITHOUT_URLS = """
for name in "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND":
    del os.environ[name]
"""


def test_the_worker_of_celerys_plugin(folder, tmp_path):
    run_claims(folder, tmp_path, "celery_worker_tests.py", CELERYS_PLUGIN)


@pytest.mark.isolated(count=0)
@pytest.mark.parametrize("where", ["environment", "settings"])
def test_the_worker_of_celerys_plugin_and_redis(folder, tmp_path, app_under_test, where):
    url = app_under_test.broker.celeryconfig["host_url"]
    conftest = CELERYS_PLUGIN
    settings = f'\nbroker_url = result_backend = "{url}"\n'
    if where == "settings":
        conftest += WITHOUT_URLS
    run_claims(
        folder,
        tmp_path,
        "celery_worker_tests.py",
        conftest,
        settings,
        TEST_REDIS=url,
        URL_IN=where,
    )


@pytest.mark.isolated(count=0)
def test_the_same_tests_on_redis(folder, app_under_test):
    redis = app_under_test.broker
    output = run_pytest(folder, TEST_REDIS=redis.celeryconfig["host_url"])
    assert "passed" in output and redis.client.keys("celery-task-meta-*"), (
        f"With TEST_REDIS, results should be in Redis, but none is there: {output}"
    )


@needs_docker
def test_containers(folder):
    from support import containers

    words = ["tests/test_containers.py", "-o", "faulthandler_timeout=300"]
    output = run_pytest(folder, *words, TEST_IMAGE=containers.IMAGE)
    assert "1 passed" in output, (
        f"A test should kill a worker in its container and pass, but pytest printed: {output}"
    )
