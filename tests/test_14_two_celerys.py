"""Each row of chapters/two-celerys.md: what a test finds on this stack is what the row says of it.

A row's test is marked with the row's first cell. Some rows are tested in other suites.
"""

import importlib.metadata
import importlib.util
import json
import pickle
import re
import shelve
import sys
import time
import traceback
import uuid
import warnings
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec

import kombu.utils.functional
import pytest
from billiard import einfo
from celery import VERSION, Celery, chord, signals
from celery.app import trace
from celery.beat import PersistentScheduler
from celery.bin.celery import celery as celery_command
from celery.bin.worker import worker as worker_command
from celery.schedules import crontab
from click.testing import CliRunner
from kombu import serialization
from kombu.utils.json import dumps, loads
from packaging.requirements import InvalidRequirement, Requirement
from support.assertions import WARM_STOP, ask_workers, describe, fetch, wait_until_ready
from support.celery_internals import asking_for_a_message, remove_code_positions, restore_messages
from support.names import ALONE
from support.nodes import AppUnderTest
from support.signals import connected, pauses, retries

from course.chapters import ROOT
from course.environment import PINNED
from course.waiting import wait_until

PAGE = ROOT / "chapters" / "two-celerys.md"
NOTHING_LISTENS = "redis://127.0.0.1:1/0"
FOUR_O_CLOCK = crontab(minute=0, hour=4)
# Transport options with which Celery soon gives up on a server that is not there.
NO_PATIENCE = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2}

row = pytest.mark.row
pytestmark = pytest.mark.skipif(
    "config.option.docker or os.environ.get('DIR')",
    reason="these tests are about Celery, and neither about an attempt nor containers",
)


@pytest.fixture(scope="module")
def folder():
    return ROOT / "tests" / "test_14_app"


@pytest.fixture
def assert_row(request):
    """A function that fails unless what was found is what the row says of this Celery."""
    name = "” and “".join(mark.args[0] for mark in request.node.iter_markers("row"))
    version = ".".join(map(str, VERSION[:3]))

    def assert_row(found, on_5_1, on_5_7):
        wanted = on_5_7
        if PINNED:
            wanted = on_5_1
        assert found == wanted, (
            f"The row “{name}” of {PAGE.name} should be true of Celery {version}: it says"
            f" {wanted!r}, but this was found: {found!r}."
        )

    return assert_row


class EndlessError(Exception):
    """Raised in the place of an attempt that Celery would follow by another, without end."""


class Naps(list):
    """Stands in for time.sleep: it lists the seconds, and ends what sleeps a hundred times."""

    def __call__(self, seconds):
        self.append(seconds)
        if len(self) == 100:
            raise EndlessError


def outcome_of(function, *arguments, **options):
    """Call a function; return what it returns, or the name of the exception that it raises."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: BLE001  a row names it
        return type(error).__name__


def full_outcome_of(function, *arguments, **options):
    """Call a function; return what it returns, or the exception that it raises with its text."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: BLE001  a row names it
        return describe(error)


def warnings_of(function, *arguments, **options):
    """Call a function; return the names of the warnings that it issues."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments, **options)
    return [warning.category.__name__ for warning in caught]


def own_app(**settings):
    """Return an app that no other test sees."""
    app = Celery("own", set_as_current=False)
    app.conf.update(settings)
    return app


def own_task(app, **options):
    """Register a task that does nothing, at once and not when it is first used."""

    def task():
        pass

    return app.task(task, lazy=False, **options)


def state_of(app, id):
    return app.AsyncResult(id).state


def rows_of_the_page():
    """Return the first cells of the page's rows."""
    cells = re.findall(r"^\| (.+?) \| .+ \| .+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    return [cell for cell in cells if cell != "what"]


def rows_of_the_tests():
    """Return the rows that the suites' tests are marked with."""
    mark = re.compile(r"""\b(?:in_)?row\(\s*(['"])(.+?)\1[,)]""")
    rows = set()
    for folder in "tests", "tests/resilience":
        for path in (ROOT / folder).glob("test_*.py"):
            for _, name in mark.findall(path.read_text()):
                rows.add(name)
    return rows


def test_the_page_and_its_tests_have_the_same_rows():
    listed = rows_of_the_page()
    tested = rows_of_the_tests()
    assert len(set(listed)) == len(listed), (
        f"Each row of {PAGE.name} should have another first cell, but some are repeated."
    )
    untested = set(listed) - tested
    assert not untested, f"Each row of {PAGE.name} should have a test, but not these: {untested}."
    unlisted = tested - set(listed)
    assert not unlisted, f"Each test's row should be in {PAGE.name}, but not these: {unlisted}."


# Rows that a look at Celery, or a call in this process, shows


def refused_requirements():
    """Return the requirements of Celery that pip 24.1 refuses."""
    refused = []
    for text in importlib.metadata.requires("celery"):
        try:
            Requirement(text)
        except InvalidRequirement:
            refused.append(text)
    return refused


def same_name():
    app = own_app()
    own_task(app, name="same")
    return warnings_of(own_task, app, name="same")


def queue_of_a_task():
    return warnings_of(own_task, own_app(), queue="other")


def dump_and_load_bytes():
    content_type, encoding, text = serialization.dumps(b"\xff", "json")
    return serialization.loads(text, content_type, encoding)


def has_disable_prefetch():
    return any("--disable-prefetch" in option.opts for option in worker_command.params)


def flower_command():
    pytest.importorskip("flower", reason="Flower isn't installed")
    return type(celery_command.commands["flower"]).__name__


def zone_of_an_app():
    zone = own_app(timezone="Europe/Berlin").timezone
    return type(zone).__module__.partition(".")[0], hasattr(zone, "localize")


def in_row(name, *values):
    """Return the arguments of a parametrized test for the row of this name."""
    return pytest.param(*values, marks=pytest.mark.row(name))


NO_BYTES = "EncodeError: Object of type bytes is not JSON serializable"
NO_FROM_STRING = "AttributeError: type object 'crontab' has no attribute 'from_string'"
TYPES = [datetime(2026, 1, 2, 3), Decimal("1.10"), uuid.UUID(int=5)]
TEXTS = ["2026-01-02T03:00:00", "1.10", "00000000-0000-0000-0000-000000000005"]
M_H_D_DM_MY = "<crontab: 0 4 * * * (m/h/d/dM/MY)>"
M_H_DM_MY_D = "<crontab: 0 4 * * * (m/h/dM/MY/d)>"


@pytest.mark.parametrize(
    "look, on_5_1, on_5_7",
    [
        in_row("pip 24.1 or later", refused_requirements, ["pytz (>dev)"], []),
        in_row("Two tasks with the same name", same_name, [], ["DuplicateTaskNameWarning"]),
        in_row("`@app.task(queue=…)`", queue_of_a_task, [], ["CDeprecationWarning"]),
        in_row("`delay_on_commit`", lambda: bool(find_spec("celery.contrib.django")), False, True),
        in_row(
            "Dates, decimals and UUIDs as arguments and results",
            lambda: loads(dumps(TYPES)),
            TEXTS,
            TYPES,
        ),
        in_row("Bytes as arguments and results", dump_and_load_bytes, NO_BYTES, b"\xff"),
        in_row("`--disable-prefetch`", has_disable_prefetch, False, True),
        in_row("`celery flower`", flower_command, "BrokenCommand", "CeleryCommand"),
        in_row("`repr(crontab(…))`", lambda: repr(FOUR_O_CLOCK), M_H_D_DM_MY, M_H_DM_MY_D),
        in_row(
            '`crontab.from_string("0 4 * * *")`',
            lambda: crontab.from_string("0 4 * * *") == FOUR_O_CLOCK,
            NO_FROM_STRING,
            True,
        ),
        in_row("`app.timezone`", zone_of_an_app, ("pytz", True), ("zoneinfo", False)),
    ],
)
def test_a_look_at_celery(assert_row, look, on_5_1, on_5_7):
    assert_row(full_outcome_of(look), on_5_1, on_5_7)


# Installing


@row("Python")
def test_python(assert_row, monkeypatch):
    def entry_points_of_python_3_12(**_):
        return importlib.metadata.EntryPoints(())

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points_of_python_3_12)
    from kombu.utils.compat import entrypoints

    def list_entry_points():
        return list(entrypoints("kombu"))

    oldest = importlib.metadata.metadata("celery")["Requires-Python"].rstrip(",")
    assert_row(
        (oldest, full_outcome_of(list_entry_points)),
        on_5_1=(">=3.6", "AttributeError: 'EntryPoints' object has no attribute 'get'"),
        on_5_7=(">=3.10", []),
    )


@row("setuptools 82 or later")
def test_setuptools(assert_row, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # as if it weren't installed
    spec = find_spec("celery.bin.celery")
    module = importlib.util.module_from_spec(spec)
    found = outcome_of(spec.loader.exec_module, module)
    assert_row(found, on_5_1="ModuleNotFoundError", on_5_7=None)


@row("redis, the client for Python")
def test_redis_client(assert_row):
    from celery.backends import redis as backend

    extras = [text for text in importlib.metadata.requires("kombu") if text.startswith("redis")]
    bounds = sorted(re.findall(r"[<>]=?[\d.]+", extras[0]))
    found = bounds, hasattr(backend, "CredentialProvider")
    assert_row(found, on_5_1=([">=3.3.11"], False), on_5_7=(["<9.0.0", ">=6.4.0"], True))


@row("The version of the Redis server")
def test_redis_server(assert_row, app, app_under_test):
    app_under_test.broker.client.config_resetstat()
    restore_messages(app)
    stats = app_under_test.broker.client.info("commandstats")
    assert_row("cmdstat_zrevrangebyscore" in stats, on_5_1=True, on_5_7=False)


@row("A failed task on Python 3.11")
def test_traceback_on_python_3_11(assert_row, monkeypatch):
    if PINNED:
        remove_code_positions(monkeypatch)  # which tools/fix_billiard.py has added
    try:
        raise ValueError
    except ValueError:
        tb = einfo.Traceback(sys.exc_info()[2])

    def is_formatted():
        return bool(traceback.format_exception(ValueError, ValueError(), tb))

    assert_row(
        full_outcome_of(is_formatted),
        on_5_1="AttributeError: '_Code' object has no attribute 'co_positions'",
        on_5_7=True,
    )


# Sending


@row("`delay()` without Redis, in an app without a result backend")
@row("`delay()` without Redis, in an app with one")
def test_delay_without_a_redis(assert_row, monkeypatch):
    naps = Naps()

    def outcome_of_a_call(**settings):
        naps.clear()
        app = own_app(broker_url=NOTHING_LISTENS, **settings)
        return outcome_of(app.send_task, "two.add", (1, 2)), round(sum(naps))

    monkeypatch.setattr(kombu.utils.functional, "sleep", naps)
    impatient = {
        "broker_transport_options": NO_PATIENCE,
        "result_backend_transport_options": {"retry_policy": NO_PATIENCE},
    }
    backend = {"result_backend": NOTHING_LISTENS}
    found = [
        outcome_of_a_call()[0],
        outcome_of_a_call(**impatient),
        outcome_of_a_call(**backend),
        outcome_of_a_call(**backend, **impatient),
    ]
    assert_row(
        found,
        on_5_1=[
            "EndlessError",
            ("OperationalError", 1),
            ("OperationalError", 19),
            ("OperationalError", 1),
        ],
        on_5_7=[
            "OperationalError",
            ("OperationalError", 1),
            ("RuntimeError", 19),
            ("RuntimeError", 1),
        ],
    )
    if not PINNED:
        outcome_of_a_call()
        seconds = sum(naps)
        assert seconds < 1, f"delay() should give up within 1 s, but it slept for {seconds:.1f} s."


@row("A user name in the Redis URL")
def test_user_in_the_url(assert_row, app_under_test):
    redis = app_under_test.broker.client
    redis.execute_command("ACL", "SETUSER", "anna", "on", ">secret", "~*", "+@all", "&*")
    url = app_under_test.broker.celeryconfig["host_url"].replace("//", "//anna:secret@")
    app = own_app(broker_url=url, broker_transport_options=NO_PATIENCE)

    def ping():
        return app.connection().default_channel.client.ping()

    try:
        found = str(full_outcome_of(ping))
    finally:
        redis.execute_command("ACL", "DELUSER", "anna")
    refused = (
        "OperationalError: AUTH <password> called without any password configured for the default"
        " user"
    )
    assert_row(found.partition(".")[0], on_5_1=refused, on_5_7="True")


@row("`task_compression`")
def test_task_compression(assert_row, app_under_test):
    def compression_of_a_message(setting):
        url = app_under_test.broker.celeryconfig["host_url"]
        app = own_app(**{"broker_url": url, "result_backend": url, setting: "gzip"})
        app.send_task("two.add", (1, 2), queue="aside")
        message = json.loads(app_under_test.broker.client.rpop("aside"))
        return message["headers"].get("compression")

    found = [
        compression_of_a_message("task_compression"),
        compression_of_a_message("result_compression"),
    ]
    gzip = "application/x-gzip"
    assert_row(found, on_5_1=[None, gzip], on_5_7=[gzip, None])


@row("`apply_async(headers={…})`")
def test_headers(assert_row, worker, app):
    result = app.tasks["two.request"].apply_async(headers={"tenant": "anna"})
    [_, headers, tenant] = fetch(result)
    first = re.findall(r"first (.+)", worker.logs())[-1]
    found = "{'tenant': 'anna'}" in first, "'anna']" in first, headers, tenant
    assert_row(
        found,
        on_5_1=(False, True, None, None),
        on_5_7=(True, True, {"tenant": "anna"}, "anna"),
    )


@row("`@app.task(pydantic=True)`")
def test_pydantic(assert_row, worker, app):
    found = fetch(app.tasks["two.point"].delay({"x": 1}))
    assert_row(found, on_5_1="dict", on_5_7="Point")


# Results


@row("`result.date_done`")
def test_date_done(assert_row, app):
    app.backend.store_result("done", 1, "SUCCESS")
    date_done = app.AsyncResult("done").date_done

    def is_before_now():
        return date_done < datetime.now(UTC)

    found = date_done.tzinfo is None, outcome_of(is_before_now)
    assert_row(found, on_5_1=(True, "TypeError"), on_5_7=(False, True))


@row("FAILURE that you set by hand")
def test_failure_by_hand(assert_row, app):
    app.backend.store_result("text", "went wrong", "FAILURE")
    app.backend.store_result("dict", {"why": "went wrong"}, "FAILURE")
    app.backend.store_result("right", ValueError("went wrong"), "FAILURE")
    found = [outcome_of(state_of, app, "text"), outcome_of(state_of, app, "dict")]
    assert_row(found, on_5_1=["AttributeError", "KeyError"], on_5_7=["ValueError", "ValueError"])
    state = state_of(app, "right")
    assert state == "FAILURE", f"With an exception the state should be FAILURE, but it is {state}."


@row("A forged result in Redis")
def test_forged_result(assert_row, app, app_under_test, tmp_path):
    made = tmp_path / "made"
    result = {"exc_module": "os", "exc_type": "mkdir", "exc_message": [str(made)]}
    meta = {
        "status": "FAILURE",
        "result": result,
        "traceback": None,
        "children": [],
        "task_id": "forged",
    }
    app_under_test.backend.client.set("celery-task-meta-forged", json.dumps(meta))

    def read_result():
        return app.AsyncResult("forged").result

    outcome = outcome_of(read_result)
    assert_row((made.exists(), outcome), on_5_1=(True, None), on_5_7=(False, "SecurityError"))


# Retries and failures


@row("`retry_backoff=0.5`")
def test_backoff_of_half_a_second(assert_row):
    @own_app().task(autoretry_for=(KeyError,), retry_backoff=0.5, retry_jitter=False, max_retries=2)
    def task():
        raise KeyError

    with retries() as reasons:
        task.apply()
    assert_row(pauses(" ".join(reasons)), on_5_1=["180s", "180s"], on_5_7=["1s", "2s"])


@row('`self.request.delivery_info["redelivered"]`')
@pytest.mark.isolated(slow_tasks=True, env={"SLOW_TASKS_LOOK": "0.2"})
def test_redelivered(assert_row, celery_setup, app):
    """A message comes back because the process that ran its task was killed."""
    at_first = fetch(app.tasks["two.request"].delay())[0]
    came_back = fetch(app.tasks["two.killed_once"].delay())
    found = at_first, *came_back
    assert_row(found, on_5_1=(None, None, True), on_5_7=(False, True, True))


DEDUPLICATE = {
    "task_acks_late": True,
    "worker_deduplicate_successful_tasks": True,
    "broker_transport_options": {"visibility_timeout": 1},
}


@row("`worker_deduplicate_successful_tasks`")
@pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE], settings=DEDUPLICATE)
def test_deduplication(assert_row, worker, app, redis):
    """A message comes back while its task runs longer than the visibility timeout."""
    result = app.tasks["slow.held"].delay()
    wait_until(lambda: redis.get("begun"))
    time.sleep(1.2)
    restore_messages(app)
    redis.set("released", 1)
    fetch(result)
    wait_until(lambda: redis.get("begun") == "2" or "already completed" in worker.logs())
    assert_row(int(redis.get("begun")), on_5_1=2, on_5_7=1)


@row("A hard time limit and `task_failure`")
def test_hard_time_limit(assert_row, worker, app):
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        app.tasks["two.limited"].delay().get(timeout=30)
    line = "task_failure two.limited"
    seconds = 30
    if PINNED:
        seconds = 0.5
    wait_until(lambda: line in worker.logs(), seconds)
    assert_row(line in worker.logs(), on_5_1=False, on_5_7=True)


@row("`Task.before_start`")
def test_before_start(assert_row):
    app = own_app()
    called = []
    prerun = []

    class TaskWithBeforeStart(app.Task):
        def before_start(self, *_):
            called.append(1)

    def note(**_):
        prerun.append(1)

    with connected(signals.task_prerun, note):
        own_task(app, base=TaskWithBeforeStart).apply()
    assert prerun == [1], f"task_prerun should be sent once, but it was sent {len(prerun)} times."
    assert_row(called, on_5_1=[], on_5_7=[1])


@row("`task.apply()` and `self.request`")
def test_eager_request(assert_row):
    app = own_app()

    @app.task(bind=True, name="t")
    def task(self):
        return bool(self.request.root_id), hasattr(self.request, "task")

    result = task.apply()
    found = (*result.get(), result.name)
    assert_row(found, on_5_1=(False, False, None), on_5_7=(True, True, "t"))


# Workflows


@row("An errback with an argument of its own")
def test_errback_with_an_argument(assert_row, worker, app):
    link = app.tasks["two.note"].s("an argument")
    # 5.1 stores the exception of the errback, in place of the task's.
    with pytest.raises((ValueError, TypeError)):
        app.tasks["two.fail"].apply_async(link_error=link).get(timeout=30)
    error = "note() takes 2 positional arguments but 4 were given"
    success = "noted an argument"
    wait_until(lambda: error in worker.logs() or success in worker.logs())
    found = error in worker.logs(), success in worker.logs()
    assert_row(found, on_5_1=(True, False), on_5_7=(False, True))


@row("`chord(…).apply_async(link_error=…)`")
def test_errback_of_a_chord(assert_row, worker, app):
    add = app.tasks["two.add"]
    sums = chord([add.s(1, 1), add.s(2, 2)], app.tasks["two.xsum"].s())
    errback = app.tasks["two.note"].s("chord")

    def call_and_get():
        return sums.apply_async(link_error=errback).get(timeout=30)

    assert_row(outcome_of(call_and_get), on_5_1="TypeError", on_5_7=6)


# Workers


@row("`worker_send_task_events`")
@row("The banner's URL")
def test_banner(assert_row, worker):
    logs = worker.logs()
    found = re.search(r"task events: (\w+)", logs)[1], "//:**@" in logs
    assert_row(found, on_5_1=("OFF", False), on_5_7=("ON", True))


@row("A worker with prefork on Windows")
def test_a_process_that_is_not_forked(assert_row):
    """Without fork, a process of the pool lacks what the worker has prepared, as this one does."""
    found = full_outcome_of(trace.fast_trace_task, "two.add", "id", {}, "", "", "")
    assert_row(
        found.partition(" (`_loc`")[0],
        on_5_1="ValueError: not enough values to unpack (expected 3, got 0)",
        on_5_7="RuntimeError: fast_trace_task: worker task registry is empty",
    )


@row("`result_backend_always_retry`")
def test_always_retry(assert_row, monkeypatch):
    app = own_app(result_backend=NOTHING_LISTENS, result_backend_always_retry=True)
    monkeypatch.setattr(app.backend, "_sleep", Naps())
    assert_row(outcome_of(state_of, app, "id"), on_5_1="ConnectionError", on_5_7="EndlessError")


@row("`revoke()` of a task that waits")
def test_revoke(assert_row, worker, app):
    result = app.tasks["two.add"].apply_async((1, 2), countdown=5)
    wait_until(lambda: f"{result.id}] received" in worker.logs())
    result.revoke()
    wait_until(lambda: result.id in worker.logs().partition("flagged as revoked")[2])
    seconds = 30
    if PINNED:
        seconds = 0.2
    wait_until(lambda: result.state != "PENDING", seconds)
    at_once = result.state
    wait_until(lambda: result.state == "REVOKED")
    found = at_once, result.state
    assert_row(found, on_5_1=("PENDING", "REVOKED"), on_5_7=("REVOKED", "REVOKED"))


@row("The answer to `revoke(reply=True)`")
def test_answer_to_revoke(assert_row, worker, app):
    ask_workers(app, "ping")
    [replies] = app.control.revoke("abc", reply=True, timeout=30, limit=1)
    [found] = replies.values()
    assert_row(
        found,
        on_5_1={"ok": "tasks abc flagged as revoked"},
        on_5_7={"ok": "tasks {'abc'} flagged as revoked"},
    )


@row("`celery inspect -j`")
def test_inspect_json(assert_row, worker, app):
    name = re.search(r"(\S+) ready\.", worker.logs())[1]
    command = ["-A", "tasks", "inspect", "-d", name, "-j", "ping"]

    def ask():
        done = CliRunner().invoke(celery_command, command)
        return done.exit_code == 0 and done.output

    output = wait_until(ask)

    def count_replies():
        return len(json.loads(output))

    assert_row(outcome_of(count_replies), on_5_1="JSONDecodeError", on_5_7=1)


@row("Ctrl-C or SIGTERM just as a message arrives")
def test_message_on_its_way_at_a_stop(assert_row, app, app_under_test):
    """As a worker's event loop does, ask for a message with BRPOP, let one arrive, and stop."""
    redis = app_under_test.broker.client
    with asking_for_a_message(app_under_test.broker.celeryconfig["host_url"], "stopping"):
        app.send_task("two.add", (1, 2), queue="stopping")
        wait_until(lambda: not redis.llen("stopping"))
        left_before = redis.llen("stopping")
        time.sleep(0.2)  # until the message has arrived here
    held = 0
    for text in redis.hvals("unacked"):
        if "stopping" in text:
            held += 1
    found = left_before, redis.llen("stopping"), held
    redis.delete("stopping")
    assert_row(found, on_5_1=(0, 0, 0), on_5_7=(0, 1, 0))


ONE_PROCESS = ["-c", "1", *ALONE]


class StoppedWorker:
    """A worker with one process that is stopped while a task runs on it."""

    def __init__(self, nodes, folder, first_signal, **settings):
        self.first_signal = first_signal
        env = {"TWO_SETTINGS": json.dumps(settings)}
        self.app_under_test = AppUnderTest(nodes, folder, args=ONE_PROCESS, env=env)
        [self.worker] = self.app_under_test.workers
        self.result = None

    def send_task(self):
        wait_until_ready(self.worker)
        url = self.app_under_test.broker.celeryconfig["host_url"]
        self.result = own_app(broker_url=url, result_backend=url).send_task("two.held")

    def wait_for_task(self):
        wait_until(lambda: "the task runs" in self.worker.logs())

    def stop(self):
        self.worker.kill(self.first_signal)
        wait_until(lambda: "shutdown" in self.worker.logs().lower())

    def release(self):
        """Let the task end."""
        self.app_under_test.broker.client.set("released", 1)

    def is_over(self):
        """Return whether the task's state is final: a worker may exit half a minute after it."""
        return self.worker.status == "exited" or self.result.state == "SUCCESS"


def start_without_broker(nodes, folder):
    """Start a worker that may not retry the connection to its broker, which isn't there."""
    settings = {"broker_url": NOTHING_LISTENS, "broker_connection_retry_on_startup": False}
    env = {"TWO_SETTINGS": json.dumps(settings), "CELERY_BROKER_URL": None}
    return AppUnderTest(nodes, folder, args=ONE_PROCESS, env=env)


@pytest.fixture(scope="module")
def stopped(nodes, folder):
    """The state of each task whose worker was stopped, and the status of one without a broker.

    The workers mostly wait, so they run at the same time.
    """
    lonely = start_without_broker(nodes, folder)
    stopped = {
        "twice": StoppedWorker(nodes, folder, "SIGTERM"),
        "cold": StoppedWorker(nodes, folder, "SIGQUIT"),
        "soft": StoppedWorker(nodes, folder, "SIGQUIT", worker_soft_shutdown_timeout=10),
    }
    try:
        for one in stopped.values():
            one.send_task()
        for one in stopped.values():
            one.wait_for_task()
        for one in stopped.values():
            one.stop()
        time.sleep(0.5)
        stopped["twice"].worker.kill("SIGTERM")
        if not PINNED:
            stopped["twice"].release()
            stopped["soft"].release()
        for one in stopped.values():
            wait_until(one.is_over, WARM_STOP)
        [worker] = lonely.workers
        wait_until(lambda: "Trying again" in worker.logs() or worker.status == "exited")
        states = {name: one.result.state for name, one in stopped.items()}
        yield states | {"no broker": worker.status}
    finally:
        lonely.close()
        for one in stopped.values():
            one.app_under_test.close()


@pytest.mark.parametrize(
    "stop, on_5_1, on_5_7",
    [
        in_row("A second SIGTERM", "twice", "PENDING", "SUCCESS"),
        in_row("The state of a task that a shutdown interrupted", "cold", "PENDING", "RETRY"),
        in_row("`worker_soft_shutdown_timeout`", "soft", "PENDING", "SUCCESS"),
        in_row("`broker_connection_retry_on_startup = False`", "no broker", "running", "exited"),
    ],
)
def test_a_worker_that_stops(assert_row, stopped, stop, on_5_1, on_5_7):
    assert_row(stopped[stop], on_5_1, on_5_7)


# Beat


@row("The file `celerybeat-schedule`")
def test_schedule_file(assert_row, tmp_path, monkeypatch):
    pytz = pytest.importorskip("pytz", reason="pytz, which Celery 5.1 writes, isn't installed")
    name = str(tmp_path / "celerybeat-schedule")
    app = own_app(beat_schedule={"one": {"task": "two.add", "schedule": 60}})
    PersistentScheduler(app, schedule_filename=name).close()
    with shelve.open(name) as stored:
        entries = stored["entries"]
        written = pickle.dumps(entries["one"].last_run_at)
        entries["one"].last_run_at = datetime.now(pytz.utc)
        stored["entries"] = entries
    monkeypatch.setitem(sys.modules, "pytz", None)  # as if it weren't installed

    def has_a_schedule():
        return bool(PersistentScheduler(app, schedule_filename=name).schedule)

    # Celery 5.1 itself needs pytz.
    reads = outcome_of(has_a_schedule)
    assert_row(
        (b"pytz" in written, b"zoneinfo" in written, reads),
        on_5_1=(True, False, "ModuleNotFoundError"),
        on_5_7=(False, True, "ModuleNotFoundError"),
    )


# Both at once


def message(id, task, args=(), chain=None):
    """Return a message as both versions send it."""
    embed = {"callbacks": None, "errbacks": None, "chain": chain, "chord": None}
    body = json.dumps([list(args), {}, embed]).encode()
    headers = {"lang": "py", "task": task, "id": id, "root_id": id}
    headers |= {"argsrepr": "", "kwargsrepr": ""}
    properties = {
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "body_encoding": "base64",
        "correlation_id": id,
        "reply_to": "",
    }
    return json.dumps(
        {
            "body": b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": properties,
        }
    )


def signature(task, args=(), **options):
    """Return a signature as both versions send it in a message."""
    return {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


@row("A date from a 5.7 client to a 5.1 worker")
def test_date_from_the_other(assert_row, worker, app, app_under_test):
    date = {"__type__": "date", "__value__": "2026-01-02"}
    app_under_test.broker.client.lpush("celery", message("a-date", "two.kind", (date,)))
    assert_row(fetch(app.AsyncResult("a-date")), on_5_1="dict", on_5_7="date")


def chord_as_5_1_sends_it():
    """Return group(add.s(1), add.s(2)) | xsum.s(), without what has no effect here."""
    body = signature("two.xsum", task_id="the-sum")
    header = signature("celery.group", task_id="the-group", chord=body)
    header["subtask_type"] = "group"
    header["kwargs"] = {
        "tasks": [
            signature("two.add", (1,), task_id="add-1", chord=body, group_index=0),
            signature("two.add", (2,), task_id="add-2", chord=body, group_index=1),
        ]
    }
    whole = signature("celery.chord", task_id="the-group")
    whole["subtask_type"] = "chord"
    whole["kwargs"] = {"kwargs": {"kwargs": {}}, "header": header, "body": body}
    return whole


@row("A chain that contains a chord, from a 5.1 client to a 5.7 worker")
def test_chain_with_a_chord_from_the_other(assert_row, worker, app, app_under_test):
    """It is add.s(1, 1) | group(add.s(1), add.s(2)) | xsum.s()."""
    chain = message("the-first", "two.add", (1, 1), chain=[chord_as_5_1_sends_it()])
    app_under_test.broker.client.lpush("celery", chain)
    the_sum = app.AsyncResult("the-sum")
    wait_until(the_sum.ready)
    error = "got an unexpected keyword argument 'kwargs'"
    found = error in worker.logs(), the_sum.state
    assert_row(found, on_5_1=(False, "SUCCESS"), on_5_7=(True, "FAILURE"))
