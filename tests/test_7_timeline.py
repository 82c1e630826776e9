"""Chapter 7's picture of two entries in each queue, which take half a second here. `make picture` draws it again."""

import pytest
import timeline
from course import wait_until


@pytest.mark.isolated(count=0, copy=True, **timeline.APP)
def test_timeline_of_two_queues(app, app_under_test, number):
    enter = app.tasks["tasks.ledger.enter_request"]
    seen = timeline.Timeline(app_under_test, number, 0.5, 1.5, "pay_day")

    def pay_day(queue):
        (app_under_test.folder / "ledger.db").unlink(missing_ok=True)
        first, second = (enter.s(id, 100).set(queue=queue) for id in "ab")
        first = first.delay()
        wait_until(lambda: first.state == "STARTED")  # so that this is the one that has the lock
        second.delay().get(timeout=20)

    four = ("queue celery, 4 processes, 0.5 s an entry", lambda: pay_day("celery"), 2)
    one = ("queue ledger, {} process, 0.5 s an entry", lambda: pay_day("ledger"), 2)
    timeline.is_current("queues.svg", lambda: seen.drawn(four, one))
