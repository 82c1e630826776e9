"""The one way in which the course waits for something."""

import time

STEP_SECONDS = 10  # that a step of an attempt may take


def wait_until(condition, seconds=30.0):
    """Call condition() every 20 ms until it is true or these seconds are over; return its value."""
    end = time.monotonic() + seconds
    value = condition()
    while not value and time.monotonic() < end:
        time.sleep(0.02)
        value = condition()
    return value
