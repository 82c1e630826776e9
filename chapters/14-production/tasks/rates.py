"""Rates for a Celery worker, which asks again while the bank can't answer."""

from loguru import logger

from libs import rates
from libs.rates import BankBusy, BankError
from tasks.celery import app


@app.task(bind=True, autoretry_for=(BankError,), retry_backoff=True, max_retries=3)
def rate_request(self, currency):
    """Return how much of a currency one euro buys."""
    logger.info("asked: {}", currency)
    try:
        rate = rates.rate(currency)
    except BankBusy as error:
        raise self.retry(exc=error, countdown=error.seconds) from error
    logger.info("answer: {}", rate)
    return rate
