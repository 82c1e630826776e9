"""The chapter's app, with tasks that take their time and settings from the environment.

Tests that need slow tasks or another setting start their worker on this module, with
`celery -A probe`, so that the chapter's files stay as their author wrote them.
"""

import json
import os
import time

from celery.app.utils import find_app

app = find_app("tasks")
app.conf.update(json.loads(os.environ.get("PROBE_SETTINGS", "{}")))


@app.task(name="probe.nap")
def nap(seconds, note=None):
    """Sleep, and leave the note in the result."""
    time.sleep(seconds)
    return note


@app.task(name="probe.write")
def write(path, line):
    """Append a line to a file, so that a test sees that a task ran, and how often."""
    with open(path, "a") as file:
        file.write(line + "\n")


@app.task(name="probe.write_and_nap")
def write_and_nap(path, line, seconds):
    write(path, line)
    time.sleep(seconds)
    return line
