"""Chapter 7: what each accident costs a running task, as the lesson's table says."""

import re
import time

import pytest
from support.assertions import (
    WARM_STOP,
    ask_workers,
    find_task,
    wait_until_ready,
)
from support.celery_internals import restore_messages
from support.names import ADD, ALONE
from support.nodes import stopped

from course.chapters import ROOT
from course.environment import PINNED
from course.waiting import wait_until

LESSON = ROOT / "chapters" / "7-crashes" / "README.md"
EARLY = {"task_acks_late": False, "task_reject_on_worker_lost": False}
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
CANCEL = LATE | {"worker_cancel_long_running_tasks_on_connection_loss": True}
LOOK = {"SLOW_TASKS_LOOK": "0.2"}


def guarantees():
    """Return the lesson's table: a list of cells by the first cell of each row."""
    table = {}
    for line in LESSON.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3:
            table[cells[0]] = cells[1:]
    return table


def assert_said(accident, column, found):
    """Fail unless the lesson's row about an accident says this in its first or second column."""
    row = guarantees().get(accident)
    assert row, f"The lesson's table should have a row {accident!r}."
    assert found in row[column], (
        f"{accident}: the table should say {found!r} in column {column + 1}, but it says"
        f" {row[column]!r}."
    )


def number(redis, key):
    return int(redis.get(key) or 0)


def runs(redis):
    """Return in words how often slow.held has begun and ended."""
    begun, ended = number(redis, "begun"), number(redis, "ended")
    words = {(1, 0): "lost", (1, 1): "runs once", (2, 1): "runs again", (2, 2): "runs twice"}
    return words.get((begun, ended), f"begins {begun} and ends {ended} times")


def start_task(app, redis, column):
    """Call slow.held, which runs until it is released; return its result as soon as it runs.

    A message that is acknowledged early, as in column 0, is gone by then.
    """
    result = app.tasks["slow.held"].delay()
    assert wait_until(lambda: redis.get("begun")), "The task should begin."
    wait_until(lambda: redis.hlen("unacked") == column)
    return result


def release(app, redis):
    """Let the task end, now and whenever it runs, and wait until all messages are done with.

    An addition comes behind the messages that wait, and shows that the worker still works. Its
    result is looked up, because get may fail on Celery 5.1 in a client whose connection was cut.
    """
    redis.set("released", 1)
    addition = app.tasks[ADD].delay(4, 4)
    wait_until(addition.ready)
    state = addition.state
    assert state == "SUCCESS", f"The worker should still add, but an addition is {state}."
    wait_until(lambda: not redis.hlen("unacked"))


def assert_runs(redis, accident, column, wanted):
    """Fail unless the task has run as wanted, and as the lesson's row says."""
    wait_until(lambda: runs(redis) == wanted)
    assert runs(redis) == wanted, f"The task should be {wanted!r}, but it is {runs(redis)!r}."
    assert_said(accident, column, wanted)


def cut_connections(redis):
    """Close every connection to the worker's database but this one."""
    own = redis.client_id()
    database = str(redis.connection_pool.connection_kwargs["db"])
    for client in redis.client_list():
        if client["db"] == database and int(client["id"]) != own:
            redis.client_kill_filter(_id=client["id"])


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(
            0, "lost", marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY, env=LOOK)
        ),
        pytest.param(
            1, "runs again", marks=pytest.mark.isolated(slow_tasks=True, settings=LATE, env=LOOK)
        ),
    ],
)
def test_process_is_killed(worker, app, redis, column, wanted):
    result = start_task(app, redis, column)
    [active] = ask_workers(app, "active").values()
    worker.container.kill_process(active[0]["worker_pid"])
    redis.set("released", 1)
    wait_until(result.ready)
    release(app, redis)
    assert_runs(redis, "its process is killed", column, wanted)


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(0, "lost", marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY)),
        pytest.param(1, "runs again", marks=pytest.mark.isolated(slow_tasks=True, settings=LATE)),
    ],
)
def test_worker_is_killed(worker, app, app_under_test, redis, column, wanted):
    result = start_task(app, redis, column)
    worker.kill()
    assert result.state == "PENDING", f"Its state should be PENDING, but it is {result.state}."
    restore_messages(app, visibility_timeout=0)
    wait_until_ready(app_under_test.add_worker())
    release(app, redis)
    assert_runs(redis, "its worker is killed", column, wanted)


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(0, "runs once", marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY)),
        pytest.param(1, "runs again", marks=pytest.mark.isolated(slow_tasks=True, settings=CANCEL)),
    ],
)
def test_connection_is_cut(worker, app, redis, column, wanted):
    result = start_task(app, redis, column)
    cut_connections(redis)
    if column == 1:
        wait_until_it_is_back(worker, result)
    release(app, redis)
    # A run that isn't cancelled ends within a moment.
    wait_until(lambda: number(redis, "ended") == number(redis, "begun"), 2)
    assert_runs(redis, "its worker's connection to Redis is cut", column, wanted)


def wait_until_it_is_back(worker, result):
    """Wait until a worker has connected again and taken the message of a result once more."""
    wait_until(lambda: worker.logs().count(f"[{result.id}] received") == 2)


@pytest.mark.row("The second run, after a worker has lost its connection")
@pytest.mark.isolated(slow_tasks=True, settings=LATE)
def test_connection_is_cut_with_late_acknowledgement(worker, app, redis):
    """Celery 5.1 gives the second run to the process that is busy with the first."""
    result = start_task(app, redis, 1)
    cut_connections(redis)
    wait_until_it_is_back(worker, result)
    seconds = 30
    if PINNED:
        seconds = 2
    side_by_side = wait_until(lambda: number(redis, "begun") == 2, seconds)
    assert side_by_side != PINNED, (
        "The two runs should be side by side on Celery 5.7 alone, but"
        f" {number(redis, 'begun')} are running."
    )
    release(app, redis)
    assert_runs(redis, "its worker's connection to Redis is cut", 1, "runs twice")


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(0, "runs once", marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY)),
        pytest.param(1, "runs once", marks=pytest.mark.isolated(slow_tasks=True, settings=LATE)),
    ],
)
def test_worker_is_stopped(worker, app, app_under_test, redis, column, wanted):
    start_task(app, redis, column)
    worker.kill("SIGTERM")
    worker.wait_for_log("Warm shutdown")
    redis.set("released", 1)
    wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    wait_until_ready(app_under_test.add_worker())
    release(app, redis)
    assert_runs(redis, "its worker is stopped (Ctrl-C or TERM, once)", column, wanted)


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(0, "runs once", marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY)),
        pytest.param(1, "runs twice", marks=pytest.mark.isolated(slow_tasks=True, settings=LATE)),
    ],
)
def test_task_is_longer_than_the_timeout(worker, app, redis, column, wanted):
    """The worker that puts the message back is this test, with a timeout of a second."""
    start_task(app, redis, column)
    time.sleep(1.1)
    restore_messages(app, visibility_timeout=1)
    if column == 1:
        wait_until(lambda: number(redis, "begun") > 1)
    release(app, redis)
    assert_runs(redis, "its message is held longer than the visibility timeout", column, wanted)


@pytest.mark.isolated(slow_tasks=True, args=["-c", "1", *ALONE], settings=LATE)
def test_messages_that_wait_in_the_worker_count(worker, app, redis):
    """A process takes four messages at once. The clock of the fourth runs before it begins."""
    for _ in range(4):
        app.tasks["slow.held"].delay()
    assert wait_until(lambda: redis.hlen("unacked") == 4), "The worker should take all four."
    wait_until(lambda: redis.get("begun"))
    time.sleep(1.1)
    restore_messages(app, visibility_timeout=1)
    found = number(redis, "begun"), redis.llen("celery")
    assert found == (1, 4), (
        "When the first of four tasks has begun, all four should be handed out again after the"
        f" timeout, but the numbers are {found}."
    )
    redis.set("released", 1)
    wait_until(lambda: number(redis, "ended") == 8)
    ended = number(redis, "ended")
    assert ended == 8, f"Four tasks should run twice each, eight in all, but {ended} ended."


@pytest.mark.parametrize(
    "column, wanted",
    [
        pytest.param(
            0,
            "runs once; twice, if it was held before it ran",
            marks=pytest.mark.isolated(slow_tasks=True, settings=EARLY),
        ),
        pytest.param(1, "runs twice", marks=pytest.mark.isolated(slow_tasks=True, settings=LATE)),
    ],
)
def test_putting_back_while_a_worker_holds_messages_runs_them_twice(
    worker, app, redis, column, wanted
):
    """An idle worker may hold messages until they are due, and acknowledges none before."""
    redis.set("released", 1)
    app.tasks["slow.held"].apply_async(countdown=3)
    assert wait_until(lambda: redis.hlen("unacked")), "The worker should hold the message."
    with stopped(worker):
        restore_messages(app, visibility_timeout=0)
    wait_until(lambda: number(redis, "ended") == 2)
    assert number(redis, "ended") == 2, "The task should run twice."
    assert_said("its message is held longer than the visibility timeout", column, wanted)


def assert_poison_goes_on(redis):
    assert wait_until(lambda: number(redis, "runs") > 4, 90), (
        f"A poison task should run on and on, but it ran {redis.get('runs')} times."
    )


@pytest.mark.isolated(slow_tasks=True, settings=LATE, env=LOOK)
def test_poison_task_runs_for_ever(worker, app, redis):
    app.tasks["slow.poison"].delay()
    assert_poison_goes_on(redis)


@pytest.mark.row("`task_retry_on_worker_lost`")
@pytest.mark.isolated(
    slow_tasks=True, settings=LATE | {"task_retry_on_worker_lost": True}, env=LOOK
)
def test_a_setting_caps_poison_on_celery_5_7(worker, app, redis):
    """Celery 5.1 doesn't know the setting. The task has max_retries=2 and a delay of a second."""
    result = app.tasks["slow.poison"].delay()
    if PINNED:
        assert_poison_goes_on(redis)
        return
    wait_until(result.ready, 60)
    found = result.state, redis.get("runs")
    assert found == ("FAILURE", "3"), (
        f"After two retries, the task should fail after its third run, but it is {found}."
    )


@pytest.mark.row("A retry that can't be sent")
@pytest.mark.isolated(slow_tasks=True, settings=LATE)
def test_a_retry_that_cannot_be_sent(worker, app, monkeypatch):
    """The worker drops the task: with FAILURE on Celery 5.7, in silence on Celery 5.1."""
    result = app.tasks["slow.unsent"].delay()
    wanted, seconds = "FAILURE", 30
    if PINNED:
        wanted, seconds = "PENDING", 3
    worker.wait_for_log(result.id)
    wait_until(lambda: result.state != "PENDING", seconds)
    assert result.state == wanted, f"It should be {wanted}, but it is {result.state}."


def test_the_table_has_a_figure_for_a_killed_server():
    """The figures are those of tests/resilience, whose bounds these are."""
    row = guarantees().get("Redis is killed, while a worker runs 1,000 tasks")
    assert row, "The lesson's table should have a row about a killed Redis."
    for cell in row:
        lost = max(map(int, re.findall(r"\d+", cell.partition(" lost")[0])))
        assert lost <= 2, f"At most 2 of 1,000 should be lost, but the table says {cell!r}."


def test_the_chapter_acknowledges_late(app):
    for option in "acks_late", "reject_on_worker_lost":
        found = getattr(find_task(app, ADD), option)
        assert found is True, f"The chapter's tasks should have {option}, but it is {found}."
