"""Chapter 6: the recording of a call that is tried again."""

from pathlib import Path

import pytest
from support.names import RATE
from support.recordings import assert_recording, not_elsewhere, recorded

RECORDINGS = Path(__file__).parent / "test_6_retries"


@not_elsewhere
@pytest.mark.isolated(count=0)
def test_retry(app, app_under_test, bank):
    """The bank names the pause: a pause of the task's own choice is random."""
    bank.failures = 1
    bank.retry_after = 3
    with recorded(app_under_test) as events:
        app_under_test.add_worker()
        app.tasks[RATE].delay("USD").get(timeout=30)
    assert_recording(RECORDINGS / "retry.json", events)
