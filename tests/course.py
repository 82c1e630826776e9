"""Where things are, and how a test says what it found."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).resolve().parent
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("[0-9]*-*") if path.is_dir())
# Modules that every chapter has under the same name.
OURS = {"tasks", "libs", "celeryconfig", "probe"}


def expect(condition, sentence):
    """Fail with this sentence, and without a traceback, unless the condition holds."""
    if not condition:
        pytest.fail(sentence, pytrace=False)


@contextmanager
def expect_raises(kind, sentence):
    """Fail with this sentence unless the block raises this kind of exception."""
    try:
        yield
    except kind:
        return
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        pytest.fail(f"{sentence}, and this was raised: {described(error)}", pytrace=False)
    pytest.fail(f"{sentence}, and nothing was raised.", pytrace=False)


def short(folder):
    """A folder as a reader knows it."""
    folder = Path(folder)
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)


def child_environment(url):
    """The environment of a chapter's processes: this stack's programs, the server of the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LOGURU_", "CELERY_"))}
    env["PATH"] = str(Path(sys.executable).parent) + os.pathsep + env.get("PATH", "")
    env["CELERY_BROKER_URL"] = env["CELERY_RESULT_BACKEND"] = url
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


def expect_gives(what, result, wanted):
    """Fail unless this result arrives and is the wanted value."""
    try:
        found = result.get(timeout=10)
    except Exception as error:  # noqa: BLE001  it becomes the sentence
        pytest.fail(f"{what} should give {wanted!r}, it raised {described(error)}", pytrace=False)
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
