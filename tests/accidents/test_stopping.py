"""Ctrl-C, a closed terminal, `make stop`: what runs is finished or handed back, and nothing is left behind."""

import pytest
from checkout import ROUNDS, STACK, Checkout
from course import WARM_STOP, expect, wait_until


@pytest.fixture
def checkout(tmp_path):
    with Checkout(tmp_path) as checkout:
        checkout.edit(
            "2-configuration/tasks.py", "    result = x", "    __import__('time').sleep(2)\n    result = x"
        )
        yield checkout


@pytest.fixture
def worker(checkout):
    return checkout.worker(2)


@pytest.fixture
def result(checkout, worker):
    """The id of a task that runs, which takes two seconds."""
    result = checkout.send("tasks.add", 4, 4)
    worker.expect("asked: 4 + 4")
    return result


def expect_gone(worker, seconds=WARM_STOP):
    expect(wait_until(worker.gone, seconds), f"No process should be left; the terminal shows:\n{worker.text}")


def expect_next_worker_gives_8(checkout, result):
    checkout.worker(2)
    found = checkout.answer(result)
    expect(found == 8, f"The task should give 8, it gave {found!r}.")


def test_ctrl_c_once_finishes_the_task(checkout, worker, result):
    worker.type("\x03")
    expect(checkout.answer(result) == 8, "The worker should finish the task that it runs.")
    worker.expect("Warm shutdown")
    expect_gone(worker)


@pytest.mark.parametrize("number", ROUNDS)
def test_ctrl_c_twice_hands_the_task_back(checkout, worker, result, number):
    worker.type("\x03")
    worker.expect("Warm shutdown")
    worker.type("\x03")
    expect_gone(worker)
    if "Cold shutdown" in worker.text:
        expect_next_worker_gives_8(checkout, result)


@pytest.mark.parametrize("number", ROUNDS)
def test_closed_terminal_leaves_no_process(checkout, worker, result, number):
    worker.close()
    expect_gone(worker)
    kept = checkout.redis.hlen("unacked") + checkout.redis.llen("celery")
    expect(kept == 1 or checkout.answer(result, 0) == 8, "The task should be kept in Redis, or done.")
    checkout.worker(2)


def test_ctrl_c_before_the_worker_is_ready(checkout):
    terminal = checkout.terminal("chapter-2-worker")
    terminal.expect("Redis: ")
    terminal.type("\x03")
    expect_gone(terminal)
    checkout.worker(2)


@pytest.mark.parametrize("number", ROUNDS)
def test_stop_while_a_task_runs(checkout, worker, result, number):
    done = checkout.make("stop")
    expect("waiting tasks are kept" in done.stdout, f"The server should stop:\n{done.stdout}")
    worker.expect("Trying to re-establish the connection")
    checkout.make("redis")
    found = checkout.answer(result, 30)
    expect(found == 8, f"The worker should come back by itself and give 8, it gave {found!r}.")
    if STACK == "latest":
        # Celery 5.7 acknowledges the old task on the old connection, and ends; the page says so.
        expect(
            wait_until(worker.ended, 10), "Celery 5.7 is known to end here, and did not: the page can say so."
        )
        checkout.worker(2)
    again = checkout.answer(checkout.send("tasks.add", 2, 3), 30)
    expect(again == 5, f"The worker should go on, add(2, 3) gave {again!r}:\n{worker.text[-3000:]}")


def test_ctrl_c_while_the_server_is_gone(checkout, worker):
    checkout.make("stop")
    worker.expect("Trying to re-establish the connection")
    worker.type("\x03")
    if not wait_until(worker.gone, 8):
        worker.type("\x03")
    expect_gone(worker)
