"""How long a test waits for what should happen: a busy machine may stand still for seconds."""

import os
from contextlib import contextmanager

LONG = 40  # seconds

# Whether the answer that is tested must fail.
is_wrong = False


def patience(seconds):
    """Return how long to wait: these seconds for an attempt or a wrong answer, long for ours.

    A step of an attempt should fail with its own sentence, before the check gives it up.
    """
    if is_wrong or os.environ.get("DIR"):
        return seconds
    return LONG


def lookout(seconds):
    """Return how long to look for what should not happen: longer for an answer that does it."""
    if is_wrong:
        return LONG
    return seconds


@contextmanager
def short_waits():
    """Wait for no longer than for an attempt: what runs in the block is a wrong answer."""
    global is_wrong
    is_wrong = True
    try:
        yield
    finally:
        is_wrong = False
