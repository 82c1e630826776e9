"""Chapter 11: a hundred requests at once while the worker is restarted, on the page's server as a learner starts it."""

import json
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.assertions import WARM_STOP, find_task, wait_until_ready
from test_11_web import XSUM, Site

from course.environment import free_port
from course.waiting import wait_until

pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="the page's server runs on this machine: make test"
)


def serve(app_under_test):
    """Start the page's server beside the app's workers, and wait until it runs."""
    port = free_port()
    node = app_under_test.start("uvicorn", "web:app", "--port", str(port), "--no-access-log")
    wait_until(lambda: "Uvicorn running" in node.logs() or node.status == "exited", 20)
    assert node.status == "running", f"uvicorn web:app should start; it ended.\n{node.logs()}"
    return Site(port)


def told(site, path):
    """Return how far a sum is."""
    return site.ask(path)[2]


@pytest.mark.isolated(args=["--pool=solo", "--without-mingle", "--without-gossip"])
def test_a_hundred_at_once(app, app_under_test):
    """Each id that was told ends in its sum. What a worker lost when it was stopped is sent again from the record.

    With processes it's the same, but some stops take half a minute, and so do the sums that such a worker holds.
    """
    site = serve(app_under_test)
    [worker] = app_under_test.workers
    wait_until_ready(worker)
    with ThreadPoolExecutor(100) as pool:
        sending = [pool.submit(site.send, [number, 0.5]) for number in range(100)]
        wait_until(lambda: sum(each.done() for each in sending) > 30, 10)
        worker.kill("SIGTERM")
        app_under_test.add_worker(["-n", "second@%h"])
        paths = [each.result() for each in sending]
    left = list(paths)

    def waiting():
        left[:] = [path for path in left if told(site, path) == {"state": "PENDING"}]
        return left

    redis = app_under_test.broker.client
    wait_until(lambda: worker.status == "exited" and not redis.llen("celery"), WARM_STOP)
    wait_until(lambda: not waiting(), 2)  # those that the second worker holds
    lost = list(left)
    assert len(lost) <= 2, (
        f"A worker that is stopped should lose a message or none, it lost {len(lost)} of 100."
    )
    with closing(sqlite3.connect(app_under_test.folder / "sums.db")) as db:
        for path in lost:
            [numbers] = db.execute("SELECT numbers FROM sums WHERE id = ?", (path[6:],)).fetchone()
            find_task(app, XSUM).apply_async((json.loads(numbers),), task_id=path[6:])
    wait_until(lambda: not waiting(), 5)
    found = [told(site, path) for path in paths]
    wrong = [
        each
        for number, each in enumerate(found)
        if each != {"state": "SUCCESS", "result": number + 0.5}
    ]
    assert not wrong, (
        f"Each of a hundred ids should end in its sum; these did not: {Counter(map(str, wrong))}"
    )
