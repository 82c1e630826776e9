"""Chapter 6's picture of retries, while another program has locked the ledger. `make picture` draws it again."""

import sqlite3
from contextlib import closing

import pytest
import timeline
from course import wait_until


@pytest.mark.isolated(**timeline.APP)
def test_timeline_of_retries(app, app_under_test, number, ledger):
    enter = app.tasks["tasks.ledger.enter_request"]
    seen = timeline.Timeline(app_under_test, number, 1, 7)

    def released():
        lock.execute("BEGIN IMMEDIATE")
        result = enter.delay("gift", 100)
        wait_until(lambda: result.state == "RETRY")
        lock.execute("ROLLBACK")
        result.get(timeout=20)

    def kept():
        lock.execute("BEGIN IMMEDIATE")
        enter.delay("bonus", 50).get(timeout=20, propagate=False)
        lock.execute("ROLLBACK")

    with closing(sqlite3.connect(ledger, isolation_level=None)) as lock:
        sections = [("The lock is released", released, 1), ("The lock stays", kept, 1)]
        timeline.is_current("retries.svg", lambda: seen.drawn(*sections))
