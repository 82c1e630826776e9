"""Chapter 6's workers in containers, as `make chapter-6-up` starts them: make test-docker."""

import gc

from celery import Celery
from support.checkout import needs_docker
from support.names import RATE

pytest_plugins = "support.checkout"
pytestmark = needs_docker


def test_workers_in_containers_ask_the_bank_beside_them(checkout):
    url = f"redis://127.0.0.1:{checkout.port}/0"
    app = Celery(broker=url, backend=url, set_as_current=False)
    checkout.make("chapter-6-up WORKERS=2")
    call = app.signature(RATE, ["USD"], app=app)
    found = [call.delay().get(timeout=30) for _ in range(4)]
    assert found == [1.16] * 4, f"Two workers should answer 1.16, but they returned {found}."
    # A result unsubscribes when it is deleted, which needs the server.
    del call
    gc.collect()
    checkout.make("down")
