"""Chapter 9: the recording of an urgent call that comes behind what a worker has taken."""

from pathlib import Path

import pytest
from support.names import ADD
from support.recordings import HASTE, assert_recording, not_elsewhere, recorded

from course.waiting import wait_until

RECORDINGS = Path(__file__).parent / "test_9_concurrency"
TRACKED = {"task_track_started": True}
TWO_TAKEN = ["-c", "1", "--prefetch-multiplier", "2"]


@not_elsewhere
@pytest.mark.isolated(count=0, slow_tasks=True, settings=TRACKED, args=TWO_TAKEN, copy=True)
def test_prefetch(app, app_under_test):
    path = app_under_test.folder / "libs" / "math.py"
    old = "result = x + y"
    text = path.read_text().replace(old, f"time.sleep({1 / HASTE})\n    {old}")
    path.write_text(f"import time\n{text}")
    redis = app_under_test.broker.client
    add_request = app.tasks[ADD]
    with recorded(app_under_test) as events:
        app_under_test.add_worker()
        results = [add_request.apply_async((n, n), priority=9) for n in range(3)]
        wait_until(lambda: redis.hlen("unacked") == 2 or results[0].ready())
        results.append(add_request.apply_async((100, 100), priority=0))
        for result in results:
            result.get(timeout=30)
    assert_recording(RECORDINGS / "prefetch.json", events)
