"""Chains side by side: the second round doesn't wait for all of the first."""

from itertools import zip_longest

from celery import chain, group

from tasks import add_request


def rounds(first, second):
    lines = []
    for before, after in zip_longest(first, second, fillvalue=first[-1]):
        lines.append(chain(add_request.s(*before), add_request.si(*after)))
    return group(lines)
