"""Rates of exchange, from a bank's web API."""

import json
import os
from urllib.error import HTTPError
from urllib.request import urlopen

from loguru import logger

BANK_URL = os.environ.get("BANK_URL", "http://127.0.0.1:8099")


class BankError(Exception):
    """The bank can't answer now, but it may later."""


class BankBusy(BankError):
    """The bank asks us to come back in some seconds."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.seconds = seconds


class UnknownCurrency(Exception):
    """The bank doesn't know this currency."""


def rate(currency):
    """Return how much of a currency one euro buys."""
    try:
        with urlopen(f"{BANK_URL}/rates/{currency}", timeout=5) as response:
            result = json.load(response)["rate"]
    except HTTPError as error:
        if error.code == 404:
            raise UnknownCurrency(currency) from None
        if "Retry-After" in error.headers:
            raise BankBusy(int(error.headers["Retry-After"])) from None
        raise BankError(f"the bank answered {error.code}") from None
    except OSError as error:
        raise BankError(f"the bank didn't answer: {error}") from None
    logger.debug("{}: {}", currency, result)
    return result
