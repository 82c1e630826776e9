"""The parts of a report that comes even if a part fails, and the report itself."""

from libs import math
from tasks.celery import app


@app.task
def try_divide_request(x, y):
    """Return x / y, or None if that can't be computed."""
    try:
        return math.divide(x, y)
    except ZeroDivisionError:
        return None


@app.task
def report_request(quotients):
    """Return the sum of the quotients that are there, and the number of those that aren't."""
    known = [quotient for quotient in quotients if quotient is not None]
    return [math.xsum(known), len(quotients) - len(known)]
