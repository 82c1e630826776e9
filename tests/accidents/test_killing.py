"""Servers and workers that are killed while they work. ROUNDS=20 repeats each test."""

import json
import re
import time

import pytest
from celery import chord
from celery.exceptions import TimeoutError as CeleryTimeout
from checkout import ROUNDS, STACK, Checkout
from course import ROOT, expect, expect_raises, wait_until

HELP = ROOT / "chapters" / "when-it-goes-wrong.md"
CHAPTER = "5-canvas"
SOON = {"broker_transport_options": {"visibility_timeout": 2}}


def snippet_of_the_page():
    """Return the lines that hand unfinished messages out again, as the page has them."""
    prompt = re.search(r"```pycon\n(.*?)```", HELP.read_text(), re.DOTALL)[1]
    return "\n".join(line[4:] for line in prompt.splitlines() if line[:3] in (">>>", "...")) + "\n\n"


@pytest.mark.parametrize("number", ROUNDS)
def test_killed_server_loses_at_most_the_message_on_its_way(tmp_path, number):
    with Checkout(tmp_path) as checkout:
        checkout.make("redis")
        ids = [checkout.send("tasks.add", i, i) for i in range(1000)]
        worker = checkout.worker(2, LOGURU_LEVEL="INFO")
        wait_until(lambda: checkout.redis.llen("celery") < 950 - 40 * (number % 20))
        checkout.kill_server()
        worker.expect("Trying to re-establish the connection")
        checkout.make("redis")
        wait_until(lambda: not checkout.redis.llen("celery") or worker.ended(), 60)
        if STACK == "latest" and worker.ended():  # Celery 5.7, which acknowledged on the old connection
            worker = checkout.worker(2, LOGURU_LEVEL="INFO")
            wait_until(lambda: not checkout.redis.llen("celery"), 60)
        # What the worker had taken comes back after the visibility timeout, or as the page says.
        time.sleep(1)
        shell = checkout.terminal("chapter-2-shell")
        shell.expect(">>> ")
        shell.type(snippet_of_the_page())
        wait_until(lambda: len(checkout.redis.keys("celery-task-meta-*")) == 1000, 15)
        # Celery takes a message off the queue first and writes down next that it is taken: between the two, it is lost.
        # The task that just runs may fail for want of its result backend, and its caller is told.
        metas = [json.loads(checkout.redis.get(f"celery-task-meta-{id}") or "{}") for id in ids]
        lost = [meta for meta in metas if not meta]
        failed = [meta for meta in metas if meta.get("status") == "FAILURE"]
        right = sum(meta.get("result") == 2 * number for number, meta in enumerate(metas))
        expect(
            len(lost) <= 1 and len(failed) <= 1 and right + len(lost) + len(failed) == 1000,
            f"Of 1000 tasks at most one may be lost and one fail: {right} are right, {len(lost)} lost, {failed} failed.",
        )
        expect(not checkout.redis.hlen("unacked"), "No message should be left as taken.")
        expect(not worker.ended(), "The worker should still be up.")


@pytest.mark.own_worker(probe=True, settings=SOON | {"task_acks_late": False})
@pytest.mark.parametrize("number", ROUNDS)
def test_task_of_a_killed_worker_is_gone_with_early_acknowledgement(worker, app, place, redis, number):
    result = app.tasks["probe.interrupted"].delay()
    wait_until(lambda: redis.exists("runs"), 5)
    wait_until(lambda: not redis.hlen("unacked"), 5)
    worker.kill()
    expect(not redis.hlen("unacked") and not redis.llen("celery"), "Nobody should have the message any more.")
    place.add_worker().ready()
    with expect_raises(CeleryTimeout, "With early acknowledgement get(timeout=2) should raise TimeoutError"):
        result.get(timeout=2)


@pytest.mark.own_worker(probe=True, settings=SOON)
@pytest.mark.parametrize("number", ROUNDS)
def test_chord_of_a_killed_worker_times_out_and_is_finished_by_the_next(worker, app, place, redis, number):
    nap, xsum = app.tasks["probe.nap"], app.tasks["tasks.math.xsum_request"]
    result = chord([nap.s(0.4, i) for i in range(1, 5)], xsum.s()).delay()
    # All four have been written down as taken: a message on its way there would be lost.
    wait_until(lambda: redis.hlen("unacked") == 4, 5)
    time.sleep(0.07 * (number % 10))
    worker.kill()
    with expect_raises(CeleryTimeout, "get(timeout=1) of a chord without a worker should raise TimeoutError"):
        result.get(timeout=1)
    # A worker looks for messages past their visibility timeout when it starts, and then only every 100 seconds.
    time.sleep(1.5)
    place.add_worker()
    found = result.get(timeout=20)
    expect(found == 10, f"The next worker should finish the chord with 10, it gave {found!r}.")
