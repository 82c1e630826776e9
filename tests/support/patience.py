"""How long a test waits for what should happen: a busy machine may stand still for seconds."""

import os
from contextlib import contextmanager

LONG = 40  # seconds

# Steps of an attempt should fail with their own sentence, before the check gives them up.
is_short = bool(os.environ.get("DIR"))


def patience(seconds):
    """Return how long to wait: these seconds for an attempt or a wrong answer, long for ours."""
    return seconds if is_short else LONG


@contextmanager
def short_waits():
    """Wait for no longer than for an attempt: what runs in the block is a wrong answer."""
    global is_short
    before = is_short
    is_short = True
    try:
        yield
    finally:
        is_short = before
