"""Chapter 5: the recordings of a group and of a chord, with four members each."""

from pathlib import Path

import pytest
from celery import chord, group
from support.assertions import wait_until_ready
from support.names import ADD, XSUM
from support.nodes import stopped
from support.recordings import HASTE, assert_recording, not_elsewhere, recorded

RECORDINGS = Path(__file__).parent / "test_5_canvas"
pytestmark = [not_elsewhere, pytest.mark.isolated(count=0, copy=True)]


@pytest.fixture
def calls(app, app_under_test):
    """The signatures of four additions that take a second."""
    path = app_under_test.folder / "libs" / "math.py"
    old = "result = x + y"
    text = path.read_text().replace(old, f"time.sleep({1 / HASTE})\n    {old}")
    path.write_text(f"import time\n{text}")
    return [app.tasks[ADD].s(number, number) for number in range(4)]


def test_group(app_under_test, calls):
    with recorded(app_under_test) as events:
        app_under_test.add_worker()
        group(calls)().get(timeout=30)
    assert_recording(RECORDINGS / "group.json", events)


def test_chord(app, app_under_test, calls):
    with recorded(app_under_test) as events:
        worker = app_under_test.add_worker()
        wait_until_ready(worker)
        with stopped(worker):
            result = chord(calls)(app.tasks[XSUM].s())
            # As get does, which may come too late: the members are quick.
            app.backend.result_consumer.consume_from(result.id)
        result.get(timeout=30)
    assert_recording(RECORDINGS / "chord.json", events)
