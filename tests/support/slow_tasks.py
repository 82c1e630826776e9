"""The chapter's app with additional, slow tasks, and with settings from the environment.

Tests start a worker on it with `celery -A slow_tasks`, so that the chapter's files stay as they
are. SLOW_TASKS_SETTINGS has settings as JSON. SLOW_TASKS_LOOK is how often, in seconds, the worker
looks for killed processes.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from urllib.error import HTTPError

from celery.app.utils import find_app
from loguru import logger
from redis import exceptions

app = find_app("tasks")
app.conf.update(json.loads(os.environ.get("SLOW_TASKS_SETTINGS", "{}")))
if "SLOW_TASKS_LOOK" in os.environ:
    from celery_internals import look_for_killed_processes_every

    look_for_killed_processes_every(float(os.environ["SLOW_TASKS_LOOK"]))


@app.task(name="slow.nap")
def nap(seconds, note=None):
    """Sleep, and return the note."""
    logger.info("nap of {} s", seconds)
    time.sleep(seconds)
    return note


@app.task(name="slow.interrupted")
def interrupted(key="runs"):
    """Count the runs in Redis; take half a minute in the first run, and no time in later ones."""
    runs = app.backend.client.incr(key)
    if runs == 1:
        time.sleep(30)
    return runs


@app.task(name="slow.say")
def say(text):
    """Print a text, and return it."""
    print(text)
    return text


# The same task with each combination of two options, whatever the chapter's settings are.
for late in (False, True):
    for reject in (False, True):
        app.task(name=f"slow.{late=},{reject=}", acks_late=late, reject_on_worker_lost=reject)(
            interrupted.run
        )


@app.task(name="slow.second_try", bind=True)
def second_try(self):
    """Retry once, after six seconds; return the number of retries."""
    if not self.request.retries:
        raise self.retry(countdown=6)
    return self.request.retries


@app.task(name="slow.unsent", bind=True)
def unsent(self):
    """Ask for a retry whose message can't be sent."""
    raise self.retry(countdown=0, serializer="none such")


class Refused(Exception):
    """An exception whose constructor takes other arguments than it passes on."""

    def __init__(self, code, text):
        super().__init__(f"{code} {text}")


@app.task(name="slow.refused", autoretry_for=(Refused,), default_retry_delay=1, max_retries=2)
def refused():
    """Raise an exception that can't be rebuilt."""
    raise Refused(503, "down")


@app.task(
    name="slow.hopeful",
    autoretry_for=(Exception,),
    default_retry_delay=1,
    max_retries=1,
    soft_time_limit=1,
)
def hopeful():
    """Count the runs in Redis; reach the soft limit each time."""
    app.backend.client.incr("runs")
    time.sleep(5)


@app.task(name="slow.http", autoretry_for=(HTTPError,), default_retry_delay=1, max_retries=1)
def http():
    """Raise the exception that urlopen raises if a server answers 503."""
    body = open(os.devnull, "rb")  # noqa: SIM115  as open as that of urlopen
    raise HTTPError("http://127.0.0.1:8099", 503, "Service Unavailable", {}, body)


@app.task(name="slow.held")
def held(note=None):
    """Count in Redis how often this begins and ends; in between, wait for the key `released`.
    Return the note."""
    app.backend.client.incr("begun")
    end = time.monotonic() + 120
    while not is_released() and time.monotonic() < end:
        time.sleep(0.1)
    app.backend.client.incr("ended")
    return note


def is_released():
    """Return whether a test has set the key; no, if it has just cut the connection."""
    with suppress(exceptions.ConnectionError):
        return app.backend.client.exists("released")
    return False


@app.task(name="slow.poison", max_retries=2, default_retry_delay=1)
def poison():
    """Count the runs in Redis; kill this process each time."""
    app.backend.client.incr("runs")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="slow.process")
def process(seconds):
    """Sleep, and return the PID of the process that runs this."""
    time.sleep(seconds)
    return os.getpid()


@app.task(name="slow.at")
def at():
    """Note in Redis when this begins."""
    app.backend.client.rpush("times", time.time())


@app.task(name="slow.split")
def split():
    """Compute in two processes of a pool, and return their answers."""
    pool = multiprocessing.Pool(2)
    answers = pool.map(abs, [-1, -2])
    # `with` would terminate the processes, which have inherited the worker's answer to SIGTERM.
    pool.close()
    pool.join()
    return answers


async def reach(key):
    """Leave a trace in Redis."""
    app.backend.client.set(key, 1)
    return key


app.task(name="slow.coroutine")(reach)
app.task(name="slow.ignored_coroutine", ignore_result=True)(reach)


@app.task(name="slow.loop")
def loop(key):
    """Run a coroutine in an event loop, and return what it returns."""
    return asyncio.run(reach(key))


@app.task(name="slow.killed")
def killed(name, *arguments):
    """Call a task here, as a function; the first time, kill this process before it returns."""
    answer = app.tasks[name](*arguments)
    if app.backend.client.incr("runs") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
