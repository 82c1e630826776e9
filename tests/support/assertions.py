"""Assertions that fail with one sentence: what was expected, and what was found instead."""

import difflib
import importlib
import re
import sys
from collections import namedtuple
from contextlib import contextmanager

from celery.exceptions import TimeoutError as CeleryTimeout
from celery.exceptions import WorkerLostError
from support.patience import patience

from course.waiting import wait_until

# Seconds that a warm stop may take. A process of billiard's pool waits up to 30 for the main
# process to note its last result, and now and then in vain.
WARM_STOP = 60
NOT_THE_CHAPTERS = ("celery.", "slow.", "pytest_celery.")
# From chapter 11 on, the time is one word, and a task's id comes before the place.
LOGURU_LINE = re.compile(r"^\S+(?: \S+)? \| (\w+) +\| (?:\S+ \| )?(\S+) - (.*)$", re.MULTILINE)
# place is module:function:line.
LogLine = namedtuple("LogLine", "level place message")


def describe(error):
    """Return an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def wait_until_ready(worker):
    """Wait until a worker's node is ready, and return the node.

    Fails with the last line that the worker printed, and with its log below.
    """
    # "celery@host ready." is logged at INFO. At higher levels, the list of queues comes last.
    sign = "[queues]" if "--loglevel=warning" in worker.command else " ready."
    wait_until(lambda: sign in worker.logs() or worker.status == "exited", worker.ready_timeout)
    logs = worker.logs()
    if sign in logs:
        return worker
    printed = [line.strip() for line in logs.splitlines() if line.strip()]
    last = printed[-1] if printed else "nothing"
    state = f"isn't ready after {worker.ready_timeout} seconds"
    if worker.status == "exited":
        state = "stopped"
    raise AssertionError(
        f"The worker should start, but it {state}. The last thing it said is: {last}\n{logs}"
    )


def ask_workers(app, question, count=1, destination=None):
    """Return the answers of so many workers to a question of inspect, such as "active".

    Ask again if one doesn't answer: a worker is ready a moment before it hears questions.
    """
    inspect = app.control.inspect(destination, timeout=2, limit=count)
    answers = {}

    def ask():
        answers.update(getattr(inspect, question)() or {})
        return len(answers) >= count

    wait_until(ask, 60)
    return answers


@contextmanager
def assert_raises(kind, sentence):
    """Fail with this sentence unless the block raises this kind of exception."""
    try:
        yield
    except kind:
        return
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(f"{sentence}, but this was raised: {describe(error)}") from None
    raise AssertionError(f"{sentence}, but nothing was raised.")


def find_task(app, name):
    """Return the task of this name, or fail."""
    own = sorted(task for task in app.tasks if not task.startswith(NOT_THE_CHAPTERS))
    assert name in app.tasks, (
        f"There should be a task {name}, but the app has {', '.join(own) or 'none'}."
    )
    return app.tasks[name]


def longest_limit(app):
    """Return how many seconds the longest task of the chapter may take, or fail."""
    limits = []
    for name, task in app.tasks.items():
        if name.startswith(NOT_THE_CHAPTERS):
            continue
        limit = task.time_limit or app.conf.task_time_limit
        assert limit, f"Every task should have a hard time limit, but {name} has none."
        limits.append(limit)
    return max(limits)


def fetch(result):
    """Return the value of a result, which an attempt must give within 8 seconds.

    Celery subscribes to a result and then looks whether it is there, on two connections. A busy
    server may serve the second first, and a result that arrives in between, one in a thousand, is
    missed. The next get finds it.
    """
    try:
        return result.get(timeout=5)
    except CeleryTimeout:
        return result.get(timeout=patience(3))


def assert_returns(what, function, wanted):
    """Fail unless function() returns the wanted value, of the same type.

    what describes the call in the sentence.
    """
    try:
        found = function()
    except CeleryTimeout:
        seconds = 5 + patience(3)
        question = "does the task loop, wait, or print?"
        found_instead = f"returned nothing within {seconds} seconds: {question}"
    except WorkerLostError:
        found_instead = "ended the worker's process: does the task call exit?"
    except (Exception, SystemExit) as error:  # noqa: BLE001  it becomes the sentence
        found_instead = f"raised {describe(error)}"
    else:
        if found == wanted and type(found) is type(wanted):
            return
        found_instead = f"returned {found!r}."
    raise AssertionError(f"{what} should return {wanted!r}, but it {found_instead}")


def assert_result(what, result, wanted):
    """Fail unless this result arrives and is the wanted value, of the same type."""
    assert_returns(what, lambda: fetch(result), wanted)


def assert_task_returns(app, name, arguments, wanted):
    """Fail unless a call of this task by delay returns this value."""
    task = find_task(app, name)
    what = f"{name}.delay({', '.join(map(repr, arguments))})"
    assert_returns(what, lambda: fetch(task.delay(*arguments)), wanted)


def assert_exported(app, name):
    """Fail unless the package tasks exports the task of this name, and the task is this app's."""
    module, _, short = name.rpartition(".")
    found = getattr(importlib.import_module("tasks"), short, None)
    assert found is not None, (
        f"`from tasks import {short}` should work, but tasks/__init__.py has no {short}."
    )
    own = getattr(found, "name", found)
    assert own == name, f"tasks.{short} should be the task {name}, but it is {own}."
    assert found.app is app, (
        f"{module} should import the app that `celery -A tasks` finds, but it has another."
    )


def assert_listed(worker, names):
    """Fail unless the worker listed these tasks when it started."""
    banner = worker.logs().partition("[tasks]")[2]
    listed = re.findall(r"^  \. (\S+)$", banner, re.MULTILINE)
    missing = [name for name in sorted(names) if name not in listed]
    assert not missing, (
        f"The worker should list {', '.join(missing)} when it starts, but it listed {listed}."
    )


def assert_logged(worker, app, name, numbers, sign, level):
    """Fail unless a task logs its request and its answer with loguru, in this order and level.

    The request is `x sign y`; with an empty sign, it is the numbers in any form. The numbers
    should be ones that aren't in a time stamp. Return the LogLines of other modules for this call.
    """
    before = len(worker.logs())
    answer = str(fetch(find_task(app, name).delay(*numbers)))
    operands = [str(number) for number in numbers]
    if isinstance(numbers[0], list):
        operands = [str(number) for number in numbers[0]]
    request = [sign.join(operands)] if sign else operands
    call = f"{name.rpartition('.')[2]}({', '.join(operands)})"

    # A process has logged by the time of its answer; a container's log may arrive later.
    wait_until(
        lambda: (
            find_lines(own_lines(worker, before), request)
            and find_lines(own_lines(worker, before), [answer])
        ),
        patience(0.2),
    )
    lines = own_lines(worker, before)
    logged = " and ".join(f'"{line.message}" at {line.level}' for line in lines) or "nothing"
    requests = find_lines(lines, request)
    answers = find_lines(lines, [answer])
    assert requests, (
        f"{call} should log what it was asked with loguru, {', '.join(request)}, "
        f"but its module logged {logged}."
    )
    assert answers, (
        f"{call} should log the answer with loguru, {answer}, but its module logged {logged}."
    )
    for line in requests + answers:
        assert line.level == level, (
            f"{call} should log what it was asked and the answer at {level}, "
            f"but its module logged {logged}."
        )
    assert lines.index(requests[0]) <= lines.index(answers[-1]), (
        f"{call} should log what it was asked before the answer, but its module logged {logged}."
    )
    others = [line for line in log_lines(worker, before) if not is_own(line)]
    return [line for line in others if operands[0] in line.message or answer in line.message]


def assert_calls_into(file, task, *arguments):
    """Fail unless a call of this task, as a function, runs code of this file."""
    files = set()

    def note_file(frame, event, argument):
        files.add(frame.f_code.co_filename)

    sys.setprofile(note_file)
    try:
        found = task(*arguments)
    finally:
        sys.setprofile(None)
    assert str(file) in files, (
        f"{task.__name__} should call a function of libs/{file.name},"
        f" but it returned {found!r} without."
    )


def log_lines(worker, start):
    """Return the lines that a worker has logged with loguru from this position of its log on."""
    return [LogLine(*found) for found in LOGURU_LINE.findall(worker.logs()[start:])]


def is_own(line):
    """Return whether a module of tasks logged a line."""
    return line.place.startswith("tasks")


def own_lines(worker, start):
    """Return the LogLines of the modules of tasks."""
    return [line for line in log_lines(worker, start) if is_own(line)]


def find_lines(lines, texts):
    """Return the LogLines whose message has all these texts."""
    return [line for line in lines if all(text in line.message for text in texts)]


def suggest_setting(app, name):
    """Return a question about a setting of the app that looks like a misspelt name, or ""."""
    known = app.conf.maps[-1]
    unknown = [setting for setting in app.conf.table(with_defaults=False) if setting not in known]
    for setting in difflib.get_close_matches(name, unknown, n=1, cutoff=0.8):
        return f"; did you mean {name} by {setting}?"
    return "."


def assert_setting(app, name, wanted, prefix=()):
    """Fail unless the app's configuration sets this to the wanted value.

    With a prefix, or a tuple of them, the value must begin with it, and wanted describes it.
    """
    sentence = f"The app's configuration should set {name} to {wanted}"
    assert name in app.conf.table(with_defaults=False), (
        f"{sentence}, but it doesn't set it{suggest_setting(app, name)}"
    )
    found = getattr(app.conf, name)
    if hasattr(found, "total_seconds"):
        found = found.total_seconds()
    if prefix:
        is_as_wanted = str(found).startswith(prefix)
    else:
        is_as_wanted = found == wanted
    assert is_as_wanted, f"{sentence}, but it is {found!r}."


def assert_setting_includes(app, name, wanted):
    """Fail unless a setting, a dict, has at least these items."""
    found = getattr(app.conf, name) or {}
    missing = {key: value for key, value in wanted.items() if found.get(key) != value}
    suggestion = "."
    if not found:
        suggestion = suggest_setting(app, name)
    assert not missing, f"{name} should have {missing}, but it is {found}{suggestion}"


def assert_redis_url(app, monkeypatch, name):
    """Fail unless the app itself, without the environment, sets this to a URL of Redis."""
    monkeypatch.delenv(f"CELERY_{name.upper()}")
    assert_setting(app, name, "a URL of Redis", ("redis://", "rediss://", "redis+socket://"))


def assert_chapter_2_settings(app, monkeypatch):
    """Fail unless the settings of chapter 2 apply."""
    for name in ("broker_url", "result_backend"):
        assert_redis_url(app, monkeypatch, name)
    assert_setting(app, "result_expires", 3600)
