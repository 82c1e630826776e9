"""Chapter 8: the recording of two queues with a worker each."""

from pathlib import Path

import pytest
from support.assertions import wait_until_ready
from support.names import ADD, RATE
from support.recordings import assert_recording, not_elsewhere, recorded

RECORDINGS = Path(__file__).parent / "test_8_routing"


@not_elsewhere
@pytest.mark.isolated(count=0, slow_tasks=True, settings={"task_track_started": True})
def test_queues(app, app_under_test, bank):
    """Each worker has one process. The bank thinks for a second, while the sums are answered."""
    bank.seconds = 1
    with recorded(app_under_test) as events:
        wait_until_ready(app_under_test.add_worker(["-Q", "rates", "-n", "rates@%h", "-c", "1"]))
        wait_until_ready(app_under_test.add_worker(["-X", "rates", "-n", "second@%h", "-c", "1"]))
        results = [app.tasks[RATE].delay("USD"), app.tasks[RATE].delay("GBP")]
        results += [app.tasks[ADD].delay(4, 4), app.tasks[ADD].delay(5, 5)]
        for result in results:
            result.get(timeout=30)
    assert_recording(RECORDINGS / "queues.json", events)
