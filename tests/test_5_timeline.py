"""Chapter 5's picture of a chain and a group of additions that take half a second. `make picture` draws it again."""

import pytest
import timeline
from celery import chain, group


@pytest.mark.isolated(count=0, copy=True, **timeline.APP)
def test_timeline_of_a_group(app, app_under_test, number):
    add = app.tasks["tasks.math.add_request"]
    seen = timeline.Timeline(app_under_test, number, 0.5, 2, "side_by_side")
    calls = [add.si(i, i) for i in range(4)]
    one_by_one = ("chain: one after the other", lambda: chain(calls).delay().get(timeout=20), 4)
    at_once = ("group: side by side, in {} processes", lambda: group(calls).delay().get(timeout=20), 4)
    timeline.is_current("group.svg", lambda: seen.drawn(one_by_one, at_once))
