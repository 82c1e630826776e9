"""The ledger for a Celery worker, safe to enter twice and tried again while the file is locked."""

from sqlite3 import OperationalError

from loguru import logger

from libs import ledger
from tasks.celery import app


@app.task(
    autoretry_for=(OperationalError,),
    retry_backoff=True,
    max_retries=3,
    soft_time_limit=10,
    time_limit=20,
)
def enter_request(key, amount):
    """Enter an amount under a key, unless the key is there already; return the balance."""
    logger.info("asked: {}: {}", key, amount)
    balance = ledger.enter(key, amount)
    logger.info("answer: {}", balance)
    return balance


@app.task(autoretry_for=(OperationalError,), retry_backoff=True, max_retries=3)
def refund_request(key):
    """Take back the entry under a key; return the balance."""
    return ledger.delete(key)
