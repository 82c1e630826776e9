"""A ledger: amounts that are kept in a file, each under a key."""

import sqlite3
from contextlib import closing
from datetime import date, timedelta

from loguru import logger


def connect():
    """Return a connection to the ledger's file, creating the file if necessary."""
    db = sqlite3.connect("ledger.db", timeout=0.1)
    db.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, amount REAL)")
    return db


def enter(key, amount):
    """Enter an amount under a key, unless the key is there already; return the balance."""
    with closing(connect()) as db:
        with db:  # commit at the end, or roll back after an exception
            db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?)", (key, amount))
        balance = db.execute("SELECT total(amount) FROM entries").fetchone()[0]
    logger.debug("{}: {}, balance {}", key, amount, balance)
    return balance


def pay_interest(day, rate):
    """Enter a day's interest on the balance, unless it is there already; return the balance."""
    with closing(connect()) as db:
        balance = db.execute("SELECT total(amount) FROM entries").fetchone()[0]
    return enter(f"interest {day}", balance * rate)


def missing_days(today):
    """Return the days after the last one whose interest is in the ledger and before today."""
    with closing(connect()) as db:
        keys = db.execute("SELECT max(key) FROM entries WHERE key LIKE 'interest %'").fetchone()
    days = []
    day = date.fromisoformat(keys[0].removeprefix("interest ")) + timedelta(days=1)
    while day < today:
        days.append(day)
        day += timedelta(days=1)
    return days
