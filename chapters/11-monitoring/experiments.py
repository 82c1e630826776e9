"""Questions for the prompt. The app doesn't use this file."""

import time

from celery.states import READY_STATES
from loguru import logger

from libs.rates import BankError
from tasks import add_request, sub_request, xsum_request
from tasks.celery import app

inspect = app.control.inspect(timeout=10, limit=1)


def log_in(password):
    """Log in at a bank that is closed, and log the traceback."""
    try:
        open_account(password)
    except BankError:
        logger.exception("no login")


def open_account(password):
    """Raise what a bank that is closed raises."""
    raise BankError("closed")


def follow(result):
    """Look at a task ten times a second until it is ready; return the reports that were seen."""
    seen = []
    for _ in range(300):
        meta = result.backend.get_task_meta(result.id)
        if meta["status"] == "PROGRESS" and meta["result"] not in seen:
            seen.append(meta["result"])
        if meta["status"] in READY_STATES:
            return seen
        time.sleep(0.1)
    raise RuntimeError("The task isn't ready after 30 seconds: is a worker running?")


def time_of_reports(count):
    """Return how long it takes to report so often."""
    begin = time.monotonic()
    for done in range(count):
        meta = {"done": done, "of": count}
        xsum_request.update_state("an id for tests", state="PROGRESS", meta=meta)
    return f"{time.monotonic() - begin:.2f} s"


def three_calls():
    """Call a task that runs, one that waits behind it, and one for later; return their results."""
    running = xsum_request.delay([1] * 90)
    waiting = add_request.delay(4, 4)
    later = sub_request.apply_async((8, 8), countdown=600)
    for _ in range(100):
        if (
            running.state == "PROGRESS"
            and names_and_processes(inspect.reserved())
            and names_and_processes(inspect.scheduled())
        ):
            return running, waiting, later
        time.sleep(0.1)
    for result in running, waiting, later:
        result.revoke(terminate=True)
    raise RuntimeError(
        "No worker runs one call and holds two. Type make chapter-11-change N=2, unless you did,"
        ' and start it with make chapter-11-worker ARGS="-E -c 1".'
    )


def names_and_processes(reply):
    """Return the name of each task in a reply of `inspect`, and the process that runs it."""
    found = []
    for tasks in reply.values():
        for task in tasks:
            request = task.get("request", task)  # `scheduled` has it beside the ETA
            found.append((request["name"], request["worker_pid"]))
    return found
