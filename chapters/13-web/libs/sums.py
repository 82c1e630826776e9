"""The sums that somebody asked for, kept in a file, because Celery keeps no such list."""

import json
import sqlite3
import time
from contextlib import closing


def connect():
    """Return a connection to the file, which is made if it isn't there."""
    db = sqlite3.connect("sums.db")
    # For many requests at once: reading doesn't wait for writing, nor writing for the disk.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS sums (id TEXT PRIMARY KEY, numbers TEXT, asked REAL)")
    return db


def keep(id, numbers):
    """Keep what was asked for; when this returns, it is committed."""
    with closing(connect()) as db, db:
        db.execute("INSERT INTO sums VALUES (?, ?, ?)", (id, json.dumps(numbers), time.time()))


def age(id):
    """Return how many seconds ago a sum was asked for, or None if it never was."""
    with closing(connect()) as db:
        row = db.execute("SELECT asked FROM sums WHERE id = ?", (id,)).fetchone()
    return row and time.time() - row[0]
