"""Where things are, and how a test says what it found."""

import os
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout
from pytest_docker_tools.exceptions import ContainerFailed
from pytest_docker_tools.exceptions import TimeoutError as NodeTimeout

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).resolve().parent
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("[0-9]*-*") if path.is_dir())
# Modules that every chapter has under the same name.
OURS = {"tasks", "libs", "celeryconfig", "probe"}
# Seconds. A process of billiard's pool waits up to 30, when the worker ends, for the main process to note its last
# result, and now and then in vain.
WARM_STOP = 45
# What chapter 2 sets, and the later ones keep.
SETTINGS = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "timezone": "UTC",
    "enable_utc": True,
    "result_expires": 3600,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_transport_options": {"visibility_timeout": 3600},
}


def wait_until(condition, seconds=10.0):
    """Poll condition() until it is true; return its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


def free_port():
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fail(sentence):
    """Fail with this sentence, without a traceback and without the exception that it is about."""
    raise pytest.fail.Exception(sentence, pytrace=False) from None


def expect(condition, sentence):
    """Fail with this sentence unless the condition holds."""
    if not condition:
        fail(sentence)


def expect_ready(worker):
    """Wait until a worker is ready, or fail with the last line that it printed, and all others below."""
    try:
        worker.ready()
    except (ContainerFailed, NodeTimeout) as error:
        said = [line.strip() for line in worker.logs().splitlines() if line.strip()] or ["nothing"]
        fail(f"The worker should start, and did not. The last it said is {said[-1]}\n{error}")


@contextmanager
def expect_raises(kind, sentence):
    """Fail with this sentence unless the block raises this kind of exception."""
    try:
        yield
    except kind:
        return
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        fail(f"{sentence}, and this was raised: {described(error)}")
    fail(f"{sentence}, and nothing was raised.")


def short(folder):
    """A folder as a reader knows it."""
    folder = Path(folder)
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)


def child_environment(broker="", backend=""):
    """The environment of a chapter's processes: this stack's programs, the server of the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LOGURU_", "CELERY_"))}
    env["PATH"] = str(Path(sys.executable).parent) + os.pathsep + env.get("PATH", "")
    env["CELERY_BROKER_URL"], env["CELERY_RESULT_BACKEND"] = broker, backend
    return env


def forget_modules():
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS:
            del sys.modules[name]


def own_tasks(app):
    """The names of the chapter's tasks, without Celery's, the tests' and pytest-celery's own."""
    others = ("celery.", "probe.", "pytest_celery.")
    return sorted(name for name in app.tasks if not name.startswith(others))


def task(app, name):
    """Return the task of this name, or fail."""
    expect(
        name in app.tasks,
        f"There should be a task {name}; the app has {', '.join(own_tasks(app)) or 'none'}.",
    )
    return app.tasks[name]


def fetched(result):
    """Return what a result gives within 10 seconds.

    To wait, Celery subscribes and then looks whether the result is there, on two connections. A busy server may take
    the look first: a result that arrives in between is missed, about one of a thousand, and found by the next get.
    """
    try:
        return result.get(timeout=5)
    except CeleryTimeout:
        return result.get(timeout=5)


def expect_gives(what, result, wanted):
    """Fail unless this result arrives and is the wanted value."""
    try:
        found = fetched(result)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        fail(f"{what} should give {wanted!r}, it raised {described(error)}")
    expect(
        found == wanted and type(found) is type(wanted), f"{what} should give {wanted!r}, it gave {found!r}."
    )


def expect_result(app, name, arguments, wanted):
    """Fail unless the worker answers this call with this value."""
    expect_gives(f"{name}.delay{arguments!r}", task(app, name).delay(*arguments), wanted)


def described(error):
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def expect_listed(worker, names):
    """Fail unless the worker listed these tasks when it started."""
    text = worker.container.stdout().partition("[tasks]")[2]
    listed = {line.split()[-1] for line in text.splitlines() if line.strip().startswith(". ")}
    missing = sorted(set(names) - listed)
    expect(
        not missing,
        f"The worker should list {', '.join(missing)} when it starts; it listed {sorted(listed)}.",
    )


def expect_logged(worker, app, name, numbers, level):
    """Fail unless a call of this task on these numbers logs the request and the answer, at this level.

    Return the lines that other modules logged for it, the functions of libs. The numbers should be such
    as stand in no time stamp.
    """
    before = len(worker.container.stderr())
    answer = task(app, name).delay(*numbers).get(timeout=10)
    operands = [str(number) for number in (numbers[0] if isinstance(numbers[0], list) else numbers)]
    function = name.rpartition(".")[2]

    def lines():
        about = [line for line in worker.container.stderr()[before:].splitlines() if line.count(" | ") >= 2]
        return [line for line in about if operands[0] in line or str(answer) in line]

    def parts():
        own = [line for line in lines() if line.split(" | ")[2].startswith("tasks")]
        asked = [line for line in own if all(each in line for each in operands)]
        return own, asked, [line for line in own if str(answer) in line]

    wait_until(lambda: all(parts()), 3)
    own, asked, answered = parts()
    call = f"{function}({', '.join(operands)})"
    expect(asked, f"{call} should log what it was asked, and logged {own or 'nothing'}.")
    expect(answered, f"{call} should log the answer, {answer}, and logged {own}.")
    for line in asked + answered:
        expect(f"| {level} " in line, f"{call} should log at {level}, it logged: {line}")
    expect("| DEBUG" not in worker.container.stdout(), "Loguru should write to stderr, and wrote to stdout.")
    return [line for line in lines() if line not in own]


def expect_settings(app, monkeypatch):
    """Fail unless the app has the settings of chapter 2's celeryconfig.py."""
    for name in ("broker_url", "result_backend"):
        expect_url(app, monkeypatch, name)
    for name in SETTINGS:
        expect_setting(app, name)


def expect_url(app, monkeypatch, name):
    monkeypatch.delenv(f"CELERY_{name.upper()}", raising=False)
    expect(name in app.conf.table(with_defaults=False), f"The configuration should set {name}, and does not.")
    found = str(getattr(app.conf, name))
    expect(found.startswith("redis://"), f"{name} should be a redis:// URL, it is {found!r}.")


def expect_setting(app, name):
    wanted = SETTINGS[name]
    is_set = name in app.conf.table(with_defaults=False)
    expect(is_set, f"The configuration should set {name} = {wanted!r}, and does not.")
    found = plain(getattr(app.conf, name))
    if isinstance(wanted, dict):
        found = {key: found.get(key) for key in wanted}
    expect(found == wanted, f"The configuration should set {name} = {wanted!r}, it sets {found!r}.")


def plain(value):
    """A setting in the form that the lesson writes it in."""
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return list(value) if isinstance(value, (tuple, set)) else value
