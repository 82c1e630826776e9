"""A mean that takes every list for a pair."""

from celery import chord

from tasks import divide_request, mul_request, xsum_request


def mean(pairs):
    total = chord((mul_request.s(x, y) for x, y in pairs), xsum_request.s())
    return total | divide_request.s(2)
