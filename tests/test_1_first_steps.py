"""Chapter 1: an app, a task, a worker, a result."""

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from kombu.exceptions import EncodeError
from support.assertions import (
    WARM_STOP,
    assert_listed,
    assert_logged,
    assert_raises,
    assert_redis_url,
    assert_result,
    assert_task_returns,
    find_task,
)

from course.waiting import wait_until


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    "`celery -A tasks worker` starts, and lists the task `tasks.add`", "start-a-worker"
)
def test_worker_lists_the_task(worker):
    """Decorate add with @app.task, where app is a Celery("tasks", ...) in tasks.py."""
    assert_listed(worker, ["tasks.add"])


@pytest.mark.step("Redis is the app's broker and its result backend", "the-app")
@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_app_names_redis(app, monkeypatch, name):
    """Celery("tasks", broker="redis://127.0.0.1:6379/0", backend="redis://127.0.0.1:6379/0"): the same URL twice."""
    assert_redis_url(app, monkeypatch, name)


@pytest.mark.step("`add.delay(4, 4).get(timeout=10)` gives 8", "call-the-task")
@pytest.mark.parametrize("numbers, result", [((4, 4), 8), ((2, 5), 7)])
def test_worker_adds(celery_setup, app, numbers, result):
    """The task takes x and y, and returns their sum; printing it isn't enough. Its result is kept without any option."""
    assert_task_returns(app, "tasks.add", numbers, result)


@pytest.mark.step("a fetched result is ready, and its state is SUCCESS", "call-the-task")
def test_delay_returns_a_result_that_becomes_ready(celery_setup, app):
    """The result backend keeps a result unless the task says ignore_result=True."""
    result = find_task(app, "tasks.add").delay(1, 2)
    assert len(result.id) == 36, f"The result of delay should have an id, but it has {result.id!r}."
    assert_result("add.delay(1, 2)", result, 3)
    state = result.state
    assert result.ready() and state == "SUCCESS", (
        f"A fetched result should be ready and SUCCESS, not {state}."
    )


@pytest.mark.step("`add(4, 4)` gives 8 too, in the caller, and sends no message", "call-the-task")
def test_add_is_a_plain_call_here(app, redis):
    """A decorated function is still a function: call add itself, not delay."""
    found = find_task(app, "tasks.add")(4, 4)
    assert found == 8, f"add(4, 4), called as a function, should give 8, but it gave {found!r}."
    assert redis.llen("celery") == 0, "add(4, 4), called as a function, should send no message."


@pytest.mark.step("`add` logs `4 + 4` and then `8` with loguru, at DEBUG", "the-app")
def test_task_says_what_it_does_at_debug(worker, app):
    """from loguru import logger. Use logger.debug("asked: {} + {}", x, y) before the addition, and log the result after it."""
    assert_logged(worker, app, "tasks.add", (700001, 200002), " + ", "DEBUG")


@pytest.mark.step(
    '`add.delay(4, "4").get(timeout=10)` raises TypeError in the caller', "what-goes-wrong"
)
def test_exception_of_the_task_is_raised_in_the_caller(worker, app):
    """Let Python raise: don't catch the exception in the task, and don't convert its arguments."""
    with assert_raises(TypeError, 'add.delay(4, "4").get() should raise TypeError'):
        find_task(app, "tasks.add").delay(4, "4").get(timeout=10)
    worker.assert_log_exists("raised unexpected: TypeError", timeout=5)


# What follows is about Celery itself.


def test_argument_that_json_cannot_carry_is_not_sent(app, redis):
    with assert_raises(EncodeError, "add.delay({4}, {4}) should raise EncodeError"):
        find_task(app, "tasks.add").delay({4}, {4})
    assert redis.llen("celery") == 0, (
        "add.delay({4}, {4}) should send nothing, but a message was in the queue."
    )


def test_missing_argument_is_noticed_by_the_caller(app, redis):
    with assert_raises(TypeError, "add.delay(4) should raise TypeError"):
        find_task(app, "tasks.add").delay(4)
    assert redis.llen("celery") == 0, (
        "add.delay(4) should send nothing, but a message was in the queue."
    )


@pytest.mark.isolated(count=0)
def test_get_times_out_where_no_worker_runs(app):
    with assert_raises(CeleryTimeout, "With no worker, get(timeout=0.2) should raise TimeoutError"):
        find_task(app, "tasks.add").delay(4, 4).get(timeout=0.2)


def test_no_result_without_a_backend(app_under_test, monkeypatch):
    app = app_under_test.enter(monkeypatch)
    monkeypatch.delenv("CELERY_RESULT_BACKEND")
    app.conf.result_backend = None
    with assert_raises(
        NotImplementedError, "Without a result backend, get() should raise NotImplementedError"
    ):
        find_task(app, "tasks.add").delay(4, 4).get(timeout=5)


@pytest.mark.isolated(copy=True)
def test_edited_code_is_not_reloaded(celery_setup, app, app_under_test):
    for path in app_under_test.folder.rglob("*.py"):
        path.write_text("raise RuntimeError('edited')")
    assert_task_returns(app, "tasks.add", (4, 4), 8)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.isolated(slow_tasks=True)
def test_worker_that_is_stopped_finishes_its_task(worker, app, signal):
    result = app.tasks["slow.nap"].delay(0.5, "done")
    worker.assert_log_exists("nap of 0.5 s", timeout=5)
    worker.kill(signal)
    found = result.get(timeout=10)
    assert found == "done", (
        f"A worker that gets {signal} should finish its task, but the result is {found!r}."
    )
    ended = wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    assert ended, (
        f"A worker that gets {signal} should stop once its task is done, but it logged:\n{worker.logs()}"
    )
