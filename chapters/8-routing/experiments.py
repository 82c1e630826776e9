"""Crowds of messages for the prompt. The app doesn't use this file."""

import time

from celery import group

from tasks import add_request, enter_request, rate_request
from tasks.celery import app

inspect = app.control.inspect(timeout=10, limit=2)


def ready_before_the_sum(queue):
    """Ask for twenty rates, through this queue, and for a sum; return how many rates came first."""
    rates = [rate_request.apply_async(("USD",), queue=queue) for _ in range(20)]
    time.sleep(0.25)
    add_request.delay(4, 4).get(timeout=60)
    time.sleep(0.25)
    ready = sum(rate.ready() for rate in rates)
    for rate in rates:
        rate.get(timeout=60)
    return ready


def pay_day(queue):
    """Send sixteen entries to a queue; return the retries, the failures and the seconds."""
    begin = time.monotonic()
    entries = [enter_request.s(f"{queue} {begin} {number}", 100) for number in range(16)]
    result = group(entry.set(queue=queue) for entry in entries).delay()
    result.get(timeout=60, propagate=False)
    retries = sum(entry.retries for entry in result.results)
    failures = sum(entry.failed() for entry in result.results)
    return retries, failures, time.monotonic() - begin


def consumed_queues():
    """Return the queues that each worker consumes from."""
    workers = {}
    for worker, queues in inspect.active_queues().items():
        workers[worker] = sorted(queue["name"] for queue in queues)
    return workers


def seconds_of_sums(count):
    """Send so many additions; return the seconds until all are done."""
    begin = time.monotonic()
    group(add_request.s(number, number) for number in range(count))().get(timeout=60)
    return time.monotonic() - begin
