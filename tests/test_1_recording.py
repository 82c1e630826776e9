"""Chapter 1: the recording of a call."""

from pathlib import Path

import pytest
from support.recordings import HASTE, assert_recording, not_elsewhere, recorded

RECORDINGS = Path(__file__).parent / "test_1_first_steps"


@not_elsewhere
@pytest.mark.isolated(count=0, copy=True)
def test_call(app, app_under_test):
    path = app_under_test.folder / "tasks.py"
    text = path.read_text().replace("result =", f"time.sleep({10 / HASTE})\n    result =")
    path.write_text(f"import time\n{text}")
    with recorded(app_under_test) as events:
        app_under_test.add_worker()
        app.tasks["tasks.add"].delay(4, 4).get(timeout=30)
    assert_recording(RECORDINGS / "call.json", events)
