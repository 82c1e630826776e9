"""The app of tests/test_14_two_celerys.py, which compares Celery 5.1 with 5.7."""

import json
import os
import signal
import time

from celery import Celery
from celery.signals import task_failure
from pydantic import BaseModel

app = Celery("two")
app.conf.worker_send_task_events = True
app.conf.update(json.loads(os.environ.get("TWO_SETTINGS", "{}")))


class Point(BaseModel):
    x: int


@app.task(name="two.add")
def add(x, y):
    return x + y


@app.task(name="two.xsum")
def xsum(numbers):
    return sum(numbers)


@app.task(name="two.kind")
def kind(value):
    return type(value).__name__


@app.task(name="two.point", pydantic=True)
def point(value: Point):
    return type(value).__name__


@app.task(name="two.held")
def held():
    """Wait for the key `released`, for two minutes at most."""
    print("the task runs")
    end = time.monotonic() + 120
    while not app.backend.client.exists("released") and time.monotonic() < end:
        time.sleep(0.1)
    return "rested"


@app.task(name="two.limited", time_limit=1)
def limited():
    time.sleep(20)


@app.task(name="two.fail")
def fail():
    raise ValueError("failed")


@app.task(name="two.note")
def note(id, text):
    print(f"noted {text}")


@app.task(name="two.request", bind=True)
def request(self):
    """Retry once; return what the task knows of its message, and print what it knew before."""
    known = [
        self.request.delivery_info["redelivered"],
        self.request.headers,
        self.request.get("tenant"),
    ]
    if not self.request.retries:
        print(f"first {known}")
        raise self.retry(countdown=0)
    return known


@app.task(name="two.killed_once", bind=True, acks_late=True, reject_on_worker_lost=True)
def killed_once(self):
    """Kill this process, unless the message came back; then return what tells so."""
    if not self.request.get("redelivered"):
        os.kill(os.getpid(), signal.SIGKILL)
    return self.request.delivery_info["redelivered"], self.request.redelivered


@task_failure.connect
def print_failure(sender, exception, **_):
    print(f"task_failure {sender.name}")
