"""Chapter 7: the recordings of a call whose process is killed, acknowledged early and late."""

import time
from pathlib import Path

import pytest
from support.names import RATE
from support.recordings import HASTE, assert_recording, not_elsewhere, recorded

from course.waiting import wait_until

RECORDINGS = Path(__file__).parent / "test_7_crashes"
EARLY = {"task_track_started": True, "task_acks_late": False}
LATE = {"task_track_started": True}
OPTIONS = {"count": 0, "slow_tasks": True, "env": {"SLOW_TASKS_LOOK": "0.2"}}
pytestmark = not_elsewhere


def record_a_kill(app, app_under_test, bank):
    """Return the events of a call whose process is killed while the bank thinks."""
    bank.seconds = 4
    with recorded(app_under_test) as events:
        worker = app_under_test.add_worker()
        result = app.tasks[RATE].delay("USD")
        wait_until(lambda: result.state == "STARTED")
        bank.seconds = 2 / HASTE  # for the next call
        time.sleep(1 / HASTE)
        worker.kill_process(result.info["pid"])
        result.get(timeout=30, propagate=False)
    return events


@pytest.mark.isolated(settings=EARLY, **OPTIONS)
def test_early(app, app_under_test, bank):
    events = record_a_kill(app, app_under_test, bank)
    assert_recording(RECORDINGS / "early.json", events)


@pytest.mark.isolated(settings=LATE, **OPTIONS)
def test_late(app, app_under_test, bank):
    events = record_a_kill(app, app_under_test, bank)
    assert_recording(RECORDINGS / "late.json", events)
