"""How a test says what it found: in one sentence, which names what was expected and what was there instead."""

import difflib
import importlib
import os
import re
from contextlib import contextmanager

from celery.exceptions import TimeoutError as CeleryTimeout
from celery.exceptions import WorkerLostError

from course.waiting import wait_until

# Seconds. A process of billiard's pool waits up to 30, when the worker ends, for the main process to note its last
# result, and now and then in vain.
WARM_STOP = 45


def describe(error):
    """Return an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def wait_until_ready(worker):
    """Wait until a worker's node is ready and return it; fail with the last line that it printed, and all others below."""
    # The line "celery@host ready." is at INFO; where the level is higher, the list of queues comes last.
    sign = "[queues]" if "--loglevel=warning" in worker.command else " ready."
    wait_until(lambda: sign in worker.logs() or worker.status == "exited", worker.patience)
    logs = worker.logs()
    said = [line.strip() for line in logs.splitlines() if line.strip()] or ["nothing"]
    kind = (
        "stopped" if worker.status == "exited" else f"isn't ready after {worker.patience} seconds"
    )
    last = f"The last thing it said is: {said[-1]}\n{logs}"
    assert sign in logs, f"The worker should start, but it {kind}. {last}"
    return worker


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
    own = sorted(
        each for each in app.tasks if not each.startswith(("celery.", "slow.", "pytest_celery."))
    )
    assert name in app.tasks, (
        f"There should be a task {name}; the app has {', '.join(own) or 'none'}."
    )
    return app.tasks[name]


def fetch(result):
    """Return what a result gives within 8 seconds.

    To wait, Celery subscribes and then looks whether the result is there, on two connections. A busy server may take
    the look first: a result that arrives in between is missed, about one of a thousand, and found by the next get.
    """
    try:
        return result.get(timeout=5)
    except CeleryTimeout:
        return result.get(timeout=3)


def assert_returns(what, function, wanted):
    """Fail unless function() returns the wanted value, of the same type."""
    why = ""
    try:
        found = function()
    except (Exception, SystemExit) as error:  # noqa: BLE001  it becomes the sentence
        if isinstance(error, CeleryTimeout):
            why = "gave nothing within 8 seconds: does the task loop, wait, or print without end?"
        elif isinstance(error, WorkerLostError):
            why = "ended the worker's process: does the task call exit?"
        else:
            why = f"raised {describe(error)}"
    assert not why, f"{what} should give {wanted!r}, it {why}"
    same = found == wanted and type(found) is type(wanted)
    assert same, f"{what} should give {wanted!r}, but it gave {found!r}."


def assert_result(what, result, wanted):
    """Fail unless this result arrives and is the wanted value, of the same type."""
    assert_returns(what, lambda: fetch(result), wanted)


def assert_task_returns(app, name, arguments, wanted):
    """Fail unless the worker answers this call of a task with this value."""
    call = find_task(app, name)
    what = f"{name}.delay({', '.join(map(repr, arguments))})"
    assert_returns(what, lambda: fetch(call.delay(*arguments)), wanted)


def assert_exported(app, name):
    """Fail unless the package tasks offers the task of this name, and it is this app's."""
    module, _, short = name.rpartition(".")
    found = getattr(importlib.import_module("tasks"), short, None)
    assert found is not None, (
        f"`from tasks import {short}` should work: tasks/__init__.py has no {short}."
    )
    own = getattr(found, "name", found)
    assert own == name, f"tasks.{short} should be the task {name}, but it is {own}."
    assert found.app is app, (
        f"{module} should import the app that `celery -A tasks` finds; it has another."
    )


def assert_listed(worker, names):
    """Fail unless the worker listed these tasks when it started."""
    listed = set(re.findall(r"^  \. (\S+)$", worker.logs().partition("[tasks]")[2], re.MULTILINE))
    missing = ", ".join(sorted(set(names) - listed))
    assert not missing, (
        f"The worker should list {missing} when it starts, but it listed {sorted(listed)}."
    )


def assert_logged(worker, app, name, numbers, sign, level):
    """Fail unless a call of this task on these numbers logs the request, `x sign y`, then the answer, at this level.

    Without a sign, the request has the numbers in any form. Return the lines that other modules logged for it. The
    numbers should be such as stand in no time stamp.
    """
    before = len(worker.logs())
    answer = str(fetch(find_task(app, name).delay(*numbers)))
    operands = [str(number) for number in (numbers[0] if isinstance(numbers[0], list) else numbers)]
    call = f"{name.rpartition('.')[2]}({', '.join(operands)})"

    pattern = re.compile(r"^\S+ \S+ \| (\w+) +\| (\S+) - (.*)$", re.MULTILINE)

    def lines(*texts, own=True):
        """Loguru's lines since then, of the task's layer or of others: (level, module:function:line, message)."""
        found = pattern.findall(worker.logs()[before:])
        found = [each for each in found if each[1].startswith("tasks") == own]
        return [each for each in found if all(text in each[2] for text in texts)]

    asked = [sign.join(operands)] if sign else operands
    # What a process logged is there before its answer is; a container's log may come later.
    wait_until(lambda: lines(*asked) and lines(answer), 0.2 if os.environ.get("DIR") else 3)
    said = " and ".join(f'"{message}" at {its}' for its, _, message in lines()) or "nothing"
    for what, texts in {"what it was asked": asked, "the answer": [answer]}.items():
        wanted, found = ", ".join(texts), lines(*texts)
        assert found, (
            f"{call} should log {what} with loguru, {wanted}, and its module logged {said}."
        )
        right = all(each[0] == level for each in found)
        assert right, f"{call} should log {what} at {level}, and its module logged {said}."
    in_order = lines().index(lines(*asked)[0]) <= lines().index(lines(answer)[-1])
    assert in_order, (
        f"{call} should log what it was asked before the answer, and its module logged {said}."
    )
    return [each for each in lines(own=False) if operands[0] in each[2] or answer in each[2]]


def suggest_setting(app, name):
    """Return a question about a setting of the app that looks like a misspelt name, or ""."""
    known = app.conf.maps[-1]
    unknown = [setting for setting in app.conf.table(with_defaults=False) if setting not in known]
    for setting in difflib.get_close_matches(name, unknown, n=1, cutoff=0.8):
        return f"; did you mean {name} by {setting}?"
    return "."


def assert_setting(app, name, wanted, prefix=()):
    """Fail unless the app's configuration sets this, to this value, or to what begins with one of these."""
    sentence = f"The app's configuration should set {name} to {wanted}"
    assert name in app.conf.table(with_defaults=False), (
        f"{sentence}, but it doesn't set it{suggest_setting(app, name)}"
    )
    found = getattr(app.conf, name)
    found = found.total_seconds() if hasattr(found, "total_seconds") else found
    fits = str(found).startswith(prefix) if prefix else found == wanted
    assert fits, f"{sentence}, but it is {found!r}."


def assert_setting_includes(app, name, wanted):
    """Fail unless a setting, a dict, has at least these items."""
    found = getattr(app.conf, name) or {}
    missing = {key: value for key, value in wanted.items() if found.get(key) != value}
    suggestion = "."
    if not found:
        suggestion = suggest_setting(app, name)
    assert not missing, f"{name} should have {missing}, but it is {found}{suggestion}"


def assert_redis_url(app, monkeypatch, name):
    """Fail unless the app itself says, whatever the environment does, that this is in Redis."""
    monkeypatch.delenv(f"CELERY_{name.upper()}")
    assert_setting(app, name, "a URL of Redis", ("redis://", "rediss://", "redis+socket://"))


def assert_chapter_2_settings(app, monkeypatch):
    """Fail unless chapter 2's settings apply."""
    for name in ("broker_url", "result_backend"):
        assert_redis_url(app, monkeypatch, name)
    assert_setting(app, "result_expires", 3600)
