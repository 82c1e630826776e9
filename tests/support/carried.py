"""What a chapter takes over from the one before: settings, and the options of tasks.

It is read from the chapter before, and not listed anywhere. A lesson that changes something of it
shows the changed lines.
"""

import fnmatch
import importlib
import multiprocessing
import os
import re
import runpy
import sys
from functools import cache

from celery.app.defaults import DEFAULTS
from support.assertions import (
    assert_setting,
    assert_setting_includes,
    find_task,
    suggest_setting,
)
from support.celery_internals import forget_tasks_of_other_apps

from course.chapters import PREVIOUS, ROOT, find_chapter
from course.environment import environment
from course.lesson import read_lesson

# The tests' own server is the broker and the result backend of an app under test.
URLS = ("broker_url", "result_backend")
OPTIONS = ["acks_late", "ignore_result", "max_retries", "rate_limit", "reject_on_worker_lost"]
OPTIONS += ["retry_backoff", "retry_backoff_max", "retry_jitter", "serializer", "track_started"]
# A fork has imported Celery.
FORK = multiprocessing.get_context("fork")


def find_chapters_with_settings():
    """Return the chapters whose previous chapter has a celeryconfig.py."""
    chapters = []
    for chapter, previous in PREVIOUS.items():
        if (ROOT / "chapters" / previous / "celeryconfig.py").exists():
            chapters.append(chapter)
    return chapters


def read_settings(chapter):
    """Return the settings in the celeryconfig.py of one of the course's chapters."""
    namespace = runpy.run_path(str(ROOT / "chapters" / chapter / "celeryconfig.py"))
    return {name: value for name, value in namespace.items() if name in DEFAULTS}


def listed_code(chapter, file):
    """Return all that a chapter's lesson lists of a file."""
    return "\n".join(read_lesson(chapter).listings(file))


def listed_settings(chapter):
    """Return the names of the settings that a chapter's lesson sets or changes."""
    return re.findall(r"^(\w+) = ", listed_code(chapter, "celeryconfig.py"), re.MULTILINE)


def carried_settings(chapter):
    """Return the settings of the chapter before that a chapter's lesson doesn't change."""
    settings = read_settings(PREVIOUS[chapter])
    for name in listed_settings(chapter):
        settings.pop(name, None)
    return settings


def carried_tasks(number):
    """Return the names of the tasks that the chapter before has."""
    return list(read_tasks(PREVIOUS[find_chapter(number)]))


def assert_carried_settings(app, number):
    """Fail unless an app has the settings that this chapter takes over, and perhaps others.

    What a setting is worth counts, and not how it is written: queues may be Queue objects, and
    patterns of routes or names in the schedule may be others.
    """
    for name, wanted in carried_settings(find_chapter(number)).items():
        if name in URLS:
            continue
        if name == "task_queues":
            assert_queues(app, wanted)
        elif name == "task_routes":
            assert_routes(app, wanted)
        elif name == "beat_schedule":
            assert_schedule(app, wanted)
        elif isinstance(wanted, dict):
            assert_setting_includes(app, name, wanted)
        else:
            assert_setting(app, name, wanted)


def assert_carried_tasks(app, number):
    """Fail unless an app has the tasks that this chapter takes over, with their limits.

    Time limits may be set in the decorator or for all tasks. A lesson that sets them for all
    decides on them anew.
    """
    chapter = find_chapter(number)
    for name, wanted in read_tasks(PREVIOUS[chapter]).items():
        task = find_task(app, name)
        assert task.max_retries == wanted["max_retries"], (
            f"max_retries of {name} should be {wanted['max_retries']}, as in the chapter before,"
            f" but it is {task.max_retries}."
        )
        for option in ("soft_time_limit", "time_limit"):
            if wanted[option] is None or f"task_{option}" in listed_settings(chapter):
                continue
            found = getattr(task, option) or app.conf[f"task_{option}"]
            assert found == wanted[option], (
                f"{option} of {name} should be {wanted[option]}, as in the chapter before, but it"
                f" is {found}."
            )


def assert_queues(app, wanted):
    missing = set(wanted) - set(app.amqp.queues)
    assert not missing, (
        f"task_queues should have {', '.join(sorted(missing))}, as in the chapter before, but the"
        f" queues are {', '.join(app.amqp.queues)}{suggest_setting(app, 'task_queues')}"
    )


def assert_routes(app, wanted):
    for pattern, options in wanted.items():
        for name in fnmatch.filter(app.tasks, pattern):
            found = app.amqp.router.route({}, name)["queue"].name
            assert found == options["queue"], (
                f"task_routes should send {name} to the queue {options['queue']}, as in the chapter"
                f" before, but it is sent to {found}{suggest_setting(app, 'task_routes')}"
            )


def assert_schedule(app, wanted):
    found = []
    for entry in (app.conf.beat_schedule or {}).values():
        found.append((entry["task"], entry["schedule"]))
    for entry in wanted.values():
        task, schedule = entry["task"], entry["schedule"]
        assert (task, schedule) in found, (
            f"beat_schedule should send {task} by {schedule}, as in the chapter before, but it has"
            f" {found or 'no entry'}{suggest_setting(app, 'beat_schedule')}"
        )


@cache
def read_tasks(chapter):
    """Return the options of each task of one of the course's chapters, by the tasks' names."""
    reader, writer = FORK.Pipe(duplex=False)
    process = FORK.Process(target=send_tasks, args=(writer, ROOT / "chapters" / chapter))
    process.start()
    writer.close()
    try:
        return reader.recv()
    except EOFError:
        raise AssertionError(f"The tasks of {chapter} should be found.") from None
    finally:
        reader.close()
        process.join()


def send_tasks(writer, folder):
    """Import the app of a folder, and send what read_tasks returns: in a process of its own."""
    os.environ.clear()
    os.environ.update(environment())
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    forget_tasks_of_other_apps()
    # The modules of other chapters have the same names.
    names = {path.stem for path in folder.iterdir()}
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]
    app = importlib.import_module("tasks.celery").app
    found = {}
    for name, task in app.tasks.items():
        if name.startswith("tasks."):
            found[name] = describe_task(app, task)
    writer.send(found)


def describe_task(app, task):
    """Return the options of a task, wherever they are set."""
    options = {option: getattr(task, option, None) for option in OPTIONS}
    exceptions = getattr(task, "autoretry_for", ())
    options["autoretry_for"] = [exception.__name__ for exception in exceptions]
    options["queue"] = app.amqp.router.route({}, task.name)["queue"].name
    options["soft_time_limit"] = task.soft_time_limit or app.conf.task_soft_time_limit
    options["time_limit"] = task.time_limit or app.conf.task_time_limit
    return options


def listed_tasks(chapter):
    """Return the names of the tasks whose definition a chapter's lesson shows."""
    names = []
    for name in read_tasks(chapter):
        module, _, function = name.rpartition(".")
        listed = listed_code(chapter, f"{module.replace('.', '/')}.py")
        if re.search(rf"^def {function}\(", listed, re.MULTILINE):
            names.append(name)
    return names
