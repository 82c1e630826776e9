"""Chapter 1: an app, a task, a worker, a result."""

import sys
from pathlib import Path

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from course import (
    WARM_STOP,
    expect,
    expect_listed,
    expect_logged,
    expect_raises,
    expect_result,
    task,
    wait_until,
)
from kombu.exceptions import EncodeError

CHAPTER = "1-first-steps"
# What `make setup` makes for workers. The tests have an environment of their own, with more in it.
SET_UP = Path(sys.prefix.removesuffix("-tests")) / "bin"


@pytest.fixture
def add(celery_setup, app):
    return task(app, "tasks.add")


def test_worker_lists_the_task(worker):
    expect_listed(worker, ["tasks.add"])


def test_add_gives_8(celery_setup, app):
    expect_result(app, "tasks.add", (4, 4), 8)


def test_add_adds(celery_setup, app):
    expect_result(app, "tasks.add", (2, 5), 7)


def test_delay_returns_a_result_that_becomes_ready(add):
    result = add.delay(1, 2)
    expect(len(result.id) == 36, f"The result of delay should have an id, it has {result.id!r}.")
    result.get(timeout=10)
    expect(
        result.ready() and result.state == "SUCCESS",
        f"A fetched result should be SUCCESS, not {result.state}.",
    )


def test_add_is_a_plain_call_here(app, redis):
    found = task(app, "tasks.add")(4, 4)
    expect(found == 8, f"add(4, 4), called as a function, should give 8, it gave {found!r}.")
    expect(redis.llen("celery") == 0, "add(4, 4), called as a function, should send no message.")


def test_task_says_what_it_does_at_debug(worker, app):
    expect_logged(worker, app, "tasks.add", (700001, 200002), "DEBUG")


def test_exception_of_the_task_is_raised_in_the_caller(add, worker):
    with expect_raises(TypeError, 'add.delay(4, "4").get() should raise TypeError'):
        add.delay(4, "4").get(timeout=10)
    worker.assert_log_exists("raised unexpected: TypeError", timeout=5)


def test_argument_that_json_cannot_carry_is_not_sent(add, redis):
    with expect_raises(EncodeError, "add.delay({4}, {4}) should raise EncodeError"):
        add.delay({4}, {4})
    expect(
        redis.llen("celery") == 0, "add.delay({4}, {4}) should send nothing, and a message was in the queue."
    )


def test_missing_argument_is_noticed_by_the_caller(add, redis):
    with expect_raises(TypeError, "add.delay(4) should raise TypeError"):
        add.delay(4)
    expect(redis.llen("celery") == 0, "add.delay(4) should send nothing, and a message was in the queue.")


@pytest.mark.skipif("config.option.docker", reason="needs no engine: the containers have an image instead")
@pytest.mark.skipif(not SET_UP.exists(), reason="needs the environment that `make setup` makes")
@pytest.mark.own_worker(env={"PATH": f"{SET_UP}:/usr/bin:/bin"})
def test_set_up_installs_all_that_a_worker_needs(celery_setup, app):
    expect_result(app, "tasks.add", (4, 4), 8)


@pytest.mark.own_worker(count=0)
def test_get_times_out_where_no_worker_runs(app):
    with expect_raises(CeleryTimeout, "With no worker, get(timeout=0.2) should raise TimeoutError"):
        task(app, "tasks.add").delay(4, 4).get(timeout=0.2)


def test_no_result_without_a_backend(place, monkeypatch):
    app = place.enter(monkeypatch)
    monkeypatch.delenv("CELERY_RESULT_BACKEND")
    app.conf.result_backend = None
    with expect_raises(
        NotImplementedError, "Without a result backend, get() should raise NotImplementedError"
    ):
        task(app, "tasks.add").delay(4, 4).get(timeout=5)


@pytest.mark.own_worker(copy=True)
def test_edited_code_is_not_reloaded(celery_setup, app, place):
    for path in place.folder.rglob("*.py"):
        path.write_text("raise RuntimeError('edited')")
    expect_result(app, "tasks.add", (4, 4), 8)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.own_worker(probe=True)
def test_worker_that_is_stopped_finishes_its_task(worker, app, signal):
    result = app.tasks["probe.nap"].delay(0.5, "done")
    worker.assert_log_exists("nap of 0.5 s", timeout=5)
    worker.kill(signal)
    found = result.get(timeout=10)
    expect(found == "done", f"A worker that gets {signal} should finish its task, the result is {found!r}.")
    ended = wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    expect(
        ended, f"A worker that gets {signal} should end once its task is done; it logged:\n{worker.logs()}"
    )
