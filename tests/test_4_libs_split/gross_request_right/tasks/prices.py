"""Prices for a Celery worker. They travel as text, which is the same on both sides."""

from decimal import Decimal

from loguru import logger

from libs import prices
from tasks.celery import app


@app.task
def gross_request(net, percent):
    """Return a price with tax, as text."""
    logger.info("asked: {} + {} %", net, percent)
    result = str(prices.gross(Decimal(net), percent))
    logger.info("answer: {}", result)
    return result
