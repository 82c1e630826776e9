"""Workflows: functions that return signatures and send nothing."""

from celery import chord

from tasks.reports import report_request, try_divide_request


def report(pairs):
    """Return a workflow that gives the sum of the quotients and how many divisions failed."""
    return chord((try_divide_request.s(x, y) for x, y in pairs), report_request.s())
