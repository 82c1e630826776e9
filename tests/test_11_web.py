"""Chapter 11: a page that hands sums to the workers, and tells how far they are."""

import importlib
import json
import os
import re
import threading
import time
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from celery import signals
from support.assertions import assert_listed, assert_setting, assert_task_returns, describe
from support.lessons import LessonRunner

from course.environment import free_port
from course.waiting import wait_until

XSUM = "tasks.math.xsum_request"
MATH = ["add", "sub", "mul", "divide", "xsum"]
LEDGER = ["tasks.ledger.enter_request", "tasks.ledger.interest_request"]
SECONDS = (
    3 if os.environ.get("DIR") else 10
)  # within which anything is answered; ours on a busy machine, too
DOWN = "while Redis is down"


class Site:
    """The page's server, which runs in threads of this process, so that what it sends can be looked at."""

    def __init__(self, port=None):
        self.url = f"http://127.0.0.1:{port or free_port()}"

    def ask(self, path, numbers=None, seconds=SECONDS, when=""):
        """Ask for a path, or post numbers to it; return the status, the headers and what the JSON says."""
        data = (
            None
            if numbers is None
            else numbers
            if isinstance(numbers, bytes)
            else json.dumps(numbers).encode()
        )
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        what = f"{request.get_method()} {path[:10]}{when and f' {when}'}"
        try:
            try:
                answer = urlopen(request, timeout=seconds)
            except HTTPError as error:
                answer = error
            with answer:
                return answer.status, answer.headers, told(answer.read())
        except TimeoutError:
            raise AssertionError(
                f"{what} should answer within {seconds} seconds, and didn't."
            ) from None
        except OSError as error:
            raise AssertionError(
                f"{what} should be answered, and this was raised: {describe(error)}"
            ) from None

    def send(self, numbers):
        """Post numbers; return the path of the sum, or fail."""
        status, headers, body = self.ask("/sums", numbers)
        what = f"POST /sums with {numbers}"
        assert status == 202, f"{what} should answer 202, it answered {status} {body}."
        id = isinstance(body, dict) and body.get("id")
        assert id and isinstance(id, str), (
            f'{what} should answer {{"id": "..."}}, it answered {body}.'
        )
        path = headers["Location"]
        assert path == f"/sums/{id}", (
            f"{what} should have the header Location: /sums/{id}, it has {path!r}."
        )
        return path

    def tells(self, path, wanted, when):
        """Fail unless the sum is told like this, once it is no longer told as waiting."""
        found = self.ask(path)[::2]
        assert found == (200, wanted), (
            f"GET {path[:10]}... should answer 200 {json.dumps(wanted)} {when}, it answered {found[0]} {found[1]}."
        )

    def refuses(self, what, found, status):
        """Fail unless a call was refused with this status, and a sentence."""
        assert found[0] == status, (
            f"{what} should be answered with {status}, it was with {found[0]} {found[2]}."
        )
        detail = isinstance(found[2], dict) and found[2].get("detail")
        assert detail and isinstance(detail, str), (
            f'{what} should be answered with {{"detail": "..."}}, a sentence; it was with {found[2]}.'
        )


def told(body):
    """Return what JSON says, or a text where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def serving(module="web"):
    """Serve what web.py of the folder under test calls app."""
    try:
        served = importlib.import_module(module).app
    except ImportError as error:
        raise AssertionError(
            f"`uvicorn {module}:app` should find an app, and raised {describe(error)}"
        ) from None
    except AttributeError:
        raise AssertionError(f"{module}.py should have an app: app = FastAPI().") from None
    site = Site()
    port = int(site.url.rpartition(":")[2])
    server = uvicorn.Server(
        uvicorn.Config(served, port=port, log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), 10)
        assert server.started, f"`uvicorn {module}:app` should start, and it doesn't."
        yield site
    finally:
        server.should_exit = True
        thread.join(5)


@pytest.fixture
def site(app):
    with serving() as made:
        yield made


@pytest.fixture
def redis_is(app_under_test):
    """Stops the app's own Redis and starts it again: redis_is("down"), "up", "frozen"."""
    broker = app_under_test.broker

    def become(what):
        if what == "up":
            broker.start()
            wait_until(lambda: answers_ping(broker.client), 10)
        else:
            broker.kill("SIGKILL" if what == "down" else "SIGSTOP")

    yield become


def answers_ping(client):
    try:
        return client.ping()
    except OSError:
        return False
    except Exception:  # noqa: BLE001  redis has its own kind
        return False


class Elements(HTMLParser):
    """The elements of a page, and the ids that its labels are for."""

    def __init__(self, text):
        super().__init__()
        self.names, self.labelled, self.fields = set(), set(), []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.names.add(name)
        if name == "label":
            self.labelled.add(attributes.get("for"))
        if name in ("input", "textarea", "progress"):
            self.fields.append((name, attributes.get("id")))


def test_lesson(request, monkeypatch, folder, lesson, shared, tmp_path):
    """Another port than the reader's 8000, which may be in use, is in the copy of the lesson and in the environment."""
    if request.config.option.docker:
        pytest.skip("the page's server runs on this machine: make test")
    port = free_port()
    monkeypatch.setenv("UVICORN_PORT", str(port))
    path = folder / "README.md"
    path.write_text(path.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    LessonRunner(path, shared, tmp_path / "lesson").holds()


@pytest.mark.step(
    "`uvicorn web:app` starts, and `/` is a page with a form, a field with a label, and a progress bar",
    "a-page",
)
@pytest.mark.isolated(count=0)
def test_page(shared, site):
    """Copy page.html from the chapter, and answer / with FileResponse("page.html")."""
    status, headers, text = site.ask("/")
    kind = headers["Content-Type"] or ""
    assert status == 200 and kind.startswith("text/html"), (
        f"/ should answer 200 with HTML, it answered {status} with {kind or 'no type'}."
    )
    page = Elements(str(text))
    missing = {"form", "label", "progress"} - page.names
    assert not missing, (
        f"The page at / should have a form, a label and a progress bar; it has no {missing.pop()}."
    )
    bare = [name for name, id in page.fields if id not in page.labelled]
    assert not bare, f"Each field of the page should have a label; the {bare[0]} has none."


@pytest.mark.step(
    '`POST /sums` with `[1, 2.5]` answers 202 at once, with `{"id": …}` and a `Location` that leads to the sum',
    "send-and-ask",
)
@pytest.mark.isolated(count=0)
def test_send(site, app, app_under_test):
    """Send with apply_async, which returns at once, and set response.headers["Location"]."""
    path = site.send([1, 2.5])
    waiting = app_under_test.broker.client.lrange("celery", 0, -1)
    names = [json.loads(each)["headers"]["task"] for each in waiting]
    assert names == [XSUM], (
        f"POST /sums should send one message, for {XSUM}; it sent {names or 'none'}."
    )
    id = json.loads(waiting[0])["headers"]["id"]
    assert path == f"/sums/{id}", f"The answer's id should be the task's, {id}; it leads to {path}."
    assert site.send([1, 2.5]) != path, "Each POST should give an id of its own, two gave the same."


@pytest.mark.step('`GET` there answers `{"state": "PENDING"}` while no worker runs', "send-and-ask")
@pytest.mark.isolated(count=0)
def test_a_waiting_sum(site):
    """Look at what the result backend has, and wait for nothing: no get in a request."""
    site.tells(site.send([1, 2.5]), {"state": "PENDING"}, "while no worker runs")


@pytest.mark.step(
    '`GET` answers `{"state": "SUCCESS", "result": 3.5}` when the task has succeeded',
    "send-and-ask",
)
def test_a_sum(celery_setup, site):
    """meta["status"] and meta["result"] of celery.backend.get_task_meta(id)."""
    path = site.send([1, 2.5])
    wait_until(lambda: not re.search("PENDING|PROGRESS", str(site.ask(path)[2])), 8)
    site.tells(path, {"state": "SUCCESS", "result": 3.5}, "when a worker has done it")


@pytest.mark.step(
    '`GET` answers `{"state": "PROGRESS", "result": {"done": 1, "of": 4}}` while the task runs',
    "send-and-ask",
)
@pytest.mark.isolated(count=0)
def test_a_sum_in_progress(site, app):
    """What xsum_request passes to update_state is the result while the state is PROGRESS."""
    path = site.send([1, 2, 3, 4])
    app.backend.store_result(path[6:], {"done": 1, "of": 4}, "PROGRESS")
    site.tells(
        path, {"state": "PROGRESS", "result": {"done": 1, "of": 4}}, "when one of four is done"
    )


@pytest.mark.step(
    '`GET` answers `{"state": "FAILURE"}` when the task has failed, and doesn\'t show the exception',
    "a-failure",
)
@pytest.mark.isolated(count=0)
def test_a_sum_that_failed(site, app):
    """The result is the exception then. Give the result only for PROGRESS and SUCCESS."""
    path = site.send([1, 2])
    app.backend.mark_as_failure(path[6:], ValueError("what isn't a visitor's"))
    site.tells(path, {"state": "FAILURE"}, "when it has failed")


@pytest.mark.step("an unknown id is answered with 404", "an-unknown-id")
@pytest.mark.isolated(count=0)
def test_an_id_that_never_was(site):
    """Keep each id yourself before you send: Celery says PENDING for any id."""
    site.send([1])
    for id in "nothing", "11111111-2222-4333-8444-555555555555":
        site.refuses(f"GET /sums/{id}, an unknown id,", site.ask(f"/sums/{id}"), 404)


@pytest.mark.step(
    "anything but a list of 1 to 1000 finite numbers is answered with 422, and no message is sent",
    "invalid-input",
)
@pytest.mark.isolated(count=0)
def test_bad_input(site, app_under_test):
    """Field(ge=-1e15, le=1e15) for a number, min_length and max_length for the list; answer a RequestValidationError yourself."""
    bodies = [
        b'["four"]',
        b"[]",
        b'{"a": 1}',
        b"[1",
        b"[1e400]",
        b"[NaN]",
        b'["inf"]',
        b"[[1]]",
        str([1] * 1001).encode(),
    ]
    for body in bodies:
        what = f"POST /sums with {body[:20].decode()}{'...' * (len(body) > 20)}"
        site.refuses(what, site.ask("/sums", body), 422)
        sent = app_under_test.broker.client.llen("celery")
        assert not sent, f"{what} should send nothing, it sent {sent} message."


@pytest.mark.step("the record of a sum is committed before its message is sent", "an-unknown-id")
@pytest.mark.isolated(count=0)
def test_the_message_comes_after_the_commit(site, app):
    """`with db:` commits at its end. Send after it."""
    found = []

    def look(headers, **_):
        found.append(site.ask(f"/sums/{headers['id']}")[0])

    signals.before_task_publish.connect(look)
    try:
        site.send([1, 2])
    finally:
        signals.before_task_publish.disconnect(look)
    assert found == [200], (
        f"When the message is sent, GET of its id should answer 200, as its record is committed; it answered {found[0]}."
    )


@pytest.mark.step(
    "a sum whose result Redis has deleted, after `result_expires` seconds, is answered with 410",
    "an-expired-result",
)
@pytest.mark.isolated(count=0)
def test_an_expired_result(app, monkeypatch):
    """Keep the time beside the id; PENDING means expired when it is longer ago than app.conf.result_expires."""
    monkeypatch.setitem(app.conf, "result_expires", 0.001)
    with serving() as site:
        path = site.send([1])
        time.sleep(0.01)
        site.refuses("GET of a sum whose result has expired", site.ask(path), 410)
        app.backend.store_result(path[6:], 1.0, "SUCCESS")
        site.tells(path, {"state": "SUCCESS", "result": 1.0}, "as long as Redis has the result")


@pytest.mark.step(
    "while Redis is down, `POST` and `GET` answer 503 within three seconds, and work again once Redis is back",
    "when-redis-is-down",
)
@pytest.mark.isolated(count=0, server=True)
def test_redis_is_down(site, redis_is):
    """Settings of the web process alone limit how often it tries, and for how long; an exception handler answers."""
    path = site.send([1])
    redis_is("down")
    for _ in range(2):
        site.refuses("POST /sums while Redis is down", site.ask("/sums", [1, 2], 3, DOWN), 503)
        site.refuses("GET of a sum while Redis is down", site.ask(path, None, 3, DOWN), 503)
    redis_is("up")
    site.tells(site.send([1, 2]), {"state": "PENDING"}, "once Redis is back")
    redis_is("down")
    redis_is("up")
    site.tells(site.send([1, 2]), {"state": "PENDING"}, "after Redis was restarted")


@pytest.mark.step("the tasks and the settings of chapter 10 are still there", "a-page")
def test_what_chapter_10_had(celery_setup, worker, app):
    """Nothing else changes in this chapter."""
    assert_listed(worker, [*LEDGER, *(f"tasks.math.{name}_request" for name in MATH)])
    for name in ("task_acks_late", "task_reject_on_worker_lost"):
        assert_setting(app, name, True)
    assert_setting(app, "result_expires", 3600)
    assert_setting(app, "broker_transport_options", {"visibility_timeout": 3600})
    assert_task_returns(app, "tasks.math.add_request", (4, 4), 8)
