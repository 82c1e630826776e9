"""Chapter 1: an app, a task, a worker, a result."""

import shutil
import time

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
    describe,
    find_task,
    wait_until_ready,
)
from support.nodes import IGNORED, AppUnderTest
from support.patience import patience

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
    """Write the same URL twice: Celery("tasks", broker=url, backend=url), where the URL is
    "redis://127.0.0.1:6379/0"."""
    assert_redis_url(app, monkeypatch, name)


@pytest.mark.step("`add.delay(4, 4).get(timeout=10)` gives 8", "call-the-task")
@pytest.mark.parametrize("numbers, result", [((4, 4), 8), ((2, 5), 7)])
def test_worker_adds(celery_setup, app, numbers, result):
    """The task takes x and y and returns their sum; printing it isn't enough. Its result is kept
    without any option."""
    assert_task_returns(app, "tasks.add", numbers, result)


@pytest.mark.step("once fetched, a result is ready, and its state is SUCCESS", "call-the-task")
def test_delay_returns_a_result_that_becomes_ready(celery_setup, app):
    """The result backend keeps a result unless the task says ignore_result=True."""
    result = find_task(app, "tasks.add").delay(1, 2)
    assert len(result.id) == 36, (
        f"The result of delay should have an id of 36 characters, but it is {result.id!r}."
    )
    assert_result("add.delay(1, 2)", result, 3)
    state = result.state
    assert state == "SUCCESS", f"A fetched result should be in the state SUCCESS, not {state}."
    assert result.ready(), "A fetched result should be ready, but ready() returned False."


@pytest.mark.step("`add(4, 4)` gives 8 too, in the caller, and sends no message", "call-the-task")
def test_add_is_a_plain_call_here(app, redis):
    """A decorated function is still a function: call add itself, not delay."""
    found = find_task(app, "tasks.add")(4, 4)
    assert found == 8, (
        f"add(4, 4), called as a function, should return 8, but it returned {found!r}."
    )
    assert redis.llen("celery") == 0, "add(4, 4), called as a function, should send no message."


@pytest.mark.step("`add` logs `4 + 4` and then `8` with loguru, at DEBUG", "the-app")
def test_task_says_what_it_does_at_debug(worker, app):
    """from loguru import logger. Use logger.debug("asked: {} + {}", x, y) before the addition, and
    log the result after it."""
    assert_logged(worker, app, "tasks.add", (700001, 200002), " + ", "DEBUG")


@pytest.mark.step(
    '`add.delay(4, "4").get(timeout=10)` raises TypeError in the caller', "what-goes-wrong"
)
def test_exception_of_the_task_is_raised_in_the_caller(worker, app):
    """Let Python raise: don't catch the exception in the task, and don't convert its arguments."""
    with assert_raises(TypeError, 'add.delay(4, "4").get() should raise TypeError'):
        find_task(app, "tasks.add").delay(4, "4").get(timeout=30)
    worker.assert_log_exists("raised unexpected: TypeError", timeout=patience(5))


@pytest.mark.star("a second task, `tasks.power`, returns x to the power of y", "the-app")
def test_star_power(celery_setup, app):
    """In tasks.py, write power(x, y) as you wrote add(x, y), decorated with @app.task."""
    assert_task_returns(app, "tasks.power", (2, 10), 1024)
    assert_task_returns(app, "tasks.power", (3, 2), 9)


# What follows is about Celery itself.


def test_a_call_takes_milliseconds(celery_setup, app):
    add = find_task(app, "tasks.add")
    seconds = []
    while len(seconds) < 20 or (len(seconds) < 200 and min(seconds) >= 0.01):
        begin = time.perf_counter()
        add.delay(4, 4)
        seconds.append(time.perf_counter() - begin)
    fastest = min(seconds)
    assert fastest < 0.01, (
        f"The fastest call should take milliseconds, but it took {fastest:.3f} s."
    )


# These lines are added to a copy of tasks.py: exceptions that the client can rebuild, and not.
EXCEPTIONS = """

class Plain(Exception):
    pass


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


@app.task
def fail(name):
    if name == "Refused":
        raise Refused(503, "come back")
    kinds = {"KeyError": KeyError, "Plain": Plain}
    raise kinds[name](503, "come back")
"""


@pytest.fixture
def fail(nodes, folder, tmp_path, monkeypatch):
    """The task `fail(name)`, which raises the exception of this name, of a copy with a worker."""
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=IGNORED)
    with (copy / "tasks.py").open("a") as file:
        file.write(EXCEPTIONS)
    made = AppUnderTest(nodes, copy)
    app = made.enter(monkeypatch)
    wait_until_ready(made.workers[0])
    yield find_task(app, "tasks.fail")
    made.forget_modules()
    made.close()


def test_an_exception_arrives_if_it_can_be_rebuilt_from_its_arguments(fail):
    for name in ("KeyError", "Plain"):
        raised = fail.delay(name).get(timeout=30, propagate=False)
        assert type(raised).__name__ == name, (
            f"get should raise {name}, but it raises {describe(raised)}."
        )
        assert raised.args == (503, "come back"), (
            f"{name} should arrive with its arguments, but it has {raised.args}."
        )
    raised = fail.delay("Refused").get(timeout=30, propagate=False)
    assert type(raised).__name__ != "Refused", (
        f"An exception with other arguments should not arrive as it was, but it is {raised!r}."
    )
    text = str(raised) + repr(raised)
    assert "Refused" in text and "503: come back" in text, (
        f"What arrives instead of Refused should name it, but it is {raised!r}."
    )


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
    result = find_task(app, "tasks.add").delay(4, 4)
    with assert_raises(
        NotImplementedError, "Without a result backend, get() should raise NotImplementedError"
    ):
        result.get(timeout=5)
    with assert_raises(
        AttributeError, "Without a result backend, state should raise AttributeError"
    ):
        _ = result.state
    with assert_raises(
        AttributeError, "Without a result backend, ready() should raise AttributeError"
    ):
        result.ready()


@pytest.mark.isolated(copy=True)
def test_edited_code_is_not_reloaded(celery_setup, app, app_under_test):
    for path in app_under_test.folder.rglob("*.py"):
        path.write_text("raise RuntimeError('edited')")
    assert_task_returns(app, "tasks.add", (4, 4), 8)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
@pytest.mark.isolated(slow_tasks=True)
def test_worker_that_is_stopped_finishes_its_task(worker, app, redis, signal):
    result = app.tasks["slow.held"].delay("done")
    wait_until(lambda: redis.get("begun"))
    worker.kill(signal)
    worker.wait_for_log("Warm shutdown")
    redis.set("released", 1)
    found = result.get(timeout=30)
    assert found == "done", (
        f"A worker that gets {signal} should finish its task, but the result is {found!r}."
    )
    ended = wait_until(lambda: worker.container.status == "exited", WARM_STOP)
    assert ended, (
        f"A worker that gets {signal} should stop once its task is done, "
        f"but it logged:\n{worker.logs()}"
    )
