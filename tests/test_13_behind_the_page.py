"""Chapter 13: what its lesson says of Celery, FastAPI and Redis.

The page's server runs in threads of the test's process.
"""

import asyncio
import importlib
import json
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from urllib.request import Request

import anyio.to_thread
import psutil
import pytest
from celery.result import AsyncResult, denied_join_result
from kombu.exceptions import OperationalError
from support.assertions import assert_raises, find_task, wait_until_ready
from support.names import ALONE, XSUM
from support.nodes import IGNORED, AppUnderTest
from support.page_server import (
    OwnRedis,
    assert_refused,
    id_of,
    needs_page_server,
    open_request,
    post,
    serving,
    start_page_server,
)

from course.chapters import ROOT
from course.environment import PINNED
from course.waiting import wait_until

pytest_plugins = "support.page_server"
DOWN = "while Redis is down"
# What a browser asks before a page of another site may send JSON.
PREFLIGHT = {
    "Origin": "http://example.com",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}


class FinishesAtTheSecondLook:
    """What a result backend finds of a sum that finishes after it was looked up once."""

    def __init__(self):
        self.lookups = 0

    def __call__(self, *_):
        self.lookups += 1
        if self.lookups == 1:
            return self.meta("PROGRESS", {"done": 1, "of": 2})
        return self.meta("SUCCESS", 3.0)

    def meta(self, status, result):
        return {"status": status, "result": result, "traceback": None, "children": []}


@pytest.mark.isolated(count=0)
def test_state_and_result_are_two_lookups(page_server, app, monkeypatch):
    """If the sum finishes between them, the state is the old one and the result the new."""
    path = page_server.send([1, 2])
    # On the class, since each thread has another backend.
    backend = type(app.backend)
    monkeypatch.setattr(backend, "get_task_meta", FinishesAtTheSecondLook())
    result = AsyncResult(id_of(path), app=app)
    found = result.state, result.result
    assert found == ("PROGRESS", 3.0), (
        f"state and result should be ('PROGRESS', 3.0), which don't match, but they are {found}."
    )
    monkeypatch.setattr(backend, "get_task_meta", FinishesAtTheSecondLook())
    progress = {"state": "PROGRESS", "result": {"done": 1, "of": 2}}
    page_server.assert_state(path, progress, "from one lookup")


@pytest.mark.isolated(count=0)
def test_celery_says_pending_for_any_id(app):
    found = AsyncResult("nothing", app=app).state
    assert found == "PENDING", (
        f"The state of an id that never was should be PENDING, but it is {found}."
    )


def count_subscribers(app, id):
    """Return how many connections are subscribed to a result."""
    channel = app.backend.get_key_for_task(id)
    [[_, count]] = app.backend.client.pubsub_numsub(channel)
    return count


@pytest.mark.isolated(count=0)
def test_no_request_waits(page_server, app):
    """In the server's process, get raises at once, and sending a message subscribes to nothing."""
    id = id_of(page_server.send([1, 2]))
    with assert_raises(
        RuntimeError, "get() should raise RuntimeError in the process of the page's server"
    ):
        AsyncResult(id, app=app).get(timeout=1)
    count = count_subscribers(app, id)
    assert count == 0, (
        f"The page's server should not subscribe to its results, but {count} connection(s) do."
    )


@pytest.mark.isolated(count=0)
def test_delay_subscribes_unless_get_is_denied(app):
    result = find_task(app, XSUM).delay([1, 2])
    count = count_subscribers(app, result.id)
    assert count == 1, f"delay should subscribe to the result once, but {count} connections do."


@pytest.mark.isolated(count=0)
def test_a_sum_that_no_worker_took_in_time_is_cancelled(app, app_under_test, monkeypatch):
    """The message expires when its result would."""
    monkeypatch.setitem(app.conf, "result_expires", 0.2)
    revoked = {"state": "REVOKED"}
    with serving() as server:
        path = server.send([1])
        time.sleep(0.2)
        wait_until_ready(app_under_test.add_worker(ALONE))
        wait_until(lambda: server.state(path) == revoked)
        server.assert_state(path, revoked, "when no worker took it in time")


@pytest.mark.isolated(count=0)
def test_what_a_killed_worker_held_has_expired_when_it_comes_back(app):
    """It was taken after it was sent."""
    held = app.conf.broker_transport_options["visibility_timeout"]
    lasts = app.conf.result_expires
    assert held >= lasts, (
        f"A message should come back after it has expired, {lasts} s after it was sent, but it does"
        f" {held} s after it was taken."
    )


@needs_page_server
@pytest.mark.isolated(count=0, server=True)
def test_redis_is_down_when_the_page_starts(app_under_test, own_redis):
    """In a process of its own, which has no connection that an earlier test has made."""
    own_redis.stop()
    server = start_page_server(app_under_test)
    answer = server.ask("/sums", [1, 2], when="when the server has never reached Redis")
    assert_refused("POST /sums while Redis is down", answer, 503)
    wait = answer.headers["Retry-After"]
    assert wait == "5", f"503 should come with Retry-After: 5, but that header is {wait}."
    own_redis.start()
    server.assert_state(server.send([1, 2]), {"state": "PENDING"}, "once Redis is there")


@pytest.mark.isolated(count=0, server=True)
def test_celery_tries_for_twenty_seconds_otherwise(app, own_redis, monkeypatch):
    """So long does delay try to subscribe to the result. The time is counted and not spent."""
    naps = []
    monkeypatch.setattr("kombu.utils.functional.sleep", naps.append)
    own_redis.stop()
    with assert_raises(Exception, "delay should raise an exception when Redis is down"):
        find_task(app, XSUM).delay([1, 2])
    seconds = sum(naps)
    assert 18 <= seconds <= 22, (
        f"delay should try for about 20 seconds when Redis is down, but it slept for {seconds}."
    )


def test_forty_visitors_who_wait_take_all_threads():
    async def count_threads():
        return anyio.to_thread.current_default_thread_limiter().total_tokens

    found = asyncio.run(count_threads())
    assert found == 40, f"FastAPI should run each def in one of 40 threads, but it has {found}."


@pytest.mark.isolated(count=0)
def test_the_page_has_no_pages_that_load_from_elsewhere(page_server):
    for path in "/docs", "/redoc", "/openapi.json":
        status, _, _ = page_server.ask(path)
        assert status == 404, f"{path} should be answered with 404, but it was with {status}."


def seconds_of_start_page(server, path):
    """Let thirty visitors ask for a sum, and return the seconds that / takes meanwhile.

    It is the quickest of five answers, since a busy machine may delay one, too.
    """
    times = []
    while len(times) < 5 and min(times, default=1) > 0.6:
        with ThreadPoolExecutor(30) as visitors:
            for _ in range(30):
                visitors.submit(server.ask, path)
            time.sleep(0.3)
            begin = time.monotonic()
            server.ask("/", when="while thirty visitors wait for Redis")
            times.append(time.monotonic() - begin)
    return min(times)


def answers_meanwhile(server, own_redis):
    """Freeze Redis and send sums, which take a second to fail; return how often / was quicker.

    If the machine stands still meanwhile, / may be slower.
    """
    server.send([1])
    own_redis.freeze()
    count = 0
    for _ in range(3):
        sender = threading.Thread(target=server.ask, args=("/sums", [1, 2]))
        sender.start()
        time.sleep(0.2)
        server.ask("/")
        sender.join(0.3)
        count += sender.is_alive()
        sender.join()
    return count


@pytest.mark.isolated(count=0, server=True)
def test_an_async_def_keeps_all_others_waiting(app, folder, own_redis):
    path = folder / "web_async.py"
    text = (folder / "web.py").read_text()
    path.write_text(text.replace("\ndef send(", "\nasync def send("))
    with serving("web_async") as server:
        count = answers_meanwhile(server, own_redis)
    path.unlink()
    assert count < 3, "An async def that waits for Redis should keep / waiting, but it didn't."


class TriesForAnHourError(Exception):
    """Celery has tried for an hour and would try again."""


@pytest.mark.isolated(count=0, server=True)
def test_connecting_to_a_broker(app, own_redis, monkeypatch):
    """Without a limit, Celery 5.1 tries forever. The pauses are counted and not spent."""
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if sum(naps) > 3600:
            raise TriesForAnHourError

    monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
    own_redis.stop()
    kind = OperationalError
    if PINNED:
        kind = TriesForAnHourError
    sentence = f"delay should raise {kind.__name__} when the broker is down"
    with denied_join_result(), assert_raises(kind, sentence):
        find_task(app, XSUM).delay([1, 2])


@pytest.mark.isolated(count=0, server=True)
def test_how_long_a_worker_waits(app, own_redis, monkeypatch):
    """It tries a hundred times, after pauses of up to half a minute, which are not spent here."""
    naps = []
    monkeypatch.setattr("kombu.utils.functional.sleep", naps.append)
    own_redis.stop()
    tries = app.conf.broker_connection_max_retries
    connection = app.connection_for_read()
    with assert_raises(OperationalError, "A worker should give up on its broker in the end"):
        connection.ensure_connection(lambda *_: None, tries)
    wanted = (100, 46)
    if PINNED:
        wanted = (100, 49)
    found = (tries, int(sum(naps) / 60))
    assert found == wanted, (
        f"A worker should try {wanted[0]} times to connect again, within {wanted[1]} minutes, but"
        f" it would try {found[0]} times within {found[1]}."
    )


@pytest.mark.isolated(slow_tasks=True, settings={"broker_connection_max_retries": 1}, server=True)
def test_a_worker_exits_after_its_last_try(app_under_test, app, own_redis):
    """With one try instead of a hundred."""
    [worker] = app_under_test.workers
    wait_until_ready(worker)
    own_redis.stop()
    exited = wait_until(lambda: worker.status == "exited", 60)
    assert exited, f"A worker should exit after its last try to connect.\n{worker.logs()}"


@pytest.mark.parametrize("chapter", ["13-web", "14-production"])
def test_redis_is_killed_under_the_page(nodes, tmp_path, chapter):
    """The page answers soon, also with production's settings, and goes on once Redis is back."""
    folder = shutil.copytree(ROOT / "chapters" / chapter, tmp_path / chapter, ignore=IGNORED)
    made = AppUnderTest(nodes, folder, count=0, server=True)
    redis = OwnRedis(made.broker)
    try:
        server = start_page_server(made)
        path = server.send([1])
        redis.stop()
        assert_unreachable(server, path, DOWN)
        redis.start()
        path = server.send([1])
        redis.freeze()
        assert_unreachable(server, path, "while Redis doesn't answer")
        assert_refuses_a_crowd(server)
        seconds = seconds_of_start_page(server, path)
        assert seconds < 0.6, (
            "/ should be answered while thirty visitors wait for Redis, but it took"
            f" {seconds:.1f} s."
        )
    finally:
        made.close()


def assert_refuses_a_crowd(server):
    """Fail unless forty senders, who share ten connections, are all answered with 503.

    On a quiet day, it takes the last of them four seconds.
    """
    with ThreadPoolExecutor(40) as visitors:
        asking = [visitors.submit(server.ask, "/sums", [1], 20) for _ in range(40)]
    statuses = {future.result().status for future in asking}
    assert statuses == {503}, f"Forty visitors should all be answered 503, but are {statuses}."


def assert_unreachable(server, path, when):
    """Fail unless POST and GET are answered with 503 and don't try for 20 seconds, as Celery would.

    On a quiet day, it takes them a second.
    """
    seconds = 15
    answer = server.ask("/sums", [1, 2], seconds, when)
    assert_refused(f"POST /sums {when}", answer, 503)
    answer = server.ask(path, None, seconds, when)
    assert_refused(f"GET of a sum {when}", answer, 503)


def record_count(folder):
    with closing(sqlite3.connect(folder / "sums.db")) as db:
        return db.execute("SELECT count(*) FROM sums").fetchone()[0]


def let_time_pass(folder, seconds):
    """Make all records older."""
    with closing(sqlite3.connect(folder / "sums.db")) as db:
        db.execute("UPDATE sums SET asked = asked - ?", (seconds,))
        db.commit()


@pytest.mark.isolated(count=0)
def test_records_end_after_a_day(page_server, folder):
    path = page_server.send([1])
    let_time_pass(folder, 23 * 3600)
    page_server.send([1])
    answer = page_server.ask(path)
    assert_refused("GET of a sum that was sent 23 hours ago", answer, 410)
    let_time_pass(folder, 2 * 3600)
    page_server.send([1])
    answer = page_server.ask(path)
    assert_refused("GET of a sum that was sent 25 hours ago", answer, 404)
    let_time_pass(folder, 25 * 3600)
    page_server.send([1])
    count = record_count(folder)
    assert count == 1, f"Records should end after a day, but {count} are left of 1."


@pytest.mark.isolated(count=0)
@pytest.mark.parametrize(
    "headers, beginning",
    [
        ({"Content-Length": "60000000"}, b""),
        ({"Transfer-Encoding": "chunked"}, b"20000\r\n" + b"1" * 0x20000 + b"\r\n"),
    ],
    ids=["announced", "in chunks"],
)
def test_a_long_body_is_refused_before_it_has_come(page_server, headers, beginning):
    answer = post(page_server, headers, beginning)
    assert answer.status == 413, (
        f"POST /sums with a long body should be answered with 413, but it was with {answer}."
    )


def test_a_long_body_takes_no_memory(shared):
    """A million numbers made the server ten times as large before they were refused."""
    server = start_page_server(shared)
    server.send([1])
    process = psutil.Process(shared.others[-1].process.pid)
    before = process.memory_info().rss
    body = b"[" + b"1," * 30_000_000 + b"1]"
    answer = post(server, {"Content-Length": str(len(body))}, body)
    assert answer.status == 413, f"60 MB should be answered with 413, but it was with {answer}."
    grown = (process.memory_info().rss - before) / 1e6
    assert grown < 20, f"The server should read little of 60 MB, but it grew by {grown:.0f} MB."


@pytest.mark.isolated(count=0)
def test_a_refusal_quotes_little(page_server):
    answer = page_server.ask("/sums", ["4" * 1000 + "x"])
    assert len(answer.body["detail"]) < 100, (
        f"A refusal should quote 30 characters of the input, but it is {answer.body}."
    )


@pytest.mark.isolated(count=0)
def test_a_page_of_another_site_starts_no_sum(page_server, app_under_test):
    """It may send only what a form can send, unless the server allows more, which ours doesn't."""
    headers = {"Origin": "http://example.com", "Content-Type": "text/plain"}
    answer = page_server.ask("/sums", [1, 2], headers=headers)
    assert_refused("POST /sums with the content type of a form", answer, 422)
    sent = app_under_test.broker.client.llen("celery")
    assert sent == 0, f"A page of another site should send no message, but it sent {sent}."
    request = Request(f"{page_server.url}/sums", headers=PREFLIGHT, method="OPTIONS")
    answer = open_request(request, 30)
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed is None, f"No other origin should be allowed to send JSON, but {allowed!r} is."


@pytest.mark.isolated(count=0)
def test_sending_again(page_server, app, app_under_test, folder):
    """Only what has no result and hasn't expired is sent, with what is left of its hour."""
    redis = app_under_test.broker.client
    let_time_pass(folder, 2 * 3600)
    old = page_server.send([1])
    done = page_server.send([2])
    let_time_pass(folder, 3600)
    lost = page_server.send([3])
    let_time_pass(folder, 600)
    app.backend.store_result(id_of(done), 2.0, "SUCCESS")
    redis.delete("celery")
    count = importlib.import_module("experiments").send_again()
    sent = [json.loads(text)["headers"] for text in redis.lrange("celery", 0, -1)]
    ids = [headers["id"] for headers in sent]
    assert (count, ids) == (1, [id_of(lost)]), (
        f"send_again should send the lost sum again, {id_of(lost)}, and not {id_of(old)}, which has"
        f" expired, but it returned {count} and sent {ids}."
    )
    expires = sent[0]["expires"]
    assert expires, (
        "send_again should keep what is left of the hour, but its message never expires."
    )
    left = datetime.fromisoformat(expires) - datetime.now(UTC)
    minutes = left.total_seconds() / 60
    assert 48 < minutes < 51, (
        f"A sum that is 10 minutes old should expire 50 minutes later, but it would in {minutes}."
    )


@pytest.mark.isolated(count=0)
def test_reading_a_record_does_not_wait_for_writing(page_server, folder):
    path = page_server.send([1])
    with closing(sqlite3.connect(folder / "sums.db")) as db:
        db.execute("BEGIN EXCLUSIVE")
        page_server.assert_state(path, {"state": "PENDING"}, "while another record is written")
