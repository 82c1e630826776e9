"""What becomes of tasks where the server is killed, or something is in the queue that Celery did not write."""

import json
import re
import time

import pytest
from course import ROOT, STACK, wait_until
from grading import gives

ADD = "tasks.math.add_request"
# And how many workers it ends: those that take it until it is gone, at most two here.
MALFORMED = [
    ({"body": "nonsense"}, 0),
    ("nonsense", 1),
    ("[" * 9000, 1),
    ({"body": "[]"}, 2),
    ({"timelimit": "x"}, 2),
]


def test_killed_server_loses_at_most_the_message_on_its_way(checkout, turn):
    checkout.make("redis")
    ids = [checkout.add(i, i) for i in range(1000)]
    worker = checkout.worker(2)
    wait_until(lambda: worker.text() and checkout.redis.llen("celery") < 950 - 40 * (turn % 20))
    checkout.kill_server()
    worker.expect("Trying to re-establish the connection")
    checkout.make("redis")
    wait_until(lambda: not checkout.redis.llen("celery") or not worker.processes(), 60)
    if STACK == "latest" and not worker.processes():
        worker = checkout.worker(2)  # Celery 5.7 may acknowledge on the old connection, and end
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
    left, shown = checkout.redis.hlen("unacked"), worker.text()[-3000:]
    assert len(wrong) <= 2, f"Of 1000 tasks one may be lost and one fail, and not {wrong}:\n{shown}"
    assert worker.processes() and not left, f"The worker should be up, and have none of {left} left:\n{shown}"


@pytest.mark.isolated
@pytest.mark.parametrize("malformed, ends", MALFORMED, ids=lambda each: str(each)[:30])
def test_malformed_message_ends_no_worker_one_or_all(worker, app, app_under_test, redis, malformed, ends):
    """A text is pushed as it is; else it is what differs from a message of Celery's own."""
    if isinstance(malformed, str):
        redis.lpush("celery", malformed)
    else:
        headers = {"lang": "py", "task": ADD, "id": "1", "argsrepr": "", "kwargsrepr": ""} | malformed
        body = headers.pop("body", "[[1, 2], {}, {}]")
        with app.producer_pool.acquire() as producer:
            kind = {"content_type": "application/json", "content_encoding": "utf-8"}
            producer.publish(body, "celery", headers=headers, **kind)
    result, running = app.tasks[ADD].delay(4, 4), worker.container
    for _ in range(ends):
        ended = wait_until(lambda node=running: node.status == "exited", 20)
        assert ended and redis.llen("celery") == ends, f"A worker should end, with {ends} messages left."
        running = app_under_test.add_worker()
    if ends == 2:
        app.control.purge()
        app_under_test.add_worker()
        result = app.tasks[ADD].delay(4, 4)
    gives("A task behind it", result, 8)
    assert ends == 2 or running.status == "running", "The worker should be up."
