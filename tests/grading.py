"""How a test says what it found: in one sentence, which names what was expected and what was there instead."""

import re
from contextlib import contextmanager
from pathlib import Path

from celery.exceptions import TimeoutError as CeleryTimeout
from course import ROOT, wait_until

# Seconds. A process of billiard's pool waits up to 30, when the worker ends, for the main process to note its last
# result, and now and then in vain.
WARM_STOP = 45


def short(folder):
    """Return a folder as a reader knows it."""
    folder = Path(folder)
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)


def described(error):
    """Return an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def ready(worker):
    """Wait until a worker's node is ready and return it; fail with the last line that it printed, and all others below."""
    # The line "celery@host ready." is at INFO; where the level is higher, the list of queues comes last.
    sign = "[queues]" if "--loglevel=warning" in worker.command else " ready."
    wait_until(lambda: sign in worker.logs() or worker.status == "exited", worker.patience)
    logs = worker.logs()
    said = [line.strip() for line in logs.splitlines() if line.strip()] or ["nothing"]
    kind = "stopped" if worker.status == "exited" else f"isn't ready after {worker.patience} seconds"
    assert sign in logs, (
        f"The worker should start, but it {kind}. The last thing it said is: {said[-1]}\n{logs}"
    )
    return worker


@contextmanager
def raises(kind, sentence):
    """Fail with this sentence unless the block raises this kind of exception."""
    try:
        yield
    except kind:
        return
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(f"{sentence}, but this was raised: {described(error)}") from None
    raise AssertionError(f"{sentence}, but nothing was raised.")


def own_tasks(app):
    """Return the names of the chapter's tasks, without Celery's, the tests' and pytest-celery's own."""
    return sorted(name for name in app.tasks if not name.startswith(("celery.", "slow.", "pytest_celery.")))


def task(app, name):
    """Return the task of this name, or fail."""
    assert name in app.tasks, (
        f"There should be a task {name}; the app has {', '.join(own_tasks(app)) or 'none'}."
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


def gives(what, result, wanted):
    """Fail unless this result arrives and is the wanted value, of the same type."""
    try:
        found = fetched(result)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        raise AssertionError(f"{what} should give {wanted!r}, but it raised {described(error)}") from None
    assert found == wanted and type(found) is type(wanted), (
        f"{what} should give {wanted!r}, but it gave {found!r}."
    )


def answers(app, name, arguments, wanted):
    """Fail unless the worker answers this call of a task with this value."""
    gives(f"{name}.delay{arguments!r}", task(app, name).delay(*arguments), wanted)


def lists(worker, names):
    """Fail unless the worker listed these tasks when it started."""
    listed = set(re.findall(r"^  \. (\S+)$", worker.logs().partition("[tasks]")[2], re.MULTILINE))
    missing = sorted(set(names) - listed)
    assert not missing, (
        f"The worker should list {', '.join(missing)} when it starts, but it listed {sorted(listed)}."
    )


def logs(worker, app, name, numbers, sign, level):
    """Fail unless a call of this task on these numbers logs the request, `x sign y`, and the answer, at this level.

    Return the lines that other modules logged for it. The numbers should be such as stand in no time stamp.
    """
    before = len(worker.logs())
    answer = str(fetched(task(app, name).delay(*numbers)))
    operands = [str(number) for number in (numbers[0] if isinstance(numbers[0], list) else numbers)]
    call = f"{name.rpartition('.')[2]}({', '.join(operands)})"

    def lines():
        """Loguru's lines about this call: (level, module:function:line, message)."""
        found = re.findall(r"^\S+ \S+ \| (\w+) +\| (\S+) - (.*)$", worker.logs()[before:], re.MULTILINE)
        return [each for each in found if operands[0] in each[2] or answer in each[2]]

    def own(text):
        return [each for each in lines() if each[1].startswith("tasks") and text in each[2]]

    wanted = {"what it was asked": sign.join(operands), "the answer": answer}
    wait_until(lambda: all(map(own, wanted.values())), 3)
    for what, text in wanted.items():
        assert own(text), f"{call} should log {what}, {text}, but it logged {own('') or 'nothing'}."
        strange = [each for each in own(text) if each[0] != level]
        assert not strange, f"{call} should log {what} at {level}, but it logged {strange[0]}."
    return [each for each in lines() if each not in own("")]


def has_setting(app, name, wanted):
    """Fail unless the app's configuration sets this, to this value; a function as the value is asked whether it fits."""
    assert name in app.conf.table(with_defaults=False), (
        f"The configuration should set {name}, but it doesn't."
    )
    found = getattr(app.conf, name)
    found = found.total_seconds() if hasattr(found, "total_seconds") else found
    fits = wanted(found) if callable(wanted) else found == wanted
    should = "" if callable(wanted) else f" to {wanted!r}"
    assert fits, f"The configuration should set {name}{should}, but it is {found!r}."
