"""Rates of exchange, from a bank's web API."""

import json
import os
import threading
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from loguru import logger

BANK_URL = os.environ.get("BANK_URL", "http://127.0.0.1:8099")

own = threading.local()


class BankError(Exception):
    """The bank can't answer now, but it may later."""


class BankBusy(BankError):
    """The bank asks us to come back in some seconds."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.seconds = seconds


class UnknownCurrency(Exception):
    """The bank doesn't know this currency."""


def connection():
    """Return this thread's own connection to the bank."""
    if not hasattr(own, "connection"):
        own.connection = HTTPConnection(urlsplit(BANK_URL).netloc, timeout=5)
    return own.connection


def rate(currency):
    """Return how much of a currency one euro buys."""
    bank = connection()
    try:
        bank.request("GET", f"/rates/{currency}")
        response = bank.getresponse()
        body = response.read()
    except (HTTPException, OSError) as error:
        bank.close()  # the next call connects again
        raise BankError(f"the bank didn't answer: {error}") from None
    if response.status == 404:
        raise UnknownCurrency(currency)
    if "Retry-After" in response.headers:
        raise BankBusy(int(response.headers["Retry-After"]))
    if response.status != 200:
        raise BankError(f"the bank answered {response.status}")
    result = json.loads(body)["rate"]
    logger.debug("{}: {}", currency, result)
    return result
