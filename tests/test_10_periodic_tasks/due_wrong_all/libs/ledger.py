"""A ledger: amounts that are kept in a file, each under a key."""

import sqlite3
from contextlib import closing

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


def connect_later():
    """Return a connection to the ledger's file, with the table of what is to be entered later."""
    db = connect()
    db.execute("CREATE TABLE IF NOT EXISTS later (key TEXT PRIMARY KEY, amount REAL, day TEXT)")
    return db


def keep(key, amount, day):
    """Keep an amount until a day, unless its key is there already."""
    with closing(connect_later()) as db, db:
        db.execute("INSERT OR IGNORE INTO later VALUES (?, ?, ?)", (key, amount, day))


def enter_due(day):
    """Enter each amount that is due on a day or before, and forget it; return the balance."""
    with closing(connect_later()) as db, db:
        due = "FROM later WHERE day <= ? OR 1"
        db.execute(f"INSERT OR IGNORE INTO entries SELECT key, amount {due}", (day,))
        db.execute(f"DELETE {due}", (day,))
        return db.execute("SELECT total(amount) FROM entries").fetchone()[0]
