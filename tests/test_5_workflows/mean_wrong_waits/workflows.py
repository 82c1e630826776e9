"""A mean for which the caller waits."""

from celery import chord

from tasks import divide_request, mul_request, xsum_request


def mean(pairs):
    total = chord((mul_request.s(x, y) for x, y in pairs), xsum_request.s())().get(timeout=10)
    return divide_request.s(total, len(pairs))
