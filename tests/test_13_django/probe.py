"""Runs in the project, in a process of its own, and prints what it found as JSON."""

import json
import uuid
from functools import partial

import django
from celery import signals
from django.db import transaction
from django.test import RequestFactory
from project import celery_app

django.setup()

from sums.models import Sum
from sums.tasks import add_up
from sums.views import send

sent = []
found = {}


@signals.before_task_publish.connect
def note(headers, **_):
    in_transaction = transaction.get_connection().in_atomic_block
    sent.append([headers["id"], in_transaction, headers["expires"] is not None])


def keep():
    """Record a sum and return its id."""
    return str(Sum.objects.create(numbers=[1, 2]).id)


with transaction.atomic():
    early = add_up.delay(keep())
    early.get(timeout=20, propagate=False)
found["before the commit"] = [early.state, type(early.result).__name__]

sent.clear()
try:
    with transaction.atomic():
        transaction.on_commit(partial(add_up.delay, keep()))
        raise LookupError
except LookupError:
    found["after a rollback"] = len(sent)

if hasattr(add_up, "apply_async_on_commit"):
    chosen = str(uuid.uuid4())
    with transaction.atomic():
        add_up.apply_async_on_commit((keep(),), task_id=chosen)
        found["sent in the transaction"] = len(sent)
    found["chosen id"] = sent[0][0] == chosen
    found["result"] = celery_app.AsyncResult(chosen).get(timeout=20)

sent.clear()
response = send(RequestFactory().post("/sums", b"[1, 2]", content_type="application/json"))
found["sent by the view"] = sent
found["id of the view"] = json.loads(response.content)["id"]
found["result_expires"] = str(celery_app.conf.result_expires)
print(json.dumps(found))
