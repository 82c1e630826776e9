"""A second round that receives what the first one returned."""

from celery import group

from tasks import add_request


def rounds(first, second):
    first_round = group(add_request.s(x, y) for x, y in first)
    return first_round | group(add_request.s(x, y) for x, y in second)
