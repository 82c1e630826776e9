"""Workflows: functions that return signatures and send nothing."""

from celery import group

from tasks import divide_request, mul_request, xsum_request


def mean(pairs):
    """Return a workflow that gives the mean of the products of these pairs."""
    products = group(mul_request.s(x, y) for x, y in pairs)
    return products | xsum_request.s() | divide_request.s(len(pairs))
