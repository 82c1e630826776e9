"""A ledger: amounts that are kept in a file, each under an id of its own."""

import sqlite3
from contextlib import closing

from loguru import logger


def enter(id, amount):
    """Enter an amount under an id, unless the id is there already; return the balance."""
    with closing(sqlite3.connect("ledger.db", timeout=0.1)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, amount REAL)")
        db.execute("INSERT OR IGNORE INTO entries VALUES (?, ?)", (id, amount))
        [balance] = db.execute("SELECT total(amount) FROM entries").fetchone()
    logger.debug("{}: {}, balance {}", id, amount, balance)
    return balance
