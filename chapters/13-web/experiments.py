"""Visitors for the prompt. The app doesn't use this file."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from libs import sums
from tasks import xsum_request
from tasks.celery import app

URL = f"http://127.0.0.1:{os.environ.get('UVICORN_PORT', '8000')}"


def ask(path, numbers=None):
    """GET a path, or POST numbers to it; return the status and what the JSON says."""
    data = None
    if numbers is not None:
        data = json.dumps(numbers).encode()
    request = Request(URL + path, data, {"Content-Type": "application/json"})
    try:
        response = urlopen(request, timeout=30)
    except HTTPError as error:
        response = error
    with response:
        return response.status, json.load(response)


def send(numbers):
    """POST numbers; return the id of the sum."""
    return ask("/sums", numbers)[1]["id"]


def crowd(number, path, numbers=None):
    """Let so many visitors ask at once; return how long the last one waits for an answer."""
    begin = time.monotonic()
    with ThreadPoolExecutor(number) as visitors:
        list(visitors.map(ask, [path] * number, [numbers] * number))
    return f"{time.monotonic() - begin:.1f} seconds"


def follow(id):
    """Ask for a sum until it has ended; return the answers, without repeats."""
    answers = []
    for _ in range(300):
        answer = ask(f"/sums/{id}")[1]
        if answer not in answers:
            answers.append(answer)
        if answer.get("state") not in ("PENDING", "PROGRESS"):
            return answers
        time.sleep(0.1)
    raise RuntimeError(f"After 30 seconds, the sum is {answer['state']}: is the worker up?")


def let_an_hour_pass(id):
    """Delete a sum's result, as Redis will, and make its record an hour older."""
    app.AsyncResult(id).forget()
    with closing(sums.connect()) as db:
        db.execute("UPDATE sums SET asked = asked - 3600 WHERE id = ?", (id,))
        db.commit()


def send_again():
    """Send each sum again that has no result and hasn't expired; return how many there are."""
    lifetime = app.conf.result_expires
    count = 0
    with closing(sums.connect()) as db:
        records = db.execute("SELECT id, numbers, asked FROM sums").fetchall()
    for id, numbers, asked in records:
        left = asked + lifetime - time.time()
        if left > 0 and app.AsyncResult(id).state == "PENDING":
            xsum_request.apply_async((json.loads(numbers),), task_id=id, expires=left)
            count += 1
    return count
