"""Chapter 9: states of your own, events, questions to workers, revoked tasks, and Flower."""

import importlib
import json
import re
import subprocess
import time
from contextlib import closing, contextmanager
from itertools import zip_longest

import celery
import pytest
from celery import chord
from celery.exceptions import TaskRevokedError
from conftest import ALONE
from support.assertions import (
    assert_exported,
    assert_listed,
    assert_raises,
    assert_result,
    assert_returns,
    assert_setting,
    assert_setting_includes,
    assert_task_returns,
    find_task,
    wait_until_ready,
)

from course.environment import PROGRAMS
from course.waiting import wait_until

NAME = "tasks.math.xsum_request"
OTHERS = [
    *(f"tasks.math.{name}_request" for name in ["add", "sub", "mul", "divide"]),
    *(f"tasks.ledger.{name}_request" for name in ["enter", "interest"]),
]
OLD = celery.VERSION < (5, 2)
processes = pytest.mark.skipif(
    "config.option.docker", reason="it starts a program beside the worker"
)


@pytest.fixture
def xsum(app):
    """The chapter's function."""
    return importlib.import_module("libs.math").xsum


@contextmanager
def stored(app):
    """Give a function that returns what was stored as results in the block: (state, what goes with it), in order."""
    with closing(app.backend.client.pubsub()) as channel:
        channel.psubscribe("celery-task-meta-*")
        channel.get_message(timeout=5)

        def found():
            messages = []
            while message := channel.get_message(timeout=0.1):
                if message["type"] == "pmessage":
                    meta = json.loads(message["data"])
                    messages.append((meta["status"], meta["result"]))
            return messages

        yield found


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "`libs.math.xsum([3, 4, 5], report)` returns 12, and calls `report(1, 3)`, `report(2, 3)` and `report(3, 3)`",
    "a-custom-state",
)
def test_xsum_reports(xsum):
    """Give xsum a second parameter, report=None, add in a loop, and call report(done, len(numbers)) after each number."""
    calls = []
    assert_returns(
        "xsum([3, 4, 5], report)", lambda: xsum([3, 4, 5], lambda *args: calls.append(args)), 12
    )
    assert calls == [(1, 3), (2, 3), (3, 3)], (
        f"xsum([3, 4, 5], report) should call report(1, 3), report(2, 3) and report(3, 3), it called it with {calls}."
    )


@pytest.mark.step(
    "`xsum` works without a report, and `libs/math.py` without Celery", "a-custom-state"
)
def test_xsum_knows_nothing_of_celery(xsum, folder):
    """Call report only if there is one. What calls update_state belongs into tasks/math.py."""
    assert_returns("xsum([3, 4, 5])", lambda: xsum([3, 4, 5]), 12)
    assert_returns("xsum([])", lambda: xsum([]), 0)
    text = (folder / "libs/math.py").read_text()
    found = re.search(
        r"^\s*(?:from|import) (?:celery|tasks).*|.*update_state.*", text, re.MULTILINE
    )
    assert not found, (
        f"libs/math.py should know nothing of Celery, and has the line {found[0].strip()!r}."
    )


@pytest.mark.step(
    '`xsum_request.delay([3, 4, 5])` is PROGRESS with `{"done": 1, "of": 3}`, and so on up to 3, and then gives 12',
    "a-custom-state",
)
def test_progress(celery_setup, app):
    """With bind=True the task has self, and a function in it can call self.update_state(state="PROGRESS", meta={…})."""
    with stored(app) as found:
        assert_task_returns(app, NAME, ([3, 4, 5],), 12)
        seen = found()
    wanted = [*(("PROGRESS", {"done": done, "of": 3}) for done in (1, 2, 3)), ("SUCCESS", 12)]
    for want, have in zip_longest(wanted, seen):
        assert have == want, (
            f"xsum_request.delay([3, 4, 5]) should be {want or 'nothing more'} here, it was {have or 'nothing more'}."
        )


@pytest.mark.step(
    "called as a function, `xsum_request([3, 4, 5])` returns 12 and stores nothing",
    "a-custom-state",
)
def test_a_function_has_no_state(celery_setup, app, monkeypatch):
    """A task that is called as a function has no id. self.request.called_directly is True there."""
    call, updated = find_task(app, NAME), []
    update = call.update_state
    monkeypatch.setattr(
        call, "update_state", lambda *args, **how: updated.append(how) or update(*args, **how)
    )
    with stored(app) as found:
        try:
            assert_returns("xsum_request([3, 4, 5])", lambda: call([3, 4, 5]), 12)
        except AssertionError as error:
            where = " (it called update_state)" if updated else ""
            raise AssertionError(f"{error}{where}") from None
        seen = found()
    assert not seen, f"xsum_request([3, 4, 5]) should store no state, it stored {seen}."


@pytest.mark.step("a chord of ten additions into `xsum_request` still gives 90", "a-custom-state")
def test_chord(celery_setup, app):
    """update_state stores a state beside the call, and what the task returns is its result as before."""
    add = find_task(app, "tasks.math.add_request")
    assert_result(
        "A chord of ten additions",
        chord((add.s(i, i) for i in range(10)), find_task(app, NAME).s())(),
        90,
    )


def statuses(app_under_test, *words):
    """Run `celery -A tasks` with these words; return its exit status and what it said."""
    command = [PROGRAMS / "celery", "-A", "tasks", *words]
    at = {"cwd": app_under_test.folder, "env": app_under_test.env}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **at)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def watch(app_under_test, app):
    """Start watch.py, and return its node once it prints events."""
    assert (app_under_test.folder / "watch.py").exists(), (
        "There should be a file watch.py, beside tasks."
    )
    app.control.enable_events(reply=True, timeout=5, limit=1)  # as -E does from the start
    node = app_under_test.start("python", "-u", "watch.py")
    for _ in range(12):  # an event that is sent before it listens is gone
        find_task(app, "tasks.math.add_request").delay(1, 1)
        if wait_until(lambda: "task-" in node.logs() or node.status == "exited", 0.5):
            break
    said = (node.logs().strip() or "nothing").splitlines()[-1]
    assert node.status == "running", (
        f"watch.py should go on until Ctrl-C, it ended and said: {said}"
    )
    assert "task-" in node.logs(), f"watch.py should print the events of a task, it printed {said}."
    return node


def events_of(node, result, last):
    """Return a watcher's lines about a task, once there is one about this type of event."""

    def lines():
        return [line for line in node.logs().splitlines() if result.id in line]

    wait_until(lambda: any(last in line for line in lines()), 2)
    return lines()


@pytest.mark.step(
    "until Ctrl-C, `watch.py` prints each task event: its type, the task's name and id, and at the"
    " end the result, or the exception's type",
    "watch-it-live",
)
@processes
def test_watch(celery_setup, app, app_under_test):
    """A Receiver with the handler {"*": show} gets all events. Only the first has the task's name: app.events.State() keeps it."""
    node = watch(app_under_test, app)
    result, failing = (
        find_task(app, NAME).delay([3, 4, 5]),
        find_task(app, "tasks.math.divide_request").delay(1, 0),
    )
    assert_result("xsum_request.delay([3, 4, 5])", result, 12)
    lines = events_of(node, result, "task-succeeded")
    for kind, *more in (["task-received"], ["task-started"], ["task-succeeded", "12"]):
        # Without the id, which may have a 12 in it.
        found = [line.replace(result.id, "") for line in lines if kind in line]
        printed = (found or ["nothing"])[0]
        missing = [word for word in (NAME, *more) if word not in printed]
        assert not missing, (
            f"watch.py should print a line with {', '.join([kind, NAME, *more])} and the task's id,"
            f" but it printed: {printed}"
        )
    lines = events_of(node, failing, "task-failed")
    assert lines and "ZeroDivisionError" in lines[-1], (
        f"watch.py should print what a task that failed has raised, it printed {lines}."
    )
    node.kill("SIGINT")
    assert wait_until(lambda: node.status == "exited", 15), (
        "watch.py should end at Ctrl-C, and didn't."
    )
    assert "Traceback" not in node.logs(), (
        f"watch.py should end without a traceback at Ctrl-C, it ended with {node.logs().splitlines()[-1]}."
    )


@pytest.mark.step("the tasks and the settings of chapter 8 are still there", "a-custom-state")
def test_what_chapter_8_had(worker, app):
    """Nothing else changes in this chapter."""
    assert_listed(worker, [NAME, *OTHERS])
    assert_exported(app, NAME)
    for name in ("task_acks_late", "task_reject_on_worker_lost"):
        assert_setting(app, name, True)
    assert_setting_includes(app, "task_queues", {"celery": {}, "ledger": {}})
    scheduled = [entry["task"] for entry in (app.conf.beat_schedule or {}).values()]
    assert "tasks.ledger.interest_request" in scheduled, (
        "The schedule should still have an entry for tasks.ledger.interest_request, but it has"
        f" {', '.join(scheduled) or 'none'}."
    )


# What follows is about Celery itself.


def test_update_state_needs_an_id(app):
    kind = TypeError if OLD else ValueError
    with assert_raises(kind, f"update_state outside of a task should raise {kind.__name__}"):
        find_task(app, NAME).update_state(state="PROGRESS", meta={})


def test_a_report_is_not_an_answer(celery_setup, app):
    """A result that is ignored leaves the last state; so does apply(), which has an id and stores no result."""
    ignored = find_task(app, NAME).apply_async(([3, 4],), ignore_result=True)
    assert_task_returns(app, "tasks.math.add_request", (1, 1), 2)
    last = {"done": 2, "of": 2}
    wait_until(lambda: ignored.info == last, 5)
    here = app.AsyncResult(find_task(app, NAME).apply(([3, 4],)).id)
    time.sleep(0.3)
    for result in (ignored, here):
        found = result.state, result.info, result.ready()
        assert found == ("PROGRESS", last, False), f"The state should stay PROGRESS, it is {found}."


def test_failure_by_hand(celery_setup, app):
    find_task(app, NAME).update_state("by-hand", state="FAILURE", meta={"done": 1})
    kind = KeyError if OLD else ValueError
    with assert_raises(
        kind, f"A FAILURE without an exception should make .state raise {kind.__name__}"
    ):
        _ = app.AsyncResult("by-hand").state
    app.backend.client.delete("celery-task-meta-by-hand")


@pytest.mark.isolated(count=0)
@processes
def test_the_setting_for_events(app, app_under_test):
    path = app_under_test.folder / "celeryconfig.py"
    before = path.read_text()
    path.write_text(f"{before}\nworker_send_task_events = True\n")
    try:
        worker = wait_until_ready(app_under_test.add_worker(ALONE))
    finally:
        path.write_text(before)
    wanted = "OFF" if OLD else "ON"
    found = re.search(r"task events: (\w+)", worker.logs())[1]
    assert found == wanted, (
        f"With worker_send_task_events, task events should be {wanted}, they are {found}."
    )


@pytest.mark.isolated(slow_tasks=True, args=["-E", "-c", "1", *ALONE])
@processes
def test_an_event_without_a_watcher_is_gone(celery_setup, app, app_under_test):
    nap = running(app, 60)
    node = app_under_test.start("python", "-u", "watch.py")
    wait_until(lambda: "worker-heartbeat" in node.logs(), 20)
    nap.revoke(terminate=True)
    lines = [line.split()[:2] for line in events_of(node, nap, "task-revoked")]
    assert lines == [["task-revoked", "None"]], (
        f"A late watcher should see the end alone, it saw {lines}."
    )


SLOWLY = pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE])


def running(app, seconds):
    """Return the result of a nap that has begun."""
    result = app.tasks["slow.nap"].delay(seconds, "done")
    inspect = app.control.inspect(timeout=10, limit=1)
    wait_until(
        lambda: result.id in [each["id"] for tasks in inspect.active().values() for each in tasks],
        5,
    )
    return result


@SLOWLY
def test_revoke(celery_setup, app, redis):
    """Of a running task, nothing; of one that waits, its turn; with terminate, the process."""
    app.control.time_limit(
        "slow.nap", hard=1, reply=True, timeout=10, limit=1
    )  # answers ok, and changes nothing
    first, second = running(app, 2), app.tasks["slow.nap"].delay(0)
    wait_until(lambda: redis.hlen("unacked") == 2, 5)
    first.revoke()
    second.revoke()
    wait_until(lambda: celery_setup.worker.logs().count("flagged as revoked") == 2, 5)
    time.sleep(0.2)
    state = second.state
    assert_result("A running task that is revoked", first, "done")
    wanted = "PENDING" if OLD else "REVOKED"
    assert state == wanted, (
        f"A waiting task that was revoked should be {wanted} at once, it is {state}."
    )
    with assert_raises(
        TaskRevokedError, "A task that was revoked while it waited should raise TaskRevokedError"
    ):
        second.get(timeout=5)
    third = running(app, 60)
    third.revoke(terminate=True)
    with assert_raises(
        TaskRevokedError, "A running task that is terminated should raise TaskRevokedError"
    ):
        third.get(timeout=5)
    # Late acknowledgement and reject_on_worker_lost don't bring it back, and another process takes its place.
    assert_result("A task after that", app.tasks["slow.nap"].delay(0, "next"), "next")
    wait_until(lambda: redis.hlen("unacked") == 0, 3)
    left = redis.hlen("unacked"), redis.llen("celery")
    assert left == (0, 0), (
        f"A task that was terminated should not come back, these are left: {left}."
    )


@pytest.mark.isolated(count=0)
@processes
def test_revoked_after_a_restart(app, app_under_test):
    """A worker that keeps revoked ids in memory runs the task; one with a state file drops it."""
    options = {"celery": [], "ledger": ["--statedb=worker.state"]}
    workers = [
        app_under_test.add_worker([*ALONE, "-Q", queue, "-n", f"{queue}@%h", *args])
        for queue, args in options.items()
    ]
    for worker in workers:
        wait_until_ready(worker)
    call = find_task(app, NAME)
    sent = [call.apply_async(([3, 4, 5],), countdown=8, queue=queue).id for queue in options]
    inspect = app.control.inspect(timeout=5, limit=2)
    wait_until(lambda: all((inspect.scheduled() or {"": []}).values()), 5)
    for id in sent:
        app.control.revoke(id)
    wait_until(lambda: all(worker.logs().count("flagged as revoked") == 2 for worker in workers), 4)

    def states():
        return [app.AsyncResult(id).state for id in sent]

    early, wanted = ["PENDING" if OLD else "REVOKED"] * 2, ["SUCCESS", "REVOKED"]
    assert states() == early, (
        f"Before their time the states should be {early}, they are {states()}."
    )
    for worker in workers:
        worker.kill("SIGTERM")
    for worker in workers:
        wait_until(lambda worker=worker: worker.status == "exited", 20)
        worker.restart()
    wait_until(
        lambda: "succeeded in" in workers[0].logs() and "Discarding revoked" in workers[1].logs(),
        20,
    )
    wait_until(lambda: states() == wanted, 2)
    assert states() == wanted, (
        f"After a restart the states should be {wanted}, they are {states()}."
    )


@pytest.mark.isolated(args=["--pool=solo", *ALONE], slow_tasks=True)
def test_ping(celery_setup, app, app_under_test):
    """The exit status is a health check. A solo worker can't answer while it works."""
    ping = [
        "inspect",
        "ping",
        "--timeout",
        "5",
        "-d",
        next(iter(app.control.inspect(timeout=9, limit=1).ping())),
    ]
    status, said = statuses(app_under_test, *ping)
    assert (status, "pong" in said) == (0, True), (
        f"inspect ping should end with 0, it ended with {status}: {said}"
    )
    app.tasks["slow.nap"].delay(20)
    wait_until(lambda: "nap of" in celery_setup.worker.logs(), 5)
    ping[3] = "1"
    status, said = statuses(app_under_test, *ping)
    assert status == 69 and "No nodes replied" in said, (
        f"While a solo worker works, inspect ping should end with 69, it ended with {status}: {said}"
    )


@pytest.mark.isolated(count=0)
def test_ping_without_a_worker(app, app_under_test):
    status, said = statuses(app_under_test, "inspect", "ping")
    assert status == 69 and "No nodes replied" in said, (
        f"It should end with 69, it ended with {status}: {said}"
    )


@pytest.mark.isolated(args=["-c", "1", *ALONE], slow_tasks=True)
def test_a_busy_worker_answers(celery_setup, app):
    running(app, 20)
    found = app.control.inspect(timeout=5, limit=1).ping()
    assert found, "A worker whose processes are all busy should answer a ping."
