"""Chapter 9: a connection that is opened at import, and then forked or shared by threads."""

import importlib
import socket

import pytest
from support.assertions import find_task, wait_until_ready
from support.names import RATE

from course.chapters import ROOT
from course.lesson import Lesson, apply_diff

LESSON = ROOT / "chapters/9-concurrency/README.md"


def lesson_diffs():
    """Return the lesson's changes of libs/rates.py: two share a connection, two mend that."""
    diffs = []
    for block in Lesson(LESSON).blocks:
        if block.language == "diff" and block.label == "libs/rates.py":
            diffs.append(block.source)
    return diffs


def change(app_under_test, diffs):
    """Make these changes in the test's copy of libs/rates.py."""
    path = app_under_test.folder / "libs" / "rates.py"
    text = path.read_text()
    for diff in diffs:
        text = apply_diff(text, diff)
    path.write_text(text)


def count_right(app_under_test, bank, options):
    """Return how many rates the lesson's ask_sixty finds right on a worker with these options."""
    bank.seconds = 0.05
    wait_until_ready(app_under_test.add_worker(options))
    _, right = importlib.import_module("experiments").ask_sixty()
    return right


@pytest.mark.isolated(count=0, copy=True)
def test_forked_processes_that_share_a_connection_get_wrong_rates(app, app_under_test, bank):
    change(app_under_test, lesson_diffs()[:2])
    right = count_right(app_under_test, bank, ["-c", "4"])
    assert right < 60, "Some rates should be wrong if four processes share a connection."


@pytest.mark.isolated(count=0, copy=True)
def test_a_connection_opened_after_the_fork_is_right(app, app_under_test, bank):
    change(app_under_test, lesson_diffs())
    right = count_right(app_under_test, bank, ["-c", "4"])
    assert right == 60, f"Sixty rates should be right, but {right} are."


@pytest.mark.isolated(count=0, copy=True)
def test_a_connection_opened_before_the_fork_is_shared_all_the_same(app, app_under_test, bank):
    """The thread that forks goes on in each process, with what threading.local keeps for it."""
    with (app_under_test.folder / "tasks" / "rates.py").open("a") as module:
        module.write('\n\nrates.rate("USD")\n')
    right = count_right(app_under_test, bank, ["-c", "4"])
    assert right < 60, "Some rates should be wrong if a rate is asked for before the fork."


@pytest.mark.isolated(count=0, copy=True)
def test_threads_do_not_send_the_signal(app, app_under_test, bank):
    change(app_under_test, lesson_diffs())
    right = count_right(app_under_test, bank, ["-P", "threads", "-c", "12"])
    assert right < 60, "Some rates should be wrong if twelve threads share a connection."


@pytest.mark.parametrize("options", [["-c", "4"], ["-P", "threads", "-c", "12"], ["-P", "solo"]])
@pytest.mark.isolated(count=0)
def test_a_connection_for_each_thread_is_right_with_every_pool(app, app_under_test, bank, options):
    right = count_right(app_under_test, bank, options)
    assert right == 60, f"Sixty rates should be right with {options}, but {right} are."
    assert bank.connections <= 12, f"At most 12 connections, not {bank.connections}."
    assert find_task(app, RATE).time_limit == 20, "The task's hard limit should be 20 seconds."


def test_the_bank_sends_an_answer_at_once(bank):
    """In two parts, the second waits until the client has confirmed the first."""
    with socket.create_connection(bank.server_address) as connection:
        for _ in range(10):
            connection.sendall(b"GET /rates/USD HTTP/1.1\r\nHost: bank\r\n\r\n")
            found = connection.recv(10_000)
            assert found.endswith(b"}"), f"The bank should send all at once, not only {found}."
