"""What becomes of tasks where a server or a worker is killed, or something is in the queue that Celery did not write."""

import json
import re
import time
from base64 import b64encode

import pytest
from celery import chord
from celery.exceptions import TimeoutError as CeleryTimeout
from course import ROOT, STACK, wait_until
from grading import gives, raises, ready

SOON = {"broker_transport_options": {"visibility_timeout": 1}}
ADD = "tasks.math.add_request"


def test_killed_server_loses_at_most_the_message_on_its_way(checkout, turn):
    checkout.make("redis")
    ids = [checkout.add(i, i) for i in range(1000)]
    worker = checkout.worker(2)
    wait_until(lambda: worker.text() and checkout.redis.llen("celery") < 950 - 40 * (turn % 20))
    checkout.kill_server()
    worker.expect("Trying to re-establish the connection")
    checkout.make("redis")
    wait_until(lambda: not checkout.redis.llen("celery") or not worker.processes(), 60)
    if (
        STACK == "latest" and not worker.processes()
    ):  # Celery 5.7 may acknowledge on the old connection, and end
        worker = checkout.worker(2)
        wait_until(lambda: worker.text() and not checkout.redis.llen("celery"), 60)
    # What the worker had taken comes back after the visibility timeout, or as the page says.
    time.sleep(1)
    page = (ROOT / "chapters" / "when-it-goes-wrong.md").read_text()
    prompt = re.search(r"```pycon\n(.*?)```", page, re.DOTALL)[1]
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect(">>> ")
    shell.send("\n".join(line[4:] for line in prompt.splitlines()) + "\n\n")
    wait_until(lambda: worker.text() and len(checkout.redis.keys("celery-task-meta-*")) == 1000, 5)
    # Celery takes a message off the queue first and writes down next that it is taken: between the two, it is lost.
    # The task that runs at that moment has nowhere to leave its result.
    metas = [json.loads(checkout.redis.get(f"celery-task-meta-{id}") or "{}") for id in ids]
    wrong = [(i, meta) for i, meta in enumerate(metas) if meta.get("result") != 2 * i]
    shown = worker.text()[-3000:]
    assert len(wrong) <= 2, f"Of 1000 tasks one may be lost and one fail, and not {wrong}:\n{shown}"
    assert not checkout.redis.hlen("unacked"), f"No message should be left as taken:\n{shown}"
    assert worker.processes(), f"The worker should still be up:\n{shown}"


@pytest.mark.isolated(slow_tasks=True, settings=SOON)
def test_early_acknowledged_task_of_a_killed_worker_is_gone(worker, app, app_under_test, redis, turn):
    result = app.tasks["slow.interrupted"].delay()
    wait_until(lambda: redis.exists("runs") and not redis.hlen("unacked"))
    worker.kill()
    assert not redis.hlen("unacked") + redis.llen("celery"), "Nobody should have the message any more."
    ready(app_under_test.add_worker())
    with raises(CeleryTimeout, "With early acknowledgement get(timeout=2) should raise TimeoutError"):
        result.get(timeout=2)


@pytest.mark.isolated(slow_tasks=True, settings=SOON | {"task_acks_late": True})
def test_chord_of_a_killed_worker_is_finished_by_the_next(worker, app, app_under_test, redis, turn):
    nap, xsum = app.tasks["slow.nap"], app.tasks["tasks.math.xsum_request"]
    result = chord([nap.s(0.4, i) for i in range(1, 5)], xsum.s()).delay()
    # All four have been written down as taken: a message on its way there would be lost.
    wait_until(lambda: redis.hlen("unacked") == 4, 5)
    time.sleep(0.07 * (turn % 10))
    worker.kill()
    with raises(CeleryTimeout, "get(timeout=1) of a chord without a worker should raise TimeoutError"):
        result.get(timeout=1)
    # A worker looks for messages past their visibility timeout when it starts, and then only every 100 seconds.
    time.sleep(0.5)
    app_under_test.add_worker()
    gives("The chord of a killed worker", result, 10)


def message(body="[[1, 2], {}, {}]", kind="application/json", **headers):
    """Return a message as Celery sends it, with these changes."""
    whole = {"body": b64encode(body.encode()).decode(), "content-type": kind, "content-encoding": "utf-8"}
    whole["headers"] = {"lang": "py", "task": ADD, "id": "1", "argsrepr": "", "kwargsrepr": ""} | headers
    way = {"exchange": "", "routing_key": "celery"}
    whole["properties"] = {"delivery_tag": "1", "delivery_info": way, "body_encoding": "base64"}
    return json.dumps(whole)


@pytest.mark.isolated()
@pytest.mark.parametrize(
    "malformed, ends",
    [
        ([message(task="tasks.nothing"), message("nonsense"), message("[[1, 2, 3], {}, {}]")], 0),
        ([message().replace('"lang"', '"no"'), message(kind="application/x-python-serialize")], 0),
        ([message(json.dumps([["x" * 10**7, "y"], {}, {}]))], 0),
        (["nonsense"], 1),
        (["42"], 1),
        ([message().replace('"body": "', '"body": "abcde", "no": "')], 1),
        ([message("[]")], 2),
        ([message(id=[7])], 2),
        ([message(timelimit="x")], 2),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_message_ends_no_worker_one_or_all(worker, app, app_under_test, redis, malformed, ends):
    redis.lpush("celery", *malformed)
    result, running = app.tasks[ADD].delay(4, 4), worker.container
    for _ in range(ends):
        assert wait_until(lambda node=running: node.status == "exited", 20), (
            f"{malformed} should end the worker."
        )
        assert redis.llen("celery") == ends, f"{ends} messages should wait, with the one behind it."
        running = app_under_test.add_worker()
    if ends == 2:
        app.control.purge()
        app_under_test.add_worker()
        result = app.tasks[ADD].delay(4, 4)
    gives("A task behind it", result, 8)
    assert ends == 2 or running.status == "running", "The worker should be up."
