"""Workflows: functions that return signatures and send nothing."""

from celery import group

from tasks import add_request


def rounds(first, second):
    """Return a workflow that adds the first pairs, and after that the second pairs."""
    first_round = group(add_request.s(x, y) for x, y in first)
    return first_round | group(add_request.si(x, y) for x, y in second)
