"""Chapter 13: a page that sends sums to the workers, and shows their state."""

import json
import re
from contextlib import suppress
from html.parser import HTMLParser
from uuid import uuid4

import pytest
from celery import signals
from support.assertions import (
    assert_listed,
    assert_task_returns,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.lessons import LessonRunner
from support.names import ADD, XSUM
from support.page_server import (
    BAD_BODIES,
    assert_refused,
    id_of,
    needs_page_server,
    serving,
    start_page_server,
    text_in,
)
from support.patience import patience
from support.signals import connected

from course.environment import free_port
from course.waiting import wait_until

pytest_plugins = "support.page_server"
DOWN = "while Redis is down"
# What an input may be besides a field.
BUTTONS = ("button", "hidden", "reset", "submit")


class Elements(HTMLParser):
    """The names of a page's elements, its fields as (name, id), and the ids that labels are for.

    A label may also be around its field, whose id is None here then.
    """

    def __init__(self, text):
        super().__init__()
        self.names = set()
        self.labelled = {None}
        self.fields = []
        self.in_label = False
        self.feed(text)

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.names.add(name)
        if name == "label":
            self.in_label = True
            self.labelled.add(attributes.get("for"))
        if name in ("input", "textarea") and attributes.get("type") not in BUTTONS:
            id = attributes.get("id", "")
            if self.in_label or attributes.get("aria-label"):
                id = None
            self.fields.append((name, id))

    def handle_endtag(self, name):
        if name == "label":
            self.in_label = False


@needs_page_server
def test_lesson(monkeypatch, folder, lesson, shared, tmp_path):
    """It runs on a free port, since the reader's 8000 may be in use."""
    port = free_port()
    monkeypatch.setenv("UVICORN_PORT", str(port))
    path = folder / "README.md"
    path.write_text(path.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    LessonRunner(path, shared, tmp_path / "lesson").holds()


@pytest.mark.step(
    "`uvicorn web:app` starts, and `/` is a page with a form, a field with a label, and a progress"
    " bar",
    "a-page",
)
@pytest.mark.isolated(count=0)
def test_page(shared, page_server):
    """Copy page.html from the chapter, and answer / with FileResponse("page.html")."""
    status, headers, text = page_server.ask("/")
    kind = headers["Content-Type"] or ""
    assert status == 200 and kind.startswith("text/html"), (
        f"/ should answer 200 with HTML, but it answered {status} with {kind or 'no type'}."
    )
    page = Elements(str(text))
    for name in ["form", "label", "progress"]:
        assert name in page.names, (
            f"The page at / should have a form, a label and a progress bar, but it has no {name}."
        )
    assert page.fields, "The page at / should have a field for the numbers, but it has none."
    for name, id in page.fields:
        assert id in page.labelled, (
            f"Each field of the page should have a label, but the {name} has none."
        )


@pytest.mark.step(
    '`POST /sums` with `[1, 2.5]` answers 202 at once, with the id of the task as `{"id": …}` and'
    " as the end of the `Location`, `/sums/…`",
    "send-and-ask",
)
@pytest.mark.isolated(count=0)
def test_send(page_server, app, app_under_test):
    """Send with apply_async, which returns at once, and set response.headers["Location"]."""
    path = page_server.send([1, 2.5])
    waiting = app_under_test.broker.client.lrange("celery", 0, -1)
    headers = [json.loads(text)["headers"] for text in waiting]
    names = [found["task"] for found in headers]
    assert names == [XSUM], (
        f"POST /sums should send one message, for {XSUM}, but it sent {names or 'none'}."
    )
    id = headers[0]["id"]
    assert id_of(path) == id, (
        f"POST /sums should answer the task's id, {id}, but the Location is {path}."
    )
    second = page_server.send([1, 2.5])
    assert second != path, f"Each POST should make another id, but two answered {path}."


@pytest.mark.step('`GET` there answers `{"state": "PENDING"}` while no worker runs', "send-and-ask")
@pytest.mark.isolated(count=0)
def test_a_waiting_sum(page_server):
    """Read what the result backend has, and wait for nothing: no get in a request."""
    page_server.assert_state(
        page_server.send([1, 2.5]), {"state": "PENDING"}, "while no worker runs"
    )


@pytest.mark.step(
    '`GET` answers `{"state": "SUCCESS", "result": 3.5}` when the task has succeeded',
    "send-and-ask",
)
def test_a_sum(celery_setup, page_server):
    """meta["status"] and meta["result"] of celery.backend.get_task_meta(id)."""
    path = page_server.send([1, 2.5])
    wait_until(lambda: not re.search("PENDING|PROGRESS", str(page_server.state(path))), patience(8))
    page_server.assert_state(path, {"state": "SUCCESS", "result": 3.5}, "when a worker has done it")


@pytest.mark.step(
    '`GET` answers `{"state": "PROGRESS", "result": {"done": 1, "of": 4}}` while the task runs',
    "send-and-ask",
)
@pytest.mark.isolated(count=0)
def test_a_sum_in_progress(page_server, app):
    """What xsum_request passes to update_state is the result while the state is PROGRESS."""
    path = page_server.send([1, 2, 3, 4])
    app.backend.store_result(id_of(path), {"done": 1, "of": 4}, "PROGRESS")
    page_server.assert_state(
        path, {"state": "PROGRESS", "result": {"done": 1, "of": 4}}, "when one of four is done"
    )


@pytest.mark.step(
    '`GET` answers `{"state": "FAILURE"}` when the task has failed,'
    " and doesn't show the exception",
    "a-failure",
)
@pytest.mark.isolated(count=0)
def test_a_sum_that_failed(page_server, app):
    """The result is the exception then. Give the result only for PROGRESS and SUCCESS."""
    path = page_server.send([1, 2])
    app.backend.mark_as_failure(id_of(path), ValueError("what isn't a visitor's"))
    page_server.assert_state(path, {"state": "FAILURE"}, "when it has failed")


@pytest.mark.step(
    'an unknown id is answered with 404 and a sentence in `{"detail": …}`, like each refusal below',
    "an-unknown-id",
)
@pytest.mark.isolated(count=0)
def test_an_id_that_never_was(page_server):
    """Keep each id yourself before you send: Celery says PENDING for any id."""
    page_server.send([1])
    for id in "nothing", "11111111-2222-4333-8444-555555555555":
        assert_refused(f"GET /sums/{id}, an unknown id,", page_server.ask(f"/sums/{id}"), 404)


@pytest.mark.step(
    "anything but a list of 1 to 1000 finite numbers, or of text that means them, is answered with"
    " 422, and no message is sent",
    "invalid-input",
)
@pytest.mark.isolated(count=0)
def test_bad_input(page_server, app_under_test):
    """Field(ge=-1e15, le=1e15) for a number, min_length and max_length for the list;
    answer a RequestValidationError yourself."""
    for body in BAD_BODIES:
        what = f"POST /sums with {body[:20].decode()}"
        assert_refused(what, page_server.ask("/sums", body), 422)
        sent = app_under_test.broker.client.llen("celery")
        assert not sent, f"{what} should send no message, but it sent {sent}."
    page_server.send(["1", "2.5"])  # as page.html does


@pytest.mark.step(
    "while the message of a sum is sent, its record is committed, and other requests are answered",
    "an-unknown-id",
)
@pytest.mark.isolated(count=0)
def test_the_message_comes_after_the_commit(page_server, app):
    """`with db:` commits at its end. Send after it, in a def: while an async def calls Celery,
    the server answers nobody else."""
    statuses = []

    def get_sum(headers, **_):
        with suppress(AssertionError):  # no answer
            answer = page_server.ask(f"/sums/{headers['id']}", None, patience(1.5))
            statuses.append(answer.status)

    with connected(signals.before_task_publish, get_sum):
        page_server.ask("/sums", [1, 2], patience(6))
    assert statuses, (
        "While POST sends its message, GET of the sum should be answered, but it wasn't: an"
        " async def that calls Celery keeps all others waiting, and a def doesn't."
    )
    assert statuses == [200], (
        "When the message is sent, GET of its id should answer 200, as its record is committed,"
        f" but it answered {statuses[0]}."
    )


@pytest.mark.step(
    "a sum whose result Redis has deleted, after `result_expires` seconds, is answered with 410",
    "an-expired-result",
)
@pytest.mark.isolated(count=0)
def test_an_expired_result(app, monkeypatch):
    """Keep the time beside the id; PENDING means expired when that is longer ago than
    app.conf.result_expires."""
    monkeypatch.setitem(app.conf, "result_expires", 0.001)
    with serving() as page_server:
        path = page_server.send([1])
        # A record may keep whole seconds.
        wait_until(lambda: page_server.ask(path).status == 410, 1.2)
        what = "GET of a sum that is older than app.conf.result_expires, and has no result,"
        assert_refused(what, page_server.ask(path), 410)
        app.backend.store_result(id_of(path), 1.0, "SUCCESS")
        page_server.assert_state(
            path, {"state": "SUCCESS", "result": 1.0}, "as long as Redis has the result"
        )


@pytest.mark.step(
    "while Redis is down, `POST` and `GET` answer 503 within three seconds, and work again once"
    " Redis is back",
    "when-redis-is-down",
)
@pytest.mark.isolated(count=0, server=True)
def test_redis_is_down(page_server, own_redis):
    """Settings of the web process alone limit how often it tries, and for how long;
    an exception handler answers."""
    seconds = min(patience(3), 15)  # without the limits, it would take 20
    path = page_server.send([1])
    own_redis.stop()
    for _ in range(2):
        answer = page_server.ask("/sums", [1, 2], seconds, DOWN)
        assert_refused("POST /sums while Redis is down", answer, 503)
        answer = page_server.ask(path, None, seconds, DOWN)
        assert_refused("GET of a sum while Redis is down", answer, 503)
    own_redis.start()
    page_server.assert_state(page_server.send([1, 2]), {"state": "PENDING"}, "once Redis is back")
    own_redis.stop()
    own_redis.start()
    page_server.assert_state(
        page_server.send([1, 2]), {"state": "PENDING"}, "after Redis was restarted"
    )


@pytest.mark.step("the tasks and the settings of chapter 12 are still there", "forty-one-visitors")
def test_what_chapter_12_had(celery_setup, worker, app, number):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)
    assert_task_returns(app, ADD, (4, 4), 8)


def ask_with_key(server, key):
    return server.ask("/sums", [1, 2], headers={"Idempotency-Key": key})


def id_for_key(server, key):
    """POST with this key; return the id that is answered with 202, or fail."""
    status, _, body = ask_with_key(server, key)
    assert status == 202 and text_in(body, "id"), (
        f"POST /sums with an Idempotency-Key should answer 202 and an id, but it answered {status}"
        f" {body}."
    )
    return body["id"]


@pytest.mark.star(
    "a `POST /sums` with a header `Idempotency-Key` that was answered with 202 before, even by"
    " another process of the server, gets the same answer and sends no message; if it was answered"
    " with 503, it sends the sum",
    "an-unknown-id",
)
@needs_page_server
@pytest.mark.isolated(count=0, server=True)
def test_star_key(app, app_under_test, own_redis):
    """Annotated[str | None, Header()] is the header. What must become of a record whose message
    can't be sent?"""
    first = str(uuid4())
    second = str(uuid4())
    with serving() as server:
        own_redis.stop()
        answer = ask_with_key(server, first)
        assert_refused("POST /sums with a key while Redis is down", answer, 503)
        own_redis.start()
        ids = [id_for_key(server, first), id_for_key(server, second)]
        ids += [id_of(server.send([1, 2])), id_of(server.send([1, 2]))]
        assert len(set(ids)) == 4, (
            f"Two keys, and two POSTs without one, should get four ids, but they got {ids}."
        )
        missing = set(ids) - set(waiting_ids(app_under_test))
        assert not missing, (
            "A POST should send its sum, even if its key was answered with 503 before, but no"
            f" message was sent for {len(missing)} of four."
        )
        assert id_for_key(server, first) == ids[0], (
            "A key that was answered with 202 before should get the same id, but it got another."
        )
    other = start_page_server(app_under_test)
    assert id_for_key(other, second) == ids[1], (
        "Another process of the server should answer the same id for a key that was sent before,"
        " but it answered another."
    )
    sent = waiting_ids(app_under_test)
    assert sorted(sent) == sorted(ids), (
        "A key that was answered with 202 before should send no message, but"
        f" {len(sent) - len(ids)} more were sent."
    )


def waiting_ids(app_under_test):
    """Return the ids of the messages in the queue `celery`."""
    waiting = app_under_test.broker.client.lrange("celery", 0, -1)
    return [json.loads(text)["headers"]["id"] for text in waiting]
