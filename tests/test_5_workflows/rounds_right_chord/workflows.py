"""The same with a chord, whose body ends the first round."""

from celery import chord, group

from tasks import add_request, xsum_request


def rounds(first, second):
    first_round = chord((add_request.s(x, y) for x, y in first), xsum_request.s())
    return first_round | group(add_request.si(x, y) for x, y in second)
