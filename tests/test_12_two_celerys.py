"""Each row of chapters/two-celerys.md, on the stack at hand: what a test finds is what the row says of this Celery.

A row's test is marked with the row's first cell. Some are in other files, where their subject is.
"""

import importlib.metadata
import json
import os
import pickle
import re
import shelve
import sys
import time
import uuid
import warnings
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal

import kombu.utils.functional
import pytest
from celery import VERSION, Celery, chord, signals
from celery.app.defaults import DEFAULTS
from celery.beat import PersistentScheduler
from celery.schedules import crontab
from click.testing import CliRunner
from kombu import Connection, Consumer, Queue, serialization
from kombu.utils import eventio
from kombu.utils.json import dumps, loads
from packaging.requirements import InvalidRequirement, Requirement
from support.assertions import describe, fetch, wait_until_ready
from support.nodes import AppUnderTest

from course.chapters import ROOT
from course.waiting import wait_until

OLD = VERSION < (5, 2)  # the pinned stack
PAGE = ROOT / "chapters" / "two-celerys.md"
DEAD = "redis://127.0.0.1:1/0"
# So that what is not there is told at once, where Celery would wait for it.
NO_PATIENCE = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2}

row = pytest.mark.row


@pytest.fixture(scope="module", autouse=True)
def only_celery(request):
    if "DIR" in os.environ or request.config.option.docker:
        pytest.skip("this is about Celery, and neither about an attempt nor about containers")


@pytest.fixture(scope="module")
def folder():
    return ROOT / "tests" / "test_12_app"


@pytest.fixture
def says(request):
    """A function that fails unless what was found is what the row says of this Celery: the first on 5.1, else the second."""
    name = request.node.get_closest_marker("row").args[0]

    def says(found, first, second):
        wanted = first if OLD else second
        assert found == wanted, (
            f"The row “{name}” of {PAGE.name} isn't true of Celery {'.'.join(map(str, VERSION[:3]))}:"
            f" it says {wanted!r}, and this was found: {found!r}."
        )

    return says


class EndlessError(Exception):
    """What a test raises in place of Celery's next attempt."""


def raised(function, whole=False):
    """Return what a function returns, or the name of what it raises, with its text or without."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001  a row says what it is
        return describe(error) if whole else type(error).__name__


def warned(function):
    """Return the names of the warnings that a function gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [each.category.__name__ for each in caught]


def own_app(**settings):
    """Return an app that no other test sees."""
    app = Celery("own", set_as_current=False)
    app.conf.update(settings)
    return app


def own_task(app, **options):
    """Give an app a task that does nothing, at once and not when it is first used."""

    def task():
        pass

    return app.task(task, lazy=False, **options)


def test_the_page_and_its_tests_have_the_same_rows():
    text = PAGE.read_text()
    cells = re.findall(r"^\| (.+?) \| .+ \| .+ \| .+ \|$", text, re.MULTILINE)
    listed = [cell for cell in cells if cell != "what"]
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/resilience/test_*.py")]
    marks = re.compile(r"""^@(?:pytest\.mark\.)?row\((['"])(.+)\1\)$""", re.MULTILINE)
    tested = [name for file in files for _, name in marks.findall(file.read_text())]
    assert len(set(listed)) == len(listed), (
        f"Each row of {PAGE.name} should have another first cell."
    )
    for missing, where in (
        (set(listed) - set(tested), "no test"),
        (set(tested) - set(listed), "no row"),
    ):
        assert not missing, (
            f"Each row of {PAGE.name} should have a test, and these have {where}: {sorted(missing)}"
        )


# Installing


@row("Python")
def test_python(says, monkeypatch):
    # What Python 3.12 returns.
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **_: importlib.metadata.EntryPoints(())
    )
    from kombu.utils.compat import entrypoints

    oldest = importlib.metadata.metadata("celery")["Requires-Python"].rstrip(",")
    says(
        (oldest, raised(lambda: list(entrypoints("kombu")), whole=True)),
        (">=3.6", "AttributeError: 'EntryPoints' object has no attribute 'get'"),
        (">=3.10", []),
    )


@row("pip 24.1 or later")
def test_pip(says):
    requirements = importlib.metadata.requires("celery")
    refused = []
    for each in requirements:
        try:
            Requirement(each)
        except InvalidRequirement:
            refused.append(each)
    says(refused, ["pytz (>dev)"], [])


@row("setuptools 82 or later")
def test_setuptools(says, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # as if it weren't installed
    spec = importlib.util.find_spec("celery.bin.celery")
    again = importlib.util.module_from_spec(spec)
    says(raised(lambda: spec.loader.exec_module(again)), "ModuleNotFoundError", None)


@row("redis, the client for Python")
def test_redis_client(says):
    from celery.backends import redis as backend

    extra = [each for each in importlib.metadata.requires("kombu") if each.startswith("redis")]
    bounds = sorted(re.findall(r"[<>]=?[\d.]+", extra[0]))
    found = bounds, hasattr(backend, "CredentialProvider")
    says(found, ([">=3.3.11"], False), (["<9.0.0", ">=6.4.0"], True))


@row("The version of the Redis server")
def test_redis_server(says, app, app_under_test):
    app_under_test.broker.client.config_resetstat()
    with app.connection_for_write() as connection:
        connection.default_channel.qos.restore_visible(num=1)
    stats = app_under_test.broker.client.info("commandstats")
    says("cmdstat_zrevrangebyscore" in stats, True, False)


@row("A failed task on Python 3.11")
def test_traceback_on_python_3_11(says, monkeypatch):
    import traceback

    from billiard import einfo

    if OLD:
        monkeypatch.delattr(einfo._Code, "co_positions")  # which tools/fix_billiard.py has added
    try:
        raise ValueError
    except ValueError:
        tb = einfo.Traceback(sys.exc_info()[2])
    found = raised(
        lambda: bool(traceback.format_exception(ValueError, ValueError(), tb)), whole=True
    )
    says(found, "AttributeError: '_Code' object has no attribute 'co_positions'", True)


# Sending


@row("`delay()` without Redis")
def test_delay_without_a_redis(says, monkeypatch):
    pauses = []

    def sleep(seconds):
        """Don't; and when it has been called for a hundredth time, say that this goes on for ever."""
        pauses.append(seconds)
        if len(pauses) == 100:
            raise EndlessError

    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    app = own_app(broker_url=DEAD)
    says(raised(lambda: app.send_task("two.add", (1, 2))), "EndlessError", "OperationalError")
    assert OLD or sum(pauses) < 1, (
        f"delay() should give up within a second, and waits {sum(pauses):.1f}."
    )
    app = own_app(broker_url=DEAD, broker_transport_options=NO_PATIENCE)
    found = raised(lambda: app.send_task("two.add", (1, 2)))
    assert found == "OperationalError", (
        f"With max_retries, delay() should give up, and this was found: {found}."
    )


@row("A user name in the Redis URL")
def test_user_in_the_url(says, app_under_test):
    redis = app_under_test.broker.client
    redis.execute_command("ACL", "SETUSER", "anna", "on", ">secret", "~*", "+@all", "&*")
    url = app_under_test.broker.celeryconfig["host_url"].replace("//", "//anna:secret@")
    app = own_app(broker_url=url, broker_transport_options=NO_PATIENCE)
    try:
        found = raised(lambda: app.connection().default_channel.client.ping(), whole=True)
        refused = "OperationalError: AUTH <password> called without any password configured for the default user"
        says(str(found).partition(".")[0], refused, "True")
    finally:
        redis.execute_command("ACL", "DELUSER", "anna")


@row("`task_compression`")
def test_task_compression(says, app_under_test):
    found = []
    for name in ("task_compression", "result_compression"):
        url = app_under_test.broker.celeryconfig["host_url"]
        app = own_app(**{"broker_url": url, "result_backend": url, name: "gzip"})
        app.send_task("two.add", (1, 2), queue="aside")
        headers = json.loads(app_under_test.broker.client.rpop("aside"))["headers"]
        found.append(headers.get("compression"))
    says(found, [None, "application/x-gzip"], ["application/x-gzip", None])


@row("`apply_async(headers={…})`")
def test_headers(says, worker, app):
    result = app.tasks["two.request"].apply_async(headers={"tenant": "anna"})
    [_, headers, tenant] = fetch(result)
    first = re.findall(r"first (.+)", worker.logs())[-1]
    found = "{'tenant': 'anna'}" in first, "'anna']" in first, headers, tenant
    says(found, (False, True, None, None), (True, True, {"tenant": "anna"}, "anna"))


@row("`@app.task(pydantic=True)`")
def test_pydantic(says, worker, app):
    says(fetch(app.tasks["two.point"].delay({"x": 1})), "dict", "Point")


@row("Two tasks with the same name")
def test_two_tasks_of_one_name(says):
    app = own_app()
    own_task(app, name="same")
    says(warned(lambda: own_task(app, name="same")), [], ["DuplicateTaskNameWarning"])


@row("`@app.task(queue=…)`")
def test_queue_of_a_task(says):
    app = own_app()
    says(warned(lambda: own_task(app, queue="other")), [], ["CDeprecationWarning"])


@row("`delay_on_commit`")
def test_delay_on_commit(says):
    says(bool(importlib.util.find_spec("celery.contrib.django")), False, True)


# Results


@row("Dates, decimals and UUIDs as arguments and results")
@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 2, 3), Decimal("1.10"), uuid.UUID(int=5)], ids=str
)
def test_types_in_json(says, value):
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    says(loads(dumps(value)), text, value)


@row("Bytes as arguments and results")
def test_bytes_in_json(says):
    def there_and_back():
        kind, encoding, text = serialization.dumps(b"\xff", "json")
        return serialization.loads(text, kind, encoding)

    wanted = "EncodeError: Object of type bytes is not JSON serializable"
    says(raised(there_and_back, whole=True), wanted, b"\xff")


@row("`result.date_done`")
def test_date_done(says, app):
    app.backend.store_result("done", 1, "SUCCESS")
    found = app.AsyncResult("done").date_done
    says(
        (found.tzinfo is None, raised(lambda: found < datetime.now(UTC))),
        (True, "TypeError"),
        (False, True),
    )


@row("FAILURE that you set by hand")
def test_failure_by_hand(says, app):
    app.backend.store_result("text", "went wrong", "FAILURE")
    app.backend.store_result("dict", {"why": "went wrong"}, "FAILURE")
    found = [raised(lambda name=name: app.AsyncResult(name).state) for name in ("text", "dict")]
    says(found, ["AttributeError", "KeyError"], ["ValueError", "ValueError"])
    app.backend.store_result("right", ValueError("went wrong"), "FAILURE")
    assert app.AsyncResult("right").state == "FAILURE", "An exception should be stored."


@row("A forged result in Redis")
def test_forged_result(says, app, app_under_test, tmp_path):
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
    error = raised(lambda: app.AsyncResult("forged").result)
    says((made.exists(), error), (True, None), (False, "SecurityError"))


# Retries and failures


@row("`dont_autoretry_for`")
def test_dont_autoretry_for(says):
    runs = []

    @own_app().task(autoretry_for=(Exception,), dont_autoretry_for=(KeyError,), max_retries=2)
    def task():
        runs.append(1)
        raise KeyError

    task.apply()
    says(len(runs), 3, 1)


@row("`retry_backoff=0.5`")
def test_backoff_of_half_a_second(says):
    reasons = []

    def listen(reason, **_):
        reasons.append(re.search(r"in (\w+)", str(reason))[1])

    @own_app().task(autoretry_for=(KeyError,), retry_backoff=0.5, retry_jitter=False, max_retries=2)
    def task():
        raise KeyError

    signals.task_retry.connect(listen)
    task.apply()
    signals.task_retry.disconnect(listen)
    says(reasons, ["180s", "180s"], ["1s", "2s"])


@row('`self.request.delivery_info["redelivered"]`')
def test_redelivered(says, worker, app):
    says(fetch(app.tasks["two.request"].delay())[0], None, False)
    # A message that comes back says so on both.
    redelivered = message("again", "two.request", retries=1, properties={"redelivered": True})
    app.backend.client.lpush("celery", redelivered)
    assert fetch(app.AsyncResult("again")) == [True, None, None], (
        "A message that came back should say so."
    )


@row("A hard time limit and `task_failure`")
def test_hard_time_limit(says, worker, app):
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        app.tasks["two.limited"].delay().get(timeout=10)
    wait_until(lambda: "task_failure two.limited" in worker.logs(), 0.5 if OLD else 5)
    says("task_failure two.limited" in worker.logs(), False, True)


@row("`Task.before_start`")
def test_before_start(says):
    app, called, prerun = own_app(), [], []

    class Told(app.Task):
        def before_start(self, *_):
            called.append(1)

    signals.task_prerun.connect(
        lambda **_: prerun.append(1), weak=False, dispatch_uid="before start"
    )
    own_task(app, base=Told).apply()
    signals.task_prerun.disconnect(dispatch_uid="before start")
    assert prerun == [1], "The signal task_prerun should be sent."
    says(called, [], [1])


@row("`task.apply()` and `self.request`")
def test_eager_request(says):
    app = own_app()

    @app.task(bind=True, name="t")
    def task(self):
        return bool(self.request.root_id), hasattr(self.request, "task")

    result = task.apply()
    says((*result.get(), result.name), (False, False, None), (True, True, "t"))


# Workflows


@row("An errback with an argument of its own")
def test_errback_with_an_argument(says, worker, app):
    link = app.tasks["two.note"].s("an argument")
    # 5.1 stores what the errback raises, in place of what the task raised.
    with pytest.raises((ValueError, TypeError)):
        app.tasks["two.fail"].apply_async(link_error=link).get(timeout=10)
    sign = "note() takes 2 positional arguments but 4 were given"
    wait_until(lambda: sign in worker.logs() or "noted an argument" in worker.logs(), 5)
    says(
        (sign in worker.logs(), "noted an argument" in worker.logs()), (True, False), (False, True)
    )


@row("`chord(…).apply_async(link_error=…)`")
def test_errback_of_a_chord(says, worker, app):
    add, xsum, note = (app.tasks[f"two.{name}"] for name in ("add", "xsum", "note"))
    whole = chord([add.s(1, 1), add.s(2, 2)], xsum.s())
    says(
        raised(lambda: whole.apply_async(link_error=note.s("chord")).get(timeout=10)),
        "TypeError",
        6,
    )


# Workers


@row("`worker_send_task_events`")
def test_task_events(says, worker):
    says(re.search(r"task events: (\w+)", worker.logs())[1], "OFF", "ON")


@row("The banner's URL")
def test_banner(says, worker):
    says("//:**@" in worker.logs(), False, True)


@row("`--disable-prefetch`")
def test_disable_prefetch(says):
    from celery.bin.worker import worker

    says(
        "--disable-prefetch" in {name for each in worker.params for name in each.opts}, False, True
    )


@row("Settings that came later")
@pytest.mark.parametrize(
    "name",
    re.findall(
        r"`(\w+)`", PAGE.read_text().partition("These settings came")[2].partition("\n\n")[0]
    ),
)
def test_settings_that_came_later(says, name):
    says(name in DEFAULTS, False, True)
    own_app(**{name: 1}).conf[name]  # nothing says that it has no effect


@row("`revoke()` of a task that waits")
def test_revoke(says, worker, app):
    result = app.tasks["two.add"].apply_async((1, 2), countdown=3)
    wait_until(lambda: f"{result.id}] received" in worker.logs(), 5)
    result.revoke()
    wait_until(lambda: result.id in worker.logs().partition("flagged as revoked")[2], 5)
    wait_until(lambda: result.state != "PENDING", 0.2)
    at_once = result.state
    wait_until(lambda: result.state == "REVOKED", 5)
    says((at_once, result.state), ("PENDING", "REVOKED"), ("REVOKED", "REVOKED"))


@row("The answer to `revoke(reply=True)`")
def test_answer_to_revoke(says, worker, app):
    [answer] = app.control.revoke("abc", reply=True, timeout=10, limit=1)
    [found] = answer.values()
    says(found, {"ok": "tasks abc flagged as revoked"}, {"ok": "tasks {'abc'} flagged as revoked"})


@row("`celery inspect -j`")
def test_inspect_json(says, worker, app):
    from celery.bin.celery import celery

    name = re.search(r"(\S+) ready\.", worker.logs())[1]
    done = CliRunner().invoke(celery, ["-A", "tasks", "inspect", "-d", name, "-j", "ping"])
    says(raised(lambda: len(json.loads(done.output))), "JSONDecodeError", 1)


@row("Ctrl-C or SIGTERM just as a message arrives")
def test_message_on_its_way_at_a_stop(says, app, app_under_test):
    """What the worker's event loop does, step by step: it asks for a message (BRPOP), one comes, and it stops."""
    connection = Connection(app_under_test.broker.celeryconfig["host_url"])
    channel, poller = connection.default_channel, connection.transport.cycle
    Consumer(
        channel, [Queue("stopping", routing_key="stopping")], callbacks=[lambda *_: None]
    ).consume()
    poller.poller = eventio.poll()
    poller.add(channel)
    poller._register_BRPOP(channel)
    redis = app_under_test.broker.client
    app.send_task("two.add", (1, 2), queue="stopping")
    wait_until(lambda: not redis.llen("stopping"), 3)
    taken = redis.llen("stopping")
    time.sleep(0.2)  # until it has arrived here
    channel.close()
    connection.close()
    held = sum("stopping" in each for each in redis.hvals("unacked"))
    found = taken, redis.llen("stopping"), held
    redis.delete("stopping")
    says(found, (0, 0, 0), (0, 1, 0))


@pytest.fixture(scope="module")
def stopped(nodes, folder):
    """Stop workers in three ways, and start one without a broker, all at once; tell each task's state, or the worker's."""
    ways = {
        "twice": ("SIGTERM", {}),
        "cold": ("SIGQUIT", {}),
        "soft": ("SIGQUIT", {"worker_soft_shutdown_timeout": 10}),
    }
    alone = ["-c", "1", "--without-mingle", "--without-gossip"]
    settings = {"broker_url": DEAD, "broker_connection_retry_on_startup": False}
    options = {"args": alone}
    lonely = AppUnderTest(
        nodes,
        folder,
        env={"TWO_SETTINGS": json.dumps(settings), "CELERY_BROKER_URL": None},
        **options,
    )
    made = {
        name: AppUnderTest(nodes, folder, args=alone, env={"TWO_SETTINGS": json.dumps(settings)})
        for name, (_, settings) in ways.items()
    }
    workers = {name: each.workers[0] for name, each in made.items()}
    try:
        for worker in workers.values():
            wait_until_ready(worker)
        results = {}
        for name, each in made.items():
            url = each.broker.celeryconfig["host_url"]
            results[name] = own_app(broker_url=url, result_backend=url).send_task("two.nap", (5,))
        for worker in workers.values():
            wait_until(lambda worker=worker: "nap of 5 s" in worker.logs())
        for name, worker in workers.items():
            worker.kill(ways[name][0])
        time.sleep(0.5)
        workers["twice"].kill("SIGTERM")

        def over(name):
            # A worker may exit half a minute after its task.
            return workers[name].status == "exited" or results[name].state == "SUCCESS"

        for name in ways:
            wait_until(lambda name=name: over(name), 20)
        [worker] = lonely.workers
        wait_until(lambda: "Trying again" in worker.logs() or worker.status == "exited")
        yield {name: result.state for name, result in results.items()} | {
            "no broker": worker.status
        }
    finally:
        for each in (*made.values(), lonely):
            each.close()


@row("A second SIGTERM")
def test_second_sigterm(says, stopped):
    says(stopped["twice"], "PENDING", "SUCCESS")


@row("The state of a task that a shutdown interrupted")
def test_state_of_what_was_cut_off(says, stopped):
    says(stopped["cold"], "PENDING", "RETRY")


@row("`worker_soft_shutdown_timeout`")
def test_soft_shutdown(says, stopped):
    says(stopped["soft"], "PENDING", "SUCCESS")


@row("`broker_connection_retry_on_startup = False`")
def test_no_broker_at_start(says, stopped):
    says(stopped["no broker"], "running", "exited")


# Beat and Flower


@row("`celery flower`")
def test_celery_flower(says):
    pytest.importorskip("flower", reason="Flower isn't installed")
    from celery.bin.celery import celery

    says(type(celery.commands["flower"]).__name__, "BrokenCommand", "CeleryCommand")


@row("`repr(crontab(…))`")
def test_repr_of_a_crontab(says):
    found = repr(crontab(minute=0, hour=4))
    says(found, "<crontab: 0 4 * * * (m/h/d/dM/MY)>", "<crontab: 0 4 * * * (m/h/dM/MY/d)>")


@row('`crontab.from_string("0 4 * * *")`')
def test_crontab_from_string(says):
    made = raised(lambda: crontab.from_string("0 4 * * *") == crontab(minute=0, hour=4))
    says(made, "AttributeError", True)


@row("`app.timezone`")
def test_timezone(says):
    zone = own_app(timezone="Europe/Berlin").timezone
    says(
        (type(zone).__module__.split(".")[0], hasattr(zone, "localize")),
        ("pytz", True),
        ("zoneinfo", False),
    )


@row("The file `celerybeat-schedule`")
def test_schedule_file(says, tmp_path, monkeypatch):
    pytz = pytest.importorskip("pytz", reason="pytz, which Celery 5.1 writes, isn't installed")
    name = str(tmp_path / "celerybeat-schedule")
    app = own_app(beat_schedule={"one": {"task": "two.add", "schedule": 60}})
    PersistentScheduler(app, schedule_filename=name).close()
    with shelve.open(name) as stored:
        entries = stored["entries"]
        zones = pickle.dumps(entries["one"].last_run_at)
        entries["one"].last_run_at = datetime.now(pytz.utc)
        stored["entries"] = entries
    monkeypatch.setitem(sys.modules, "pytz", None)  # as if it weren't installed
    reads = raised(lambda: bool(PersistentScheduler(app, schedule_filename=name).schedule))
    found = b"pytz" in zones, b"zoneinfo" in zones, reads
    # Celery 5.1 without pytz is no Celery 5.1.
    says(found, (True, False, "ModuleNotFoundError"), (False, True, "ModuleNotFoundError"))


# Both at once


def message(id, task, args=(), chain=None, properties=None, **headers):
    """Return a message as both send it."""
    body = [list(args), {}, {"callbacks": None, "errbacks": None, "chain": chain, "chord": None}]
    way = {"exchange": "", "routing_key": "celery"} | (properties or {})
    headers = {"lang": "py", "task": task, "id": id, "root_id": id, "argsrepr": "", **headers}
    return json.dumps(
        {
            "body": b64encode(json.dumps(body).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers | {"kwargsrepr": ""},
            "properties": {
                "delivery_tag": str(uuid.uuid4()),
                "delivery_info": way,
                "body_encoding": "base64",
                "correlation_id": id,
                "reply_to": "",
            },
        }
    )


def part(task, args=(), **options):
    return {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


@row("A date from a 5.7 client to a 5.1 worker")
def test_date_from_the_other(says, worker, app, app_under_test):
    date = {"__type__": "date", "__value__": "2026-01-02"}
    app_under_test.broker.client.lpush("celery", message("a-date", "two.kind", (date,)))
    says(fetch(app.AsyncResult("a-date")), "dict", "date")


@row("A chain that contains a chord, from a 5.1 client to a 5.7 worker")
def test_chain_with_a_chord_from_the_other(says, worker, app, app_under_test):
    """What 5.1 sends for add.s(1, 1) | group(add.s(1), add.s(2)) | xsum.s(), without what has no effect here."""
    body = part("two.xsum", task_id="the-sum")
    adds = [
        part("two.add", (i,), task_id=f"add-{i}", chord=body, group_index=i - 1) for i in (1, 2)
    ]
    header = part("celery.group", task_id="the-group", chord=body)
    header |= {"kwargs": {"tasks": adds}, "subtask_type": "group"}
    whole = part("celery.chord", task_id="the-group") | {"subtask_type": "chord"}
    whole["kwargs"] = {"kwargs": {"kwargs": {}}, "header": header, "body": body}
    app_under_test.broker.client.lpush(
        "celery", message("the-first", "two.add", (1, 1), chain=[whole])
    )
    sign = "got an unexpected keyword argument 'kwargs'"
    the_sum = app.AsyncResult("the-sum")
    wait_until(the_sum.ready)
    says((sign in worker.logs(), the_sum.state), (False, "SUCCESS"), (True, "FAILURE"))
