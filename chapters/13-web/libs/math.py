"""Arithmetic: plain functions, with no Celery in them."""

from loguru import logger


def add(x, y):
    """Return x + y."""
    result = x + y
    logger.debug("{} + {} = {}", x, y, result)
    return result


def sub(x, y):
    """Return x - y."""
    result = x - y
    logger.debug("{} - {} = {}", x, y, result)
    return result


def mul(x, y):
    """Return x * y."""
    result = x * y
    logger.debug("{} * {} = {}", x, y, result)
    return result


def divide(x, y):
    """Return x / y."""
    result = x / y
    logger.debug("{} / {} = {}", x, y, result)
    return result


def xsum(numbers, report=None):
    """Return the sum of a list of numbers; call report(done, of) after each if there is one."""
    result = 0
    for done, number in enumerate(numbers, start=1):
        result += number
        if report:
            report(done, len(numbers))
    logger.debug("sum of {} = {}", numbers, result)
    return result
