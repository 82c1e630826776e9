"""What the tests share: a broker and a backend in memory, a ledger, a worker and a bank."""

import os

import pytest
from celery.contrib.testing.worker import start_worker

# Before anything uses the app, which keeps its connections. TEST_REDIS is the URL of a real server.
os.environ["CELERY_BROKER_URL"] = os.environ.get("TEST_REDIS", "memory://")
os.environ["CELERY_RESULT_BACKEND"] = os.environ.get("TEST_REDIS", "cache+memory://")
os.environ["BANK_URL"] = "http://127.0.0.1:0"  # any free port


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    """Run each test in an empty folder, where the app makes ledger.db."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def worker():
    """Run one worker for all tests, in a thread of their process."""
    from tasks.celery import app

    app.conf.broker_transport_options = {"polling_interval": 0.01}
    with start_worker(app, perform_ping_check=False, logfile=os.devnull) as worker:
        yield
        app.control.shutdown([worker.hostname])


@pytest.fixture(scope="session")
def open_bank():
    """Open one bank for all tests, in threads of their process, and send the app there."""
    from bank import Bank

    from libs import rates

    bank = Bank()
    rates.BANK_URL = f"http://127.0.0.1:{bank.server_port}"
    return bank


@pytest.fixture
def bank(open_bank):
    """Return the bank in a good mood, whatever the test before did to it."""
    open_bank.failures = open_bank.seconds = open_bank.asked = 0
    open_bank.retry_after = None
    return open_bank
