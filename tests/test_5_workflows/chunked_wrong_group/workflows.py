"""A message for each pair."""

from celery import group

from tasks import add_request


def chunked(pairs):
    return group(add_request.s(x, y) for x, y in pairs)
