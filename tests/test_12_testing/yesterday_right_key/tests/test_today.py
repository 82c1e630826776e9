import sqlite3
from datetime import UTC, datetime

from tasks import interest_request


def test_interest_is_for_today():
    interest_request.apply((0.01,)).get()
    days = [datetime.now(UTC).date().isoformat()]
    [[key]] = sqlite3.connect("ledger.db").execute("SELECT key FROM entries").fetchall()
    days.append(datetime.now(UTC).date().isoformat())
    assert key.removeprefix("interest ") in days
