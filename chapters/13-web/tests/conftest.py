"""What the tests share: a broker and a backend in memory, a ledger for each test, a worker."""

import os

import pytest
from celery.contrib.testing.worker import start_worker

# Before anything uses the app, which keeps its connections. TEST_REDIS is the URL of a real server.
os.environ["CELERY_BROKER_URL"] = os.environ.get("TEST_REDIS", "memory://")
os.environ["CELERY_RESULT_BACKEND"] = os.environ.get("TEST_REDIS", "cache+memory://")


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    """Run each test in an empty folder, where the app makes ledger.db."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def worker():
    """Run one worker for all tests, in a thread of their process."""
    from tasks.celery import app

    app.conf.broker_transport_options = {"polling_interval": 0.01}
    with start_worker(app, perform_ping_check=False) as worker:
        yield
        app.control.shutdown([worker.hostname])
