"""Recordings of what travels through Redis, made on the pinned stack: the site replays them.

`make recordings` writes them as JSON lists of the events of course/events.py, one a line.
"""

import json
import os
import re
from collections import Counter
from contextlib import contextmanager

import pytest

from course.chapters import ROOT, display_path
from course.waiting import wait_until

IS_WRITTEN = os.environ.get("RECORD") == "write"
# By how much a comparison may shorten the sleep of a task: the events stay the same.
HASTE = 1 if IS_WRITTEN else 10
# What differs between machines, and what a recording has instead.
NORMAL = {
    r"\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f-]{22}": r"\1",
    r", \"worker\": \"celery@[^\"]+\"": "",
    r"@[\w.-]+": "",
    r"\{'pid': [^\"]+": "{...}",
}
END = "end-of-recording"
IS_ELSEWHERE = "config.option.docker or os.environ.get('DIR')"
not_elsewhere = pytest.mark.skipif(IS_ELSEWHERE, reason="recorded in the course's own processes")


@contextmanager
def recorded(app_under_test):
    """Yield a list; after the block, in which workers start and tasks end, it has the events."""
    broker = app_under_test.broker
    command = ["python", "-m", "course", "messages", "--json", broker.celeryconfig["host_url"]]
    messages = app_under_test.nodes.worker("messages", command, ROOT, {})
    events = []
    try:
        wait_until(messages.logs)
        yield events
        wait_until(lambda: not broker.client.exists("unacked"))
        broker.client.set(f"celery-task-meta-{END}", END)
        wait_until(lambda: END in messages.logs())
        log = messages.logs()
    finally:
        messages.teardown()
    for pattern, normal in NORMAL.items():
        log = re.sub(pattern, normal, log)
    events += map(json.loads, log.splitlines()[1:-1])


def assert_recording(path, events):
    """Fail unless a recording has these events, whenever they happen; or write the recording."""
    assert len(events) <= 34, f"{path.name} should have at most 34 events, not {len(events)}."
    if IS_WRITTEN:
        path.write_text("[\n" + ",\n".join(map(json.dumps, events)) + "\n]\n")
    place = f"in {display_path(path)}: type make recordings."
    wanted = count_events(json.loads(path.read_text()))
    found = count_events(events)
    missing, new = sorted(wanted - found), sorted(found - wanted)
    assert not missing and not new, (
        f"A run gives the events {new} and doesn't give {missing}, which are {place}"
    )


def count_events(events):
    """Return how often each event occurs, without its times; ids are numbered as they appear."""
    numbers = {"id": {}, "group": {}, "chord": {}}
    counts = Counter()
    for event in events:
        stable = event | {"later": "until" in event}
        # The size of a chord is known once the client has sent all members: early ones are faster.
        for name in ("t", "process", "number", "size", "until"):
            stable.pop(name, None)
        if event["what"] == "wait":  # which may come before its group is known
            stable.pop("group", None)
        for name in numbers.keys() & event.keys():
            known = numbers[name]
            stable[name] = known.setdefault(event[name], len(known) + 1)
        counts[json.dumps(stable, sort_keys=True)] += 1
    return counts
