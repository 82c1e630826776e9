"""Crowds of calls for the prompt. The app doesn't use this file."""

import time

from bank import RATES

from tasks import add_request, rate_request
from tasks.celery import app

redis = app.connection().default_channel.client


def ask_sixty():
    """Ask for sixty rates; return the seconds, and how many of the answers are right."""
    begin = time.monotonic()
    currencies = ["USD", "GBP", "JPY"] * 20
    results = [rate_request.delay(currency) for currency in currencies]
    right = 0
    for currency, result in zip(currencies, results, strict=True):
        right += result.get(timeout=60, propagate=False) == RATES[currency]
    return time.monotonic() - begin, right


def ready_before_the_urgent_one(taken):
    """Send twelve sums that can wait and, once so many are taken, an urgent one.

    Return how many of the twelve were ready before that one.
    """
    before = redis.hlen("unacked")
    sums = [add_request.apply_async((number, number), priority=9) for number in range(12)]
    deadline = time.monotonic() + 20
    while redis.hlen("unacked") - before < taken:
        if time.monotonic() > deadline:
            raise RuntimeError(f"No worker has taken {taken} messages: is it up, with -c 1?")
    print(redis.llen("celery\x06\x169"), "wait,", redis.hlen("unacked") - before, "are taken")
    add_request.apply_async((100, 100), priority=0).get(timeout=30)
    ready = sum(result.ready() for result in sums)
    for result in sums:
        result.get(timeout=30)
    return ready
