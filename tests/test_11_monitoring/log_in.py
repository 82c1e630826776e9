"""Log a traceback as the app in the current folder does: python log_in.py PASSWORD."""

import sys

from celery.app.utils import find_app
from loguru import logger

find_app("tasks")


def open_account(password):
    """Raise an exception that says nothing of the password."""
    raise ValueError("the bank is closed")


def log_in(password):
    """Log why it failed."""
    try:
        open_account(password)
    except ValueError:
        logger.exception("no login")


log_in(sys.argv[1])
