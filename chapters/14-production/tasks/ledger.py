"""The ledger for a Celery worker, safe to enter twice and tried again while the file is locked."""

from datetime import UTC, datetime
from sqlite3 import OperationalError

from loguru import logger

from libs import ledger
from tasks.celery import app


@app.task(autoretry_for=(OperationalError,), retry_backoff=True, max_retries=3)
def enter_request(key, amount):
    """Enter an amount under a key, unless the key is there already; return the balance."""
    logger.info("asked: {}: {}", key, amount)
    balance = ledger.enter(key, amount)
    logger.info("answer: {}", balance)
    return balance


@app.task(autoretry_for=(OperationalError,), retry_backoff=True)
def interest_request(rate):
    """Enter today's interest, unless it is there already; return the balance."""
    day = datetime.now(UTC).date().isoformat()
    logger.info("asked: interest for {}, rate {}", day, rate)
    balance = ledger.pay_interest(day, rate)
    logger.info("answer: {}", balance)
    return balance
