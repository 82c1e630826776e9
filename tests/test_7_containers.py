"""Chapter 7's workers in containers, as `make chapter-7-up` starts them: make test-docker."""

import gc

from celery import Celery
from support.checkout import needs_docker
from support.names import ENTER

pytest_plugins = "support.checkout"
pytestmark = needs_docker


def test_workers_in_containers_share_a_ledger_that_outlives_them(checkout):
    url = f"redis://127.0.0.1:{checkout.port}/0"
    app = Celery(broker=url, backend=url, set_as_current=False)
    entries = [("rent", -500, -500.0), ("pay", 2000, 1500.0), ("pay", 2000, 1500.0)]
    for key, amount, balance in entries:
        checkout.make("chapter-7-up WORKERS=2")  # replaces the workers each time
        call = app.signature(ENTER, [key, amount], app=app)
        found = [call.delay().get(timeout=30) for _ in range(4)]
        assert found == [balance] * 4, (
            f"Two workers that enter {key} should return {balance}, but they returned {found}."
        )
    # A result unsubscribes when it is deleted, which needs the server.
    del call
    gc.collect()
    checkout.make("down")
