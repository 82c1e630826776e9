"""The sums that somebody asked for, kept in a file, because Celery keeps no such list."""

import json
import sqlite3
import time
from contextlib import closing

# In seconds. A message and its result last for an hour each, so a record outlives them both.
KEPT = 24 * 3600


def connect():
    """Return a connection to the file, which is made if it isn't there."""
    db = sqlite3.connect("sums.db")
    # For many requests at once: reading doesn't wait for writing, nor writing for the disk.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS sums (id TEXT PRIMARY KEY, numbers TEXT, asked REAL)")
    db.execute("CREATE INDEX IF NOT EXISTS by_time ON sums (asked)")
    return db


def keep(id, numbers):
    """Keep what was asked for, and delete what is too old; when this returns, it is committed."""
    now = time.time()
    with closing(connect()) as db:
        db.execute("DELETE FROM sums WHERE asked < ?", (now - KEPT,))
        db.execute("INSERT INTO sums VALUES (?, ?, ?)", (id, json.dumps(numbers), now))
        db.commit()


def age(id):
    """Return how many seconds ago a sum was asked for, or None if there is no record of it."""
    with closing(connect()) as db:
        row = db.execute("SELECT asked FROM sums WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    return time.time() - row[0]


def remove(id):
    """Take back the record of a sum that was not sent."""
    with closing(connect()) as db:
        db.execute("DELETE FROM sums WHERE id = ?", (id,))
        db.commit()
