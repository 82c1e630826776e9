"""A ledger: amounts that are kept in a file, each under an id of its own."""

import sqlite3
from contextlib import closing

from loguru import logger


def connect():
    """Return a connection to the ledger's file, which is made if it isn't there."""
    db = sqlite3.connect("ledger.db", timeout=0.1)
    db.execute("CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, amount REAL)")
    return db


def enter(id, amount):
    """Enter an amount under an id, unless the id is there already; return the balance."""
    with closing(connect()) as db, db:
        db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?)", (id, amount))
        [balance] = db.execute("SELECT total(amount) FROM entries").fetchone()
    logger.debug("{}: {}, balance {}", id, amount, balance)
    return balance


def pay_interest(day, rate):
    """Enter a day's interest on the balance, unless it is there already; return the balance."""
    with closing(connect()) as db:
        [balance] = db.execute("SELECT total(amount) FROM entries").fetchone()
    return enter(f"interest {day}", balance * rate)
