"""Arithmetic as tasks: a client calls their `delay`, and a worker runs them."""

from loguru import logger

from tasks.celery import app


@app.task
def add(x, y):
    """Return x + y."""
    logger.debug("asked: {} + {}", x, y)
    result = x + y
    logger.debug("answer: {}", result)
    return result


@app.task
def sub(x, y):
    """Return x - y."""
    logger.debug("asked: {} - {}", x, y)
    result = x - y
    logger.debug("answer: {}", result)
    return result


@app.task
def mul(x, y):
    """Return x * y."""
    logger.debug("asked: {} * {}", x, y)
    result = x * y
    logger.debug("answer: {}", result)
    return result


@app.task
def divide(x, y):
    """Return x / y."""
    logger.debug("asked: {} / {}", x, y)
    result = x / y
    logger.debug("answer: {}", result)
    return result
