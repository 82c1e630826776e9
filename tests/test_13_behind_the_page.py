"""Chapter 13: what its lesson says of Celery, FastAPI and Redis.

The page's server runs in threads of the test's process.
"""

import asyncio
import threading
import time

import anyio.to_thread
import pytest
from celery.result import AsyncResult, denied_join_result
from kombu.exceptions import OperationalError
from support.assertions import assert_raises, find_task, wait_until_ready
from support.names import ALONE, XSUM
from support.page_server import assert_refused, id_of, serving

from course.environment import PINNED
from course.waiting import wait_until

pytest_plugins = "support.page_server"


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
        wait_until(lambda: server.state(path) == revoked, 5)
        server.assert_state(path, revoked, "when no worker took it in time")


@pytest.mark.isolated(count=0, server=True)
def test_redis_is_down_when_the_page_starts(app, app_under_test, own_redis):
    own_redis.stop()
    with serving() as server:
        assert_refused("POST /sums while Redis is down", server.ask("/sums", [1, 2]), 503)
        own_redis.start()
        server.assert_state(server.send([1, 2]), {"state": "PENDING"}, "once Redis is there")


@pytest.mark.isolated(count=0, server=True)
def test_redis_is_frozen(page_server, own_redis):
    path = page_server.send([1])
    own_redis.freeze()
    answer = page_server.ask("/sums", [1, 2])
    assert_refused("POST /sums while Redis doesn't answer", answer, 503)
    answer = page_server.ask(path)
    assert_refused("GET of a sum while Redis doesn't answer", answer, 503)


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


def quickest_answer(server, own_redis):
    """Freeze Redis and send a sum, which takes a second to fail; return the seconds of / meanwhile.

    It is the quickest of three answers, since a busy machine may delay one, too.
    """
    server.send([1])
    own_redis.freeze()
    times = []
    for _ in range(3):
        sender = threading.Thread(target=server.ask, args=("/sums", [1, 2]))
        sender.start()
        time.sleep(0.2)
        begin = time.monotonic()
        server.ask("/")
        times.append(time.monotonic() - begin)
        sender.join()
    return min(times)


@pytest.mark.isolated(count=0, server=True)
def test_others_are_answered_while_one_waits_for_redis(page_server, own_redis):
    seconds = quickest_answer(page_server, own_redis)
    assert seconds < 0.6, (
        f"/ should be answered while another request waits for Redis, but it took {seconds:.1f} s."
    )


@pytest.mark.isolated(count=0, server=True)
def test_an_async_def_keeps_all_others_waiting(app, folder, own_redis):
    path = folder / "web_async.py"
    text = (folder / "web.py").read_text()
    path.write_text(text.replace("\ndef send(", "\nasync def send("))
    with serving("web_async") as server:
        seconds = quickest_answer(server, own_redis)
    path.unlink()
    assert seconds > 0.6, (
        f"An async def that waits for Redis should keep / waiting, but / took only {seconds:.1f} s."
    )


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
