"""Chapter 11: custom states, events, inspecting workers, and revoked tasks."""

import importlib
import json
import re
import time
from contextlib import closing, contextmanager
from itertools import zip_longest

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError
from support.assertions import (
    assert_exported,
    assert_listed,
    assert_raises,
    assert_result,
    assert_returns,
    assert_task_returns,
    find_task,
    wait_until_ready,
)
from support.carried import assert_carried_settings, carried_tasks
from support.commands import run_celery
from support.names import ADD, ALONE, XSUM

from course.environment import PINNED
from course.waiting import wait_until

DIVIDE = "tasks.math.divide_request"
processes_only = pytest.mark.skipif(
    "config.option.docker", reason="starts a program beside the worker: make test"
)


@pytest.fixture
def xsum(app):
    """The chapter's function."""
    return importlib.import_module("libs.math").xsum


class StoredResults:
    """What the app's tasks store in its result backend from now on."""

    def __init__(self, channel):
        self.channel = channel

    def read(self):
        """Return the results that were stored since the last call, as (state, result)."""
        results = []
        message = self.channel.get_message(timeout=0.1)
        while message:
            if message["type"] == "pmessage":
                meta = json.loads(message["data"])
                results.append((meta["status"], meta["result"]))
            message = self.channel.get_message(timeout=0.1)
        return results


@contextmanager
def stored_results(app):
    """Yield a StoredResults that records what is stored in the block."""
    with closing(app.backend.client.pubsub()) as channel:
        channel.psubscribe("celery-task-meta-*")
        channel.get_message(timeout=5)
        yield StoredResults(channel)


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "`libs.math.xsum([3, 4, 5], report)` returns 12, and calls `report(1, 3)`, `report(2, 3)`"
    " and `report(3, 3)`",
    "a-custom-state",
)
def test_xsum_reports(xsum):
    """Give xsum a second parameter, report=None, add in a loop, and call
    report(done, len(numbers)) after each number."""
    calls = []

    def report(*arguments):
        calls.append(arguments)

    assert_returns("xsum([3, 4, 5], report)", lambda: xsum([3, 4, 5], report), 12)
    assert calls == [(1, 3), (2, 3), (3, 3)], (
        "xsum([3, 4, 5], report) should call report(1, 3), report(2, 3) and report(3, 3),"
        f" but it called it with {calls}."
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
    if found:
        line = found[0].strip()
        raise AssertionError(
            f"libs/math.py should not use Celery or the tasks, but it has the line {line!r}."
        )


@pytest.mark.step(
    '`xsum_request.delay([3, 4, 5])` is PROGRESS with `{"done": 1, "of": 3}`, and so on up to 3,'
    " and then gives 12",
    "a-custom-state",
)
def test_progress(celery_setup, app):
    """With bind=True the task has self, and a function in it can call
    self.update_state(state="PROGRESS", meta={…})."""
    with stored_results(app) as stored:
        assert_task_returns(app, XSUM, ([3, 4, 5],), 12)
        results = stored.read()
    expected = [
        ("PROGRESS", {"done": 1, "of": 3}),
        ("PROGRESS", {"done": 2, "of": 3}),
        ("PROGRESS", {"done": 3, "of": 3}),
        ("SUCCESS", 12),
    ]
    for wanted, found in zip_longest(expected, results, fillvalue="nothing more"):
        assert found == wanted, (
            f"xsum_request.delay([3, 4, 5]) should store {wanted} here, but it stored {found}."
        )


@pytest.mark.step(
    "called as a function, `xsum_request([3, 4, 5])` returns 12 and stores nothing",
    "a-custom-state",
)
def test_a_function_has_no_state(celery_setup, app, monkeypatch):
    """A task that is called as a function has no id. self.request.called_directly is True there."""
    xsum_request = find_task(app, XSUM)
    update_state = xsum_request.update_state
    updates = []

    def note_and_update(*arguments, **options):
        updates.append(options)
        return update_state(*arguments, **options)

    monkeypatch.setattr(xsum_request, "update_state", note_and_update)
    with stored_results(app) as stored:
        try:
            assert_returns("xsum_request([3, 4, 5])", lambda: xsum_request([3, 4, 5]), 12)
        except AssertionError as error:
            if updates:
                raise AssertionError(f"{error} (it called update_state)") from None
            raise
        results = stored.read()
    assert not results, f"xsum_request([3, 4, 5]) should store no state, but it stored {results}."


@pytest.mark.step("a chord of ten additions into `xsum_request` still gives 90", "a-custom-state")
def test_chord(celery_setup, app):
    """update_state stores a state beside the call, and what the task returns is its result
    as before."""
    add_request = find_task(app, ADD)
    additions = [add_request.s(number, number) for number in range(10)]
    result = chord(additions, find_task(app, XSUM).s())()
    assert_result("A chord of ten additions", result, 90)


def start_watching(app_under_test, app):
    """Start watch.py; return its node once it prints events."""
    assert (app_under_test.folder / "watch.py").exists(), (
        "There should be a file watch.py beside tasks, but there is none."
    )
    app.control.enable_events(reply=True, timeout=5, limit=1)  # as -E does from the start
    node = app_under_test.start("python", "-u", "watch.py")
    # Events that are sent before watch.py listens are lost: call a task until it prints one.
    for _ in range(12):
        find_task(app, ADD).delay(1, 1)
        if wait_until(lambda: "task-" in node.logs() or node.status == "exited", 0.5):
            break
    output = node.logs().strip() or "nothing"
    last_line = output.splitlines()[-1]
    assert node.status == "running", (
        f"watch.py should run until Ctrl-C, but it exited. The last line it printed is: {last_line}"
    )
    assert "task-" in node.logs(), (
        f"watch.py should print the events of a task, but it printed: {last_line}"
    )
    return node


def events_of(node, result, last):
    """Return the lines that watch.py prints about a task, waiting for this type of event."""

    def lines():
        return [line for line in node.logs().splitlines() if result.id in line]

    wait_until(lambda: any(last in line for line in lines()), 2)
    return lines()


def assert_event_line(lines, result, event, *words):
    """Fail unless the first of watch.py's lines about this event of a result has these words."""
    found = "nothing"
    for line in reversed(lines):
        if event in line:
            found = line.replace(result.id, "")  # an id may have a 12 in it
    missing = [word for word in words if word not in found]
    assert not missing, (
        f"watch.py should print a line with {', '.join([event, *words])} and the task's id,"
        f" but it printed: {found}"
    )


@pytest.mark.step(
    "until Ctrl-C, `watch.py` prints each task event: its type, the task's name and id, and at the"
    " end the result, or the exception's type",
    "watch-it-live",
)
@processes_only
def test_watch(celery_setup, app, app_under_test):
    """A Receiver with the handler {"*": show} gets all events. Only the first has the task's
    name: app.events.State() keeps it."""
    node = start_watching(app_under_test, app)
    result = find_task(app, XSUM).delay([3, 4, 5])
    failing = find_task(app, DIVIDE).delay(1, 0)
    assert_result("xsum_request.delay([3, 4, 5])", result, 12)

    lines = events_of(node, result, "task-succeeded")
    assert_event_line(lines, result, "task-received", XSUM)
    assert_event_line(lines, result, "task-started", XSUM)
    assert_event_line(lines, result, "task-succeeded", XSUM, "12")

    lines = events_of(node, failing, "task-failed")
    assert lines and "ZeroDivisionError" in lines[-1], (
        f"watch.py should print the exception of a task that failed, but it printed {lines}."
    )

    node.kill("SIGINT")
    exited = wait_until(lambda: node.status == "exited", 15)
    assert exited, "watch.py should exit at Ctrl-C, but it still runs."
    assert "Traceback" not in node.logs(), (
        "watch.py should exit without a traceback at Ctrl-C, but the last line it printed is:"
        f" {node.logs().splitlines()[-1]}"
    )


@pytest.mark.step("the tasks and the settings of chapter 10 are still there", "a-custom-state")
def test_what_chapter_10_had(worker, app, number):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_exported(app, XSUM)
    assert_carried_settings(app, number)


# What follows is about Celery itself.


def test_update_state_needs_an_id(app):
    kind = ValueError
    if PINNED:
        kind = TypeError
    with assert_raises(kind, f"update_state outside of a task should raise {kind.__name__}"):
        find_task(app, XSUM).update_state(state="PROGRESS", meta={})


def assert_stays_in_progress(result, info):
    found = result.state, result.info, result.ready()
    assert found == ("PROGRESS", info, False), (
        f"The state should stay PROGRESS with {info}, but it is {found}."
    )


def test_a_report_is_no_result(celery_setup, app):
    """With ignore_result, and with apply(), which stores no result, the last report stays."""
    ignored = find_task(app, XSUM).apply_async(([3, 4],), ignore_result=True)
    assert_task_returns(app, ADD, (1, 1), 2)
    last = {"done": 2, "of": 2}
    wait_until(lambda: ignored.info == last, 5)
    eager = find_task(app, XSUM).apply(([3, 4],))
    time.sleep(0.3)
    assert_stays_in_progress(ignored, last)
    assert_stays_in_progress(app.AsyncResult(eager.id), last)


def test_failure_by_hand(celery_setup, app):
    find_task(app, XSUM).update_state("by-hand", state="FAILURE", meta={"done": 1})
    kind = ValueError
    if PINNED:
        kind = KeyError
    sentence = f".state of a FAILURE without an exception should raise {kind.__name__}"
    with assert_raises(kind, sentence):
        _ = app.AsyncResult("by-hand").state
    app.backend.client.delete("celery-task-meta-by-hand")


@pytest.mark.isolated(count=0)
@processes_only
def test_the_setting_for_events(app, app_under_test):
    path = app_under_test.folder / "celeryconfig.py"
    before = path.read_text()
    path.write_text(f"{before}\nworker_send_task_events = True\n")
    try:
        worker = wait_until_ready(app_under_test.add_worker(ALONE))
    finally:
        path.write_text(before)
    wanted = "ON"
    if PINNED:
        wanted = "OFF"
    found = re.search(r"task events: (\w+)", worker.logs())[1]
    assert found == wanted, (
        f"With worker_send_task_events, task events should be {wanted}, but they are {found}."
    )


def start_nap(app, seconds):
    """Call a task that sleeps this long and returns "done"; return its result once it runs."""
    result = app.tasks["slow.nap"].delay(seconds, "done")
    inspect = app.control.inspect(timeout=10, limit=1)

    def is_active():
        for tasks in inspect.active().values():
            for task in tasks:
                if task["id"] == result.id:
                    return True
        return False

    wait_until(is_active, 5)
    return result


@pytest.mark.isolated(slow_tasks=True, args=["-E", "-c", "1", *ALONE])
@processes_only
def test_an_event_without_a_watcher_is_lost(celery_setup, app, app_under_test):
    nap = start_nap(app, 60)
    node = app_under_test.start("python", "-u", "watch.py")
    wait_until(lambda: "worker-heartbeat" in node.logs(), 20)
    nap.revoke(terminate=True)
    lines = [line.split()[:2] for line in events_of(node, nap, "task-revoked")]
    assert lines == [["task-revoked", "None"]], (
        f"A watcher that starts late should see the last event alone, but it saw {lines}."
    )


one_process = pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE])


@one_process
def test_revoke_leaves_a_running_task_and_drops_a_waiting_one(celery_setup, app, redis):
    # The worker replies ok to a new time limit, and ignores it: the nap isn't cut short.
    app.control.time_limit("slow.nap", hard=1, reply=True, timeout=10, limit=1)
    running = start_nap(app, 2)
    waiting = app.tasks["slow.nap"].delay(0)
    wait_until(lambda: redis.hlen("unacked") == 2, 5)
    running.revoke()
    waiting.revoke()
    wait_until(lambda: celery_setup.worker.logs().count("flagged as revoked") == 2, 5)
    time.sleep(0.2)
    state = waiting.state
    assert_result("A running task that is revoked", running, "done")
    wanted = "REVOKED"
    if PINNED:
        wanted = "PENDING"
    assert state == wanted, (
        f"A waiting task should be {wanted} at once when it is revoked, but it is {state}."
    )
    sentence = "get() of a task that was revoked while it waited should raise TaskRevokedError"
    with assert_raises(TaskRevokedError, sentence):
        waiting.get(timeout=5)


@one_process
def test_revoke_with_terminate_ends_a_running_task(celery_setup, app, redis):
    """Late acknowledgement and reject_on_worker_lost don't bring it back."""
    running = start_nap(app, 60)
    running.revoke(terminate=True)
    sentence = "get() of a running task that is terminated should raise TaskRevokedError"
    with assert_raises(TaskRevokedError, sentence):
        running.get(timeout=5)
    assert_result("A task in the next process", app.tasks["slow.nap"].delay(0, "next"), "next")
    wait_until(lambda: redis.hlen("unacked") == 0, 3)
    left = redis.hlen("unacked"), redis.llen("celery")
    assert left == (0, 0), (
        "A task that was terminated should not come back, but the unacknowledged and waiting"
        f" messages are {left}."
    )


def wait_until_exited(worker):
    wait_until(lambda: worker.status == "exited", 20)


@pytest.mark.isolated(count=0)
@processes_only
def test_revoked_after_a_restart(app, app_under_test):
    """A worker that keeps revoked ids in memory runs the task; one with a state file drops it."""
    forgets = app_under_test.add_worker([*ALONE, "-Q", "celery", "-n", "celery@%h"])
    remembers = app_under_test.add_worker(
        [*ALONE, "-Q", "ledger", "-n", "ledger@%h", "--statedb=worker.state"]
    )
    workers = [forgets, remembers]
    for worker in workers:
        wait_until_ready(worker)
    xsum_request = find_task(app, XSUM)
    results = []
    for queue in ["celery", "ledger"]:
        results.append(xsum_request.apply_async(([3, 4, 5],), countdown=8, queue=queue))
    inspect = app.control.inspect(timeout=5, limit=2)

    def both_are_scheduled():
        scheduled = inspect.scheduled()
        return bool(scheduled) and all(scheduled.values())

    def states():
        # A result keeps a final state, so ask with new ones.
        return [app.AsyncResult(result.id).state for result in results]

    def revoked(worker):
        return worker.logs().count("flagged as revoked") == 2

    wait_until(both_are_scheduled, 5)
    for result in results:
        app.control.revoke(result.id)
    wait_until(lambda: revoked(forgets) and revoked(remembers), 4)
    wanted = ["REVOKED", "REVOKED"]
    if PINNED:
        wanted = ["PENDING", "PENDING"]
    found = states()
    assert found == wanted, (
        f"Before the tasks are due their states should be {wanted}, but they are {found}."
    )

    for worker in workers:
        worker.kill("SIGTERM")
    for worker in workers:
        wait_until_exited(worker)
        worker.restart()
    wait_until(lambda: "succeeded in" in forgets.logs(), 20)
    wait_until(lambda: "Discarding revoked" in remembers.logs(), 20)
    wait_until(lambda: states() == ["SUCCESS", "REVOKED"], 2)
    found = states()
    assert found == ["SUCCESS", "REVOKED"], (
        "After a restart the first task should be SUCCESS, and the one of the worker with a state"
        f" file REVOKED, but they are {found}."
    )


def assert_no_reply(status, output):
    """Fail unless `inspect ping` had no reply."""
    assert status == 69 and "No nodes replied" in output, (
        f"inspect ping without a reply should exit with 69, but it exited with {status}: {output}"
    )


@pytest.mark.isolated(args=["--pool=solo", *ALONE], slow_tasks=True)
def test_ping(celery_setup, app, app_under_test):
    """Its exit status is a health check. A solo worker doesn't answer while it runs a task."""
    [name] = app.control.inspect(timeout=9, limit=1).ping()
    ping = ["inspect", "ping", "-d", name, "--timeout"]
    status, output = run_celery(app_under_test, *ping, "5")
    assert status == 0 and "pong" in output, (
        f"inspect ping should exit with 0 and print pong, but it exited with {status}: {output}"
    )
    app.tasks["slow.nap"].delay(20)
    wait_until(lambda: "nap of" in celery_setup.worker.logs(), 5)
    assert_no_reply(*run_celery(app_under_test, *ping, "1"))


@pytest.mark.isolated(count=0)
def test_ping_without_a_worker(app, app_under_test):
    assert_no_reply(*run_celery(app_under_test, "inspect", "ping"))


@one_process
def test_a_busy_worker_answers(celery_setup, app):
    start_nap(app, 20)
    found = app.control.inspect(timeout=5, limit=1).ping()
    assert found, "A worker whose processes are all busy should answer a ping, but none answered."
