"""Chapter 11: what its lesson says of Celery, FastAPI and Redis, on the page's server in threads of the test's process."""

import asyncio
import threading
import time

import anyio.to_thread
import pytest
import test_11_web
from celery.result import AsyncResult, denied_join_result
from kombu.exceptions import OperationalError
from support.assertions import assert_raises, find_task, wait_until_ready
from test_11_web import XSUM, serving

from course.environment import PINNED
from course.waiting import wait_until

redis_is, site = test_11_web.redis_is, test_11_web.site


@pytest.mark.isolated(count=0)
def test_state_and_result_are_two_looks(site, app, monkeypatch):
    """Between them the sum may finish: the state is the old one then, and the result the new."""
    path, found = site.send([1, 2]), []
    on_its_way = {
        "status": "PROGRESS",
        "result": {"done": 1, "of": 2},
        "traceback": None,
        "children": [],
    }
    done = on_its_way | {"status": "SUCCESS", "result": 3.0}
    # Each thread has a backend of its own.
    monkeypatch.setattr(
        type(app.backend),
        "_get_task_meta_for",
        lambda *_: found.append(1) or (done if found[1:] else on_its_way),
    )
    result = AsyncResult(path[6:], app=app)
    two = result.state, result.result
    assert two == ("PROGRESS", 3.0), (
        f"Two looks should find what doesn't fit together, they found {two}."
    )
    found.clear()
    site.tells(path, {"state": "PROGRESS", "result": {"done": 1, "of": 2}}, "at one look")


@pytest.mark.isolated(count=0)
def test_celery_says_pending_for_any_id(app):
    found = AsyncResult("nothing", app=app).state
    assert found == "PENDING", (
        f"Celery should say PENDING for an id that never was, it says {found}."
    )


@pytest.mark.isolated(count=0)
def test_no_request_waits(site, app):
    """In the server's process, get raises at once, and a message that is sent subscribes to nothing."""
    id = site.send([1, 2])[6:]
    with assert_raises(
        RuntimeError, "get should raise RuntimeError in the process of the page's server"
    ):
        AsyncResult(id, app=app).get(timeout=1)
    listening = app.backend.client.pubsub_numsub(app.backend.get_key_for_task(id))[0][1]
    assert not listening, (
        f"The page's server should not subscribe to its results, {listening} of it does."
    )


@pytest.mark.isolated(count=0)
def test_delay_subscribes_where_get_may_follow(app):
    result = find_task(app, XSUM).delay([1, 2])
    listening = app.backend.client.pubsub_numsub(app.backend.get_key_for_task(result.id))[0][1]
    assert listening == 1, f"delay should subscribe to the result once, {listening} do."


@pytest.mark.isolated(count=0)
def test_a_sum_that_no_worker_took_in_time_is_cancelled(app, app_under_test, monkeypatch):
    """The message expires when its result would."""
    monkeypatch.setitem(app.conf, "result_expires", 0.2)
    with serving() as site:
        path = site.send([1])
        time.sleep(0.2)
        wait_until_ready(app_under_test.add_worker(["--without-mingle", "--without-gossip"]))
        wait_until(lambda: site.ask(path)[2] == {"state": "REVOKED"}, 5)
        site.tells(path, {"state": "REVOKED"}, "when no worker took it in time")


@pytest.mark.isolated(count=0, server=True)
def test_redis_is_down_when_the_page_starts(app, app_under_test, redis_is):
    redis_is("down")
    with serving() as site:
        site.refuses("POST /sums while Redis is down", site.ask("/sums", [1, 2]), 503)
        redis_is("up")
        site.tells(site.send([1, 2]), {"state": "PENDING"}, "once Redis is there")


@pytest.mark.isolated(count=0, server=True)
def test_redis_is_frozen(site, redis_is):
    """It accepts a connection, and says nothing."""
    path = site.send([1])
    redis_is("frozen")
    site.refuses("POST /sums while Redis doesn't answer", site.ask("/sums", [1, 2]), 503)
    site.refuses("GET of a sum while Redis doesn't answer", site.ask(path), 503)


@pytest.mark.isolated(count=0, server=True)
def test_celery_tries_for_twenty_seconds_otherwise(app, redis_is, monkeypatch):
    """As long as delay would subscribe to the result: the time is counted and not waited for."""
    naps = []
    monkeypatch.setattr("kombu.utils.functional.sleep", naps.append)
    redis_is("down")
    with assert_raises(Exception, "delay should give up when Redis is down"):
        find_task(app, XSUM).delay([1, 2])
    assert 18 <= sum(naps) <= 22, (
        f"delay should try for about 20 seconds when Redis is down, it slept {sum(naps)}."
    )


def test_forty_visitors_who_wait_take_all_threads():
    async def count():
        return anyio.to_thread.current_default_thread_limiter().total_tokens

    found = asyncio.run(count())
    assert found == 40, f"FastAPI should run each def in one of 40 threads, it has {found}."


@pytest.mark.isolated(count=0)
def test_the_page_has_no_pages_that_load_from_elsewhere(site):
    for path in "/docs", "/redoc", "/openapi.json":
        status, _, _ = site.ask(path)
        assert status == 404, f"{path} should be answered with 404, it was with {status}."


def quickest_answer(site, redis_is):
    """Have somebody send a sum to a frozen Redis, which takes a second to fail; return the seconds that / takes meanwhile.

    The fastest of three: a busy machine may keep it waiting, too.
    """
    site.send([1])
    redis_is("frozen")
    times = []
    for _ in range(3):
        sender = threading.Thread(target=site.ask, args=("/sums", [1, 2]))
        sender.start()
        time.sleep(0.2)
        begin = time.monotonic()
        site.ask("/")
        times.append(time.monotonic() - begin)
        sender.join()
    return min(times)


@pytest.mark.isolated(count=0, server=True)
def test_others_are_answered_while_one_waits_for_redis(site, redis_is):
    seconds = quickest_answer(site, redis_is)
    assert seconds < 0.6, (
        f"/ should be answered while another request waits for Redis, it took {seconds:.1f} s."
    )


@pytest.mark.isolated(count=0, server=True)
def test_an_async_def_keeps_all_others_waiting(app, folder, redis_is):
    text = (folder / "web.py").read_text()
    (folder / "web_async.py").write_text(text.replace("\ndef send(", "\nasync def send("))
    with serving("web_async") as site:
        seconds = quickest_answer(site, redis_is)
    (folder / "web_async.py").unlink()
    assert seconds > 0.6, (
        f"An async def should keep / waiting while it waits for Redis, it took {seconds:.1f} s."
    )


@pytest.mark.isolated(count=0, server=True)
def test_connecting_to_a_broker(app, redis_is, monkeypatch):
    """Where nothing limits it, Celery 5.1 tries for ever, with pauses that are counted here and not waited for."""
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        assert sum(naps) < 3600, "It goes on for an hour."

    monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
    redis_is("down")
    kind = AssertionError if PINNED else OperationalError
    with (
        denied_join_result(),
        assert_raises(kind, f"delay should raise {kind.__name__} when the broker is down"),
    ):
        find_task(app, XSUM).delay([1, 2])
