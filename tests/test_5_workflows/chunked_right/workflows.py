"""Workflows: functions that return signatures and send nothing."""

from tasks import add_request


def chunked(pairs):
    """Return a workflow that adds these pairs with one message for each ten."""
    return add_request.chunks(pairs, 10)
