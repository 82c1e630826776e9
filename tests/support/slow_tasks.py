"""The chapter's app, with tasks that take their time and settings from the environment.

Tests that need slow tasks or another setting start their worker on this module, with `celery -A slow_tasks`, so that
the chapter's files stay as their author wrote them.
"""

import json
import os
import signal
import time
from itertools import product

from celery.app.utils import find_app
from celery.concurrency.asynpool import AsynPool
from loguru import logger

app = find_app("tasks")
app.conf.update(json.loads(os.environ.get("SLOW_TASKS_SETTINGS", "{}")))
if seconds := os.environ.get("SLOW_TASKS_LOOK"):
    # How often a worker looks for processes that were killed. Celery's own workers do so every five seconds.
    AsynPool.timers = property(lambda pool: {pool.maintain_pool: float(seconds)})


@app.task(name="slow.nap")
def nap(seconds, note=None):
    """Sleep, and leave the note in the result."""
    logger.info("nap of {} s", seconds)
    time.sleep(seconds)
    return note


@app.task(name="slow.interrupted")
def interrupted(key="runs"):
    """Count the runs in Redis; take half a minute the first time, and no time the next."""
    times = app.backend.client.incr(key)
    if times == 1:
        time.sleep(30)
    return times


# The same with each combination of two options, whatever the chapter's settings are.
for late, reject in product([False, True], repeat=2):
    app.task(name=f"slow.{late=},{reject=}", acks_late=late, reject_on_worker_lost=reject)(
        interrupted.run
    )


@app.task(name="slow.second_try", bind=True)
def second_try(self):
    """Be retried once, after three seconds; return how often this was."""
    if not self.request.retries:
        raise self.retry(countdown=3)
    return self.request.retries


@app.task(name="slow.killed")
def killed(name, *arguments):
    """Call a task here, as a function; the first time, kill this process before it can answer."""
    answer = app.tasks[name](*arguments)
    if app.backend.client.incr("runs") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
