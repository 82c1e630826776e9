"""Chapter 6's workers in Docker containers, as `make chapter-6-up` starts them: `make test-docker` runs this."""

import gc

from celery import Celery

pytest_plugins = "checkout"


def test_workers_in_containers_share_a_ledger_that_outlives_them(checkout):
    url = f"redis://127.0.0.1:{checkout.port}/0"
    app = Celery(broker=url, backend=url, set_as_current=False)
    for id, amount, wanted in ("rent", -500, -500.0), ("pay", 2000, 1500.0), ("pay", 2000, 1500.0):
        checkout.make("chapter-6-up WORKERS=2")  # anew each time
        call = app.signature("tasks.ledger.enter_request", [id, amount], app=app)
        found = [call.delay().get(timeout=30) for _ in range(4)]
        assert found == [wanted] * 4, (
            f"{id}, entered by two workers, should give {wanted}, it gave {found}."
        )
    del call
    gc.collect()  # while the server that is told of it is there
    checkout.make("down")
