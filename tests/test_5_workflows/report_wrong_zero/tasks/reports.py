"""Parts that return 0 if they fail, so that a quotient of 0 counts as a failure."""

from libs import math
from tasks.celery import app


@app.task
def try_divide_request(x, y):
    try:
        return math.divide(x, y)
    except ZeroDivisionError:
        return 0


@app.task
def report_request(quotients):
    return [math.xsum(quotients), quotients.count(0)]
