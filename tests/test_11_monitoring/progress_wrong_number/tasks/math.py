"""Arithmetic as tasks: a client calls their `delay`, and a worker runs them."""

from loguru import logger

from libs import math
from tasks.celery import app


@app.task
def add_request(x, y):
    """Return x + y."""
    logger.info("asked: {} + {}", x, y)
    result = math.add(x, y)
    logger.info("answer: {}", result)
    return result


@app.task
def sub_request(x, y):
    """Return x - y."""
    logger.info("asked: {} - {}", x, y)
    result = math.sub(x, y)
    logger.info("answer: {}", result)
    return result


@app.task
def mul_request(x, y):
    """Return x * y."""
    logger.info("asked: {} * {}", x, y)
    result = math.mul(x, y)
    logger.info("answer: {}", result)
    return result


@app.task
def divide_request(x, y):
    """Return x / y."""
    logger.info("asked: {} / {}", x, y)
    result = math.divide(x, y)
    logger.info("answer: {}", result)
    return result


@app.task(bind=True)
def xsum_request(self, numbers):
    """Return the sum of a list of numbers. Its state is PROGRESS while a worker adds them."""
    step = len(numbers) // 100 + 1  # each report costs Redis a write

    def report(done, of):
        if done % step == 0 and not self.request.called_directly:
            self.update_state(state="PROGRESS", meta={"done": done, "of": of})
            self.send_event("task-progress", done=done)

    logger.info("asked: sum of {}", numbers)
    result = math.xsum(numbers, report)
    logger.info("answer: {}", result)
    return result
