"""A ledger: amounts that are kept in a file, each under a key."""

import sqlite3
from contextlib import closing

from loguru import logger

CREATE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, amount REAL)"


def enter(key, amount):
    """Enter an amount under a key, unless the key is there already; return the balance."""
    with closing(sqlite3.connect("ledger.db", timeout=0.1)) as db:
        with db:  # commit at the end, or roll back after an exception
            db.execute(CREATE)
            db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?)", (key, amount))
        balance = db.execute("SELECT total(amount) FROM entries").fetchone()[0]
    logger.debug("{}: {}, balance {}", key, amount, balance)
    return balance


def delete(key):
    """Delete the entry under a key; return the balance."""
    with closing(sqlite3.connect("ledger.db", timeout=0.1)) as db:
        with db:
            db.execute("DELETE FROM entries WHERE key = ?", (key,))
        return db.execute("SELECT total(amount) FROM entries").fetchone()[0]
