"""A mean whose products the caller computes."""

from tasks import divide_request, xsum_request


def mean(pairs):
    return xsum_request.s([x * y for x, y in pairs]) | divide_request.s(len(pairs))
