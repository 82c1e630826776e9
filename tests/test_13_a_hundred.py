"""Chapter 13: a hundred requests at once while a worker is stopped and another is started."""

import importlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.assertions import WARM_STOP, wait_until_ready
from support.names import ALONE
from support.page_server import needs_page_server, start_page_server

from course.waiting import wait_until

PENDING = {"state": "PENDING"}
pytestmark = needs_page_server


def count_done(futures):
    return sum(future.done() for future in futures)


def pending(server, paths):
    """Return the paths of the sums that are still waiting."""
    return [path for path in paths if server.state(path) == PENDING]


@pytest.mark.isolated(args=["--pool=solo", *ALONE])
def test_a_hundred_at_once(app, app_under_test):
    """Each id leads to its sum. What a worker loses when it is stopped is sent again.

    Prefork workers do the same, but some stops take half a minute, and so do the sums that such a
    worker holds.
    """
    server = start_page_server(app_under_test)
    redis = app_under_test.broker.client
    [worker] = app_under_test.workers
    wait_until_ready(worker)
    with ThreadPoolExecutor(100) as pool:
        sending = [pool.submit(server.send, [number, 0.5]) for number in range(100)]
        wait_until(lambda: count_done(sending) > 30)
        worker.kill("SIGTERM")
        app_under_test.add_worker(["-n", "second@%h"])
        paths = [future.result() for future in sending]

    wait_until(lambda: worker.status == "exited" and not redis.llen("celery"), WARM_STOP)
    # The second worker takes a last sum when it has done what it holds.
    last = server.send([0])
    wait_until(lambda: not pending(server, [last]))
    lost = pending(server, paths)
    assert len(lost) <= 2, (
        f"A worker that is stopped should lose two messages at most, but it lost {len(lost)}."
    )
    sent = importlib.import_module("experiments").send_again()
    assert sent >= len(lost), (
        f"send_again should send at least what was lost, {len(lost)}, but it sent {sent}."
    )
    wait_until(lambda: not pending(server, lost))

    wrong = Counter()
    for number, path in enumerate(paths):
        found = server.state(path)
        if found != {"state": "SUCCESS", "result": number + 0.5}:
            wrong[str(found)] += 1
    assert not wrong, (
        f"Each of a hundred ids should lead to its sum, but these didn't: {dict(wrong)}."
    )
