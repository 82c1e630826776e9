"""Chapter 11: custom states, events, inspecting workers, and revoked tasks."""

import importlib
import json
import os
import re
import signal
import time
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError
from loguru import logger
from support.assertions import (
    WARM_STOP,
    ask_workers,
    assert_exported,
    assert_listed,
    assert_raises,
    assert_result,
    assert_returns,
    assert_task_returns,
    find_task,
    wait_until_ready,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.celery_internals import restore_messages
from support.commands import run_celery, run_python, start_python
from support.names import ADD, ALONE, ENTER, XSUM
from support.patience import lookout, patience

from course.environment import PINNED
from course.waiting import wait_until

DIVIDE = "tasks.math.divide_request"
# A program that logs a traceback with a password among its variables.
LOG_IN = Path(__file__).with_suffix("") / "log_in.py"
# How a line of Celery's own log begins: [2026-03-01 12:00:00,000: INFO/MainProcess]
CELERYS_LINE = re.compile(r"\[\d+-\d+-\d+ [\d:]+,\d+: [A-Z]+/(MainProcess|ForkPoolWorker-\d+)\]")
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
        channel.get_message(timeout=30)
        yield StoredResults(channel)


@pytest.fixture(scope="module")
def login(shared):
    """A program that logs a traceback: it starts beside the worker, and is waited for later."""
    return start_python(shared, str(LOG_IN), "swordfish")


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "`libs.math.xsum([3, 4, 5], report)` returns 12, and calls `report(1, 3)`, `report(2, 3)`"
    " and `report(3, 3)`",
    "how-far-is-it",
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
    "`xsum` works without a report, and `libs/math.py` without Celery", "how-far-is-it"
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
    "how-far-is-it",
)
@pytest.mark.patient(30)
@pytest.mark.usefixtures("login")
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
    "`xsum_request.delay([1] * 1000)` is PROGRESS at least ten times, and a hundred times at most",
    "how-far-is-it",
)
def test_a_long_sum_reports_seldom(celery_setup, app):
    """Let report skip most of its calls: what is left when you divide done by a number of steps?"""
    with stored_results(app) as stored:
        assert_task_returns(app, XSUM, ([1] * 1000,), 1000)
        states = [state for state, _ in stored.read()]
    count = states.count("PROGRESS")
    assert 10 <= count <= 100, (
        "xsum_request.delay([1] * 1000) should be PROGRESS 10 to 100 times, but it was so"
        f" {count} times."
    )


@pytest.mark.step(
    "called as a function, `xsum_request([3, 4, 5])` returns 12 and stores nothing",
    "how-far-is-it",
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


@pytest.mark.step("a chord of ten additions into `xsum_request` still gives 90", "how-far-is-it")
def test_chord(celery_setup, app):
    """update_state stores a state beside the call, and what the task returns is its result
    as before."""
    add_request = find_task(app, ADD)
    additions = [add_request.s(number, number) for number in range(10)]
    result = chord(additions, find_task(app, XSUM).s())()
    assert_result("A chord of ten additions", result, 90)


def lines_with(worker, start, text):
    """Return the lines with this text that a worker has logged with loguru from a position on."""
    lines = worker.logs()[start:].splitlines()
    return [line for line in lines if text in line and not CELERYS_LINE.match(line)]


def assert_lines_have_ids(worker, app):
    """Fail unless each line of two calls, which may run side by side, has the id of its call."""
    start = len(worker.logs())
    results = {}
    for number in (700001, 800001):
        results[number] = find_task(app, ADD).delay(number, 0)
    for number, result in results.items():
        assert_result(f"add_request.delay({number}, 0)", result, number)
        wait_until(lambda text=str(number): len(lines_with(worker, start, text)) == 3, patience(3))
        lines = lines_with(worker, start, str(number))
        assert lines, f"add_request.delay({number}, 0) should log with loguru, but it doesn't."
        for line in lines:
            assert result.id in line, (
                f"Each line of a task should have its id, {result.id}, but this one has not: {line}"
            )


@pytest.mark.step(
    "each line that loguru writes for a task, in `tasks` and in `libs`, has the task's id",
    "the-id-in-every-line",
)
def test_each_line_has_the_id(worker, app):
    """In tasks/celery.py, logger.configure takes a patcher, a function that puts
    app.current_worker_task.request.id into record["extra"], and a format that has it."""
    assert_lines_have_ids(worker, app)


def test_a_task_that_another_calls_logs_with_its_id(app):
    @app.task(name="tests.caller", shared=False)
    def caller():
        return find_task(app, ADD)(4, 4)

    lines = []
    sink = logger.add(lines.append, format="{extra[id]} {message}")
    caller.apply(task_id="id-of-the-caller")
    logger.remove(sink)
    del app.tasks[caller.name]
    without = [line for line in lines if not line.startswith("id-of-the-caller ")]
    assert lines and not without, (
        f"A task that is called as a function should log with its caller's id, but: {lines}"
    )


@pytest.mark.isolated(args=["-P", "threads", *ALONE])
def test_each_line_has_the_id_in_threads(worker, app):
    assert_lines_have_ids(worker, app)


@pytest.mark.step(
    "any task that fails writes a line with loguru, at ERROR, with its name and its id",
    "a-task-that-fails",
)
@pytest.mark.parametrize("name, arguments", [(DIVIDE, (1, 0)), (ENTER, ("pay", {}))])
def test_a_failure_is_one_line(worker, app, ledger, name, arguments):
    """Write a class with the base celery.Task and the method on_failure, and give it to Celery
    as task_cls."""
    start = len(worker.logs())
    result = find_task(app, name).delay(*arguments)
    wait_until(result.ready, patience(5))
    # A log that isn't local may come later.
    wait_until(lambda: find_failures(worker, start, result, name), patience(2))
    errors = [line[:100] for line in lines_with(worker, start, "ERROR")]
    assert find_failures(worker, start, result, name), (
        f"{name}{arguments} should write a line with loguru, at ERROR, with its name and its id,"
        f" {result.id}, but these lines are all: {errors}."
    )


def find_failures(worker, start, result, name):
    """Return the lines of loguru that say that a task has failed."""
    lines = lines_with(worker, start, "ERROR")
    return [line for line in lines if result.id in line and name in line]


@pytest.mark.step(
    "a traceback that loguru writes shows no variable's value", "what-a-log-shouldnt-say"
)
def test_a_traceback_shows_no_values(login):
    """Each handler of logger.configure, as each logger.add, may have diagnose=False."""
    output = "".join(login.communicate())
    assert "no login" in output, f"loguru should write a traceback, but there is: {output[-300:]}"
    shown = [line.strip() for line in output.splitlines() if "swordfish" in line]
    assert not shown, (
        "A traceback should show no variable's value, but it shows a password in its line"
        f" {shown[0]!r}."
    )


def start_watching(app_under_test, app):
    """Start watch.py; return its node once it prints events."""
    assert (app_under_test.folder / "watch.py").exists(), (
        "There should be a file watch.py beside tasks, but there is none."
    )
    ask_workers(app, "ping")
    app.control.enable_events(reply=True, timeout=30, limit=1)  # as -E does from the start
    node = app_under_test.start("python", "-u", "watch.py")
    # Events that are sent before watch.py listens are lost: call a task until it prints one.
    for _ in range(10 * round(patience(6))):
        find_task(app, ADD).delay(1, 1)
        if wait_until(lambda: "task-" in node.logs() or node.status == "exited", 0.1):
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

    wait_until(lambda: any(last in line for line in lines()), patience(2))
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
    exited = wait_until(lambda: node.status == "exited", patience(15))
    assert exited, "watch.py should exit at Ctrl-C, but it still runs."
    assert "Traceback" not in node.logs(), (
        "watch.py should exit without a traceback at Ctrl-C, but the last line it printed is:"
        f" {node.logs().splitlines()[-1]}"
    )


@pytest.mark.step("the tasks and the settings of chapter 10 are still there", "how-far-is-it")
def test_what_chapter_10_had(worker, app, number):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_exported(app, XSUM)
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)


@pytest.mark.star(
    "`watch.py` prints the progress too: for `xsum_request.delay([3, 4, 5])`, a line with the"
    " task's id and `2 of 3` (a task can send events of its own, with `self.send_event`)",
    "watch-it-live",
)
@processes_only
def test_star_progress(celery_setup, app, app_under_test):
    """The event's type is yours, if it begins with "task-". Its other fields are keywords."""
    node = start_watching(app_under_test, app)
    result = find_task(app, XSUM).delay([3, 4, 5])
    assert_result("xsum_request.delay([3, 4, 5])", result, 12)
    lines = events_of(node, result, "task-succeeded")
    with_progress = [line for line in lines if "2 of 3" in line]
    assert with_progress, (
        "watch.py should print a line with the task's id and `2 of 3`, but it prints these lines"
        f" about the task: {lines}"
    )
    assert "12" in lines[-1], (
        f"watch.py should still print the result, but the last line is: {lines[-1]}"
    )


@pytest.mark.star(
    "`python stuck.py 60` prints the name and the id of each task that has been running for more"
    " than 60 seconds, and nothing else",
    "ask-the-workers",
)
@pytest.mark.isolated(count=0, slow_tasks=True, args=["-c", "1", *ALONE])
def test_star_stuck(app, app_under_test):
    """What does inspect.active() know of a task besides its id?"""
    assert (app_under_test.folder / "stuck.py").exists(), (
        "There should be a file stuck.py beside tasks, but there is none."
    )
    wait_until_ready(app_under_test.add_worker())
    running = start_nap(app, 60)
    waiting = app.tasks["slow.nap"].delay(0)
    wait_until(lambda: time.time() > begin_of(app, running) + 1)
    output = wait_until(lambda: run_python(app_under_test, "stuck.py", "1").strip(), patience(3))
    assert "slow.nap" in output and running.id in output, (
        "`python stuck.py 1` should print the name and the id of a task that has been running for"
        f" more than a second, slow.nap and {running.id}, but it prints {output!r}."
    )
    assert waiting.id not in output, (
        f"stuck.py should not print a task that isn't running, but it prints {output!r}."
    )
    # More than once, as a worker that stands still doesn't answer in time.
    output = wait_until(
        lambda: run_python(app_under_test, "stuck.py", "1000").strip(), lookout(1.5)
    )
    assert not output, (
        "`python stuck.py 1000` should print nothing about a task that began seconds ago, but it"
        f" prints {output!r}."
    )


def begin_of(app, result):
    """Return when the task of a result began, as its worker says."""
    for tasks in ask_workers(app, "active").values():
        for task in tasks:
            if task["id"] == result.id:
                return task["time_start"]
    raise AssertionError(f"A worker should be running {result.id}.")


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
    wait_until(lambda: ignored.info == last)
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


def test_follow_ends_with_a_failure(celery_setup, app):
    """The lesson's function waits for half a minute at most, and not if there is no more to see."""
    follow = importlib.import_module("experiments").follow
    begin = time.monotonic()
    assert follow(find_task(app, DIVIDE).delay(1, 0)) == []
    seconds = time.monotonic() - begin
    assert seconds < 20, f"follow should end when a task fails, but it took {seconds:.0f} s."


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

    def is_active():
        for tasks in ask_workers(app, "active").values():
            for task in tasks:
                if task["id"] == result.id:
                    return True
        return False

    wait_until(is_active)
    return result


@pytest.mark.isolated(slow_tasks=True, args=["-E", "-c", "1", *ALONE])
@processes_only
def test_an_event_without_a_watcher_is_lost(celery_setup, app, app_under_test):
    nap = start_nap(app, 60)
    node = app_under_test.start("python", "-u", "watch.py")
    wait_until(lambda: "worker-heartbeat" in node.logs(), 60)
    nap.revoke(terminate=True)
    lines = [line.split()[:2] for line in events_of(node, nap, "task-revoked")]
    assert lines == [["task-revoked", "None"]], (
        f"A watcher that starts late should see the last event alone, but it saw {lines}."
    )


@pytest.mark.isolated(count=0)
@processes_only
def test_a_message_that_waits_has_no_event(app, app_under_test):
    """The worker sends the first event, unless the caller sends task-sent."""
    node = app_under_test.start("python", "-u", "watch.py")
    add_request = find_task(app, ADD)

    def send(sent_event):
        app.conf.task_send_sent_event = sent_event
        return add_request.delay(4, 4)

    listens = wait_until(lambda: wait_until(lambda: send(True).id in node.logs(), 0.5), 60)
    assert listens, f"With task_send_sent_event, there should be an event, but: {node.logs()}"
    hidden = send(False)
    shown = send(True)
    lines = events_of(node, shown, "task-sent")
    assert lines, f"watch.py should print task-sent, but it prints: {node.logs()}"
    assert hidden.id not in node.logs(), (
        "A message that no worker has taken should have no event, but watch.py prints one."
    )


@pytest.mark.isolated(slow_tasks=True, count=0)
@processes_only
def test_print_in_a_quiet_worker(app, app_under_test):
    """A print is a line of Celery's log at WARNING: the lesson shows it, but not at this level."""
    worker = app_under_test.add_worker([*ALONE, "--loglevel=error"])
    assert_result("A task that prints", app.tasks["slow.say"].delay("here I am"), "here I am")
    assert "here I am" not in worker.logs(), (
        f"With --loglevel=error, a print should be gone, but the log is: {worker.logs()}"
    )


@pytest.mark.isolated(slow_tasks=True, env={"SLOW_TASKS_LOOK": "0.2"}, args=["-c", "4", *ALONE])
@processes_only
def test_what_on_failure_is_not_told(celery_setup, app, worker):
    """A retry, a kill and terminate; a hard limit, on Celery 5.1."""
    retried = app.tasks["slow.second_try"].delay()
    killed = app.tasks["slow.late=False,reject=False"].delay()
    limited = app.tasks["slow.nap"].apply_async((60,), time_limit=1)
    terminated = start_nap(app, 60)
    terminated.revoke(terminate=True)
    wait_until(lambda: process_of(app, killed))
    os.kill(process_of(app, killed), signal.SIGKILL)
    wait_until(lambda: retried.state == "RETRY")
    states = [result.get(timeout=30, propagate=False) for result in (killed, limited, terminated)]
    kinds = [type(state).__name__ for state in states]
    wanted = ["WorkerLostError", "TimeLimitExceeded", "TaskRevokedError"]
    assert kinds == wanted, f"The tasks should have ended with {wanted}, not with {kinds}."
    for result in (retried, killed, terminated):
        told = lines_with(worker, 0, f"{result.id}] failed")
        assert not told, f"on_failure should not be called here, but it logs {told}."
    seconds = 30
    if PINNED:
        seconds = 2
    told_of_limit = wait_until(lambda: lines_with(worker, 0, f"{limited.id}] failed"), seconds)
    assert bool(told_of_limit) != PINNED, (
        "on_failure should be told of a hard limit on Celery 5.7 alone, but it logs"
        f" {told_of_limit}."
    )


def process_of(app, result):
    """Return the process that runs the task of a result; None if none does."""
    for tasks in ask_workers(app, "active").values():
        for task in tasks:
            if task["id"] == result.id:
                return task["worker_pid"]
    return None


one_process = pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE])


@one_process
def test_revoke_leaves_a_running_task_and_drops_a_waiting_one(celery_setup, app, redis):
    running = app.tasks["slow.held"].delay("done")
    waiting = app.tasks["slow.nap"].delay(0)
    wait_until(lambda: redis.get("begun") and redis.hlen("unacked") == 2)
    running.revoke()
    waiting.revoke()
    wait_until(lambda: celery_setup.worker.logs().count("flagged as revoked") == 2)
    seconds = 30
    if PINNED:
        seconds = 0.2
    wait_until(lambda: waiting.state != "PENDING", seconds)
    state = waiting.state
    redis.set("released", 1)
    assert_result("A running task that is revoked", running, "done")
    wanted = "REVOKED"
    if PINNED:
        wanted = "PENDING"
    assert state == wanted, (
        f"A waiting task should be {wanted} at once when it is revoked, but it is {state}."
    )
    sentence = "get() of a task that was revoked while it waited should raise TaskRevokedError"
    with assert_raises(TaskRevokedError, sentence):
        waiting.get(timeout=30)


@one_process
def test_revoke_with_terminate_ends_a_running_task(celery_setup, app, redis):
    """Late acknowledgement and reject_on_worker_lost don't bring it back."""
    running = start_nap(app, 60)
    running.revoke(terminate=True)
    sentence = "get() of a running task that is terminated should raise TaskRevokedError"
    with assert_raises(TaskRevokedError, sentence):
        running.get(timeout=30)
    assert_result("A task in the next process", app.tasks["slow.nap"].delay(0, "next"), "next")
    wait_until(lambda: redis.hlen("unacked") == 0)
    left = redis.hlen("unacked"), redis.llen("celery")
    assert left == (0, 0), (
        "A task that was terminated should not come back, but the unacknowledged and waiting"
        f" messages are {left}."
    )


def wait_until_exited(worker):
    wait_until(lambda: worker.status == "exited")


REVOKED = "flagged as revoked"


def revoke_later(app, worker, queue, countdown):
    """Call a sum for later on the worker of a queue, and revoke it there; return its result."""
    result = find_task(app, XSUM).apply_async(([3, 4, 5],), countdown=countdown, queue=queue)
    wait_until(lambda: f"{XSUM}[{result.id}] received" in worker.logs())
    app.control.revoke(result.id)
    wait_until(lambda: result.id in worker.logs().rpartition(REVOKED)[2])
    return result


def make_due(redis, queue):
    """Let the one message that a worker has given back to a queue be due at once."""
    message = json.loads(redis.lpop(queue))
    message["headers"]["eta"] = None
    redis.lpush(queue, json.dumps(message))


def state_of(app, result):
    """Return the state of a result as it is now: an old result keeps a final state."""
    return app.AsyncResult(result.id).state


@pytest.mark.isolated(count=0)
@processes_only
def test_a_restart_forgets_unless_there_is_a_file(app, app_under_test):
    """The file is written at the end of a worker that isn't killed."""
    forgets = app_under_test.add_worker([*ALONE, "-Q", "celery", "-n", "celery@%h"])
    file = "--statedb=worker.state"
    remembers = app_under_test.add_worker([*ALONE, "-Q", "ledger", "-n", "ledger@%h", file])
    killed = app_under_test.add_worker([*ALONE, "-Q", "rates", "-n", "rates@%h", f"{file}.2"])
    for worker in (forgets, remembers, killed):
        wait_until_ready(worker)
    forgotten = revoke_later(app, forgets, "celery", 3600)
    remembered = revoke_later(app, remembers, "ledger", 3600)
    revoke_later(app, killed, "rates", 3600)
    wanted = "REVOKED"
    if PINNED:
        wanted = "PENDING"
    found = state_of(app, forgotten)
    assert found == wanted, (
        f"Before the task is due, its state should be {wanted}, but it is {found}."
    )

    for worker in (forgets, remembers):
        worker.kill("SIGTERM")
    killed.kill("SIGKILL")
    for worker in (forgets, remembers, killed):
        wait_until(lambda worker=worker: worker.status == "exited", WARM_STOP)
    for queue in ("celery", "ledger"):
        make_due(app_under_test.broker.client, queue)
    for worker in (forgets, remembers, killed):
        worker.restart()
    for result, wanted in ((forgotten, "SUCCESS"), (remembered, "REVOKED")):
        wait_until(lambda result=result, wanted=wanted: state_of(app, result) == wanted, 60)
        found = state_of(app, result)
        assert found == wanted, (
            "After a restart, a task should be SUCCESS without a state file, and REVOKED with one,"
            f" but instead of {wanted} it is {found}."
        )
    [name] = re.findall(r"rates@\S+", wait_until_ready(killed).logs())[:1]
    wait_until_ready(killed)
    lists = ask_workers(app, "revoked", destination=[name])
    assert lists == {name: []}, (
        f"A worker that was killed should have forgotten the list, but it has {lists}."
    )


def assert_state_when_revoked(app, workers, task_id, wanted):
    """Revoke a task; fail unless its state is this one once all workers have heard of it."""
    app.control.revoke(task_id)
    for worker in workers:
        wait_until(lambda worker=worker: task_id in worker.logs().rpartition(REVOKED)[2])
    found = app.AsyncResult(task_id).state
    assert found == wanted, f"With two workers, the state should be {wanted}, but it is {found}."


@pytest.mark.isolated(count=0, slow_tasks=True, args=["--without-gossip"])
@processes_only
def test_another_worker_tells_what_is_revoked(app, app_under_test):
    redis = app_under_test.broker.client
    restarted = app_under_test.add_worker(["-Q", "celery", "-n", "celery@%h"])
    other = app_under_test.add_worker(["-Q", "ledger", "-n", "ledger@%h"])
    workers = (restarted, other)
    for worker in workers:
        wait_until_ready(worker)
    running = app.tasks["slow.held"].delay()
    wait_until(lambda: redis.get("begun"))
    wanted = "REVOKED"
    if PINNED:
        wanted = "PENDING"
    assert_state_when_revoked(app, workers, running.id, wanted)
    redis.set("released", 1)
    carried_on = wait_until(lambda: state_of(app, running) == "SUCCESS")
    assert carried_on, "A running task that is revoked should carry on, but it hasn't ended."
    app.backend.store_result("of a report", {"done": 1}, "PROGRESS")
    assert_state_when_revoked(app, workers, "of a report", "PROGRESS")
    result = revoke_later(app, restarted, "celery", 3600)
    wait_until(lambda: result.id in other.logs())
    restarted.restart()
    dropped = wait_until(lambda: "Discarding revoked task" in restarted.logs(), 60)
    assert dropped, f"A worker should learn what is revoked, but it logs:\n{restarted.logs()}"


@pytest.mark.isolated(args=["-c", "1", *ALONE])
@processes_only
def test_a_revoked_task_comes_back_once(celery_setup, app, redis):
    """After the visibility timeout, the worker takes its message again, and drops it for good."""
    worker = celery_setup.worker.container
    result = revoke_later(app, worker, "celery", 24 * 3600)
    [(tag, taken)] = redis.zrange("unacked_index", 0, -1, withscores=True)
    redis.zadd("unacked_index", {tag: taken - 3600})  # as if it had been taken an hour ago
    restore_messages(app)  # as a worker does about every 100 seconds
    wait_until(lambda: "Discarding revoked task" in worker.logs())
    wait_until(lambda: not redis.hlen("unacked"))
    worker.kill("SIGTERM")
    wait_until(lambda: worker.status == "exited", WARM_STOP)
    left = redis.llen("celery"), redis.hlen("unacked")
    assert left == (0, 0), (
        "The message of a revoked task should be gone once it has come back, but the messages that"
        f" wait and those that are held are {left}."
    )
    found = state_of(app, result)
    assert found == "REVOKED", f"The state of the task should be REVOKED, but it is {found}."


@pytest.mark.isolated(count=0)
@processes_only
def test_a_revoke_without_a_worker_is_not_heard(app, app_under_test):
    result = find_task(app, ADD).delay(4, 4)
    result.revoke()
    app_under_test.add_worker(ALONE)
    assert_result("A task that was revoked while no worker was up", result, 8)


def test_a_state_file_forgets_after_three_hours():
    found = importlib.import_module("celery.worker.state").REVOKE_EXPIRES
    assert found == 3 * 3600, f"Revoked ids should be kept for three hours, not {found} s."


@pytest.mark.isolated()
@processes_only
def test_an_inspect_that_is_killed_leaves_its_answers(celery_setup, app, app_under_test, redis):
    worker = celery_setup.worker.container
    ask_workers(app, "ping")  # it is ready before it hears questions
    with closing(redis.pubsub(ignore_subscribe_messages=True)) as questions:
        questions.psubscribe(f"/{app_under_test.database}.celery.pidbox*")
        worker.kill("SIGSTOP")  # it can't answer
        asking = app_under_test.start("celery", "-A", "tasks", "inspect", "ping", "-t", "60")
        asked = wait_until(lambda: questions.get_message(timeout=0.1), 60)
        assert asked, f"inspect ping should ask the workers, but it prints: {asking.logs()}"
    asking.kill()
    worker.kill("SIGCONT")
    keys = wait_until(lambda: redis.keys("*-*.reply.celery.pidbox"))
    assert keys, "The worker's answer should be left in Redis, but no key is."
    ttl = redis.ttl(keys[0])
    assert ttl == -1, f"The answer should never expire, but it does in {ttl} s."


@pytest.mark.isolated(args=["--pool=solo", *ALONE], slow_tasks=True)
def test_a_busy_solo_worker_does_not_answer(celery_setup, app, app_under_test):
    """The lesson shows the answer of a worker that isn't busy."""
    app.tasks["slow.nap"].delay(300)
    wait_until(lambda: "nap of" in celery_setup.worker.logs(), 30)
    status, output = run_celery(app_under_test, "inspect", "ping", "--timeout", "1")
    assert status == 69 and "No nodes replied" in output, (
        f"inspect ping should exit with 69 without a reply, not with {status}: {output}"
    )


@one_process
def test_a_busy_worker_answers(celery_setup, app):
    start_nap(app, 60)
    found = ask_workers(app, "ping")
    assert found, "A worker whose processes are all busy should answer a ping, but none answered."
