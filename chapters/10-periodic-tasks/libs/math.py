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


def xsum(numbers):
    """Return the sum of an iterable of numbers."""
    result = sum(numbers)
    logger.debug("sum of {} = {}", numbers, result)
    return result
