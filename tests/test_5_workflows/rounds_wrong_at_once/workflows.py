"""Both rounds at once."""

from celery import group

from tasks import add_request


def rounds(first, second):
    return group(add_request.s(x, y) for x, y in [*first, *second])
