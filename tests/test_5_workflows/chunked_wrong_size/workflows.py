"""Eight pairs in each message: that's 25 messages."""

from tasks import add_request


def chunked(pairs):
    return add_request.chunks(pairs, 8)
