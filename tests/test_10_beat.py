"""Chapter 10: beat as a process, alone, twice, killed, and with RedBeat."""

import sqlite3
from contextlib import closing

import pytest
from support.assertions import fetch, find_task
from support.names import ALONE, ENTER

from course.waiting import wait_until

SENT = "Sending due task"
# Appended to the settings of a copy, so that each entry is due three times a second.
OFTEN = """
for entry in beat_schedule.values():
    entry["schedule"] = 0.3
"""
REDBEAT = """
import os
redbeat_redis_url = os.environ["CELERY_BROKER_URL"]
"""
REDBEAT_MISSING = "needs celery-redbeat: make setup-test"
pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="these beats are processes: make test"
)
a_copy = pytest.mark.isolated(copy=True)
a_copy_without_worker = pytest.mark.isolated(copy=True, count=0)


@pytest.fixture
def start(app_under_test):
    """A function that starts a beat with these options, whose entry is due three times a second."""
    (app_under_test.folder / "ledger.db").unlink(missing_ok=True)
    append_settings(app_under_test, OFTEN)

    def start(*options):
        return app_under_test.start("celery", "-A", "tasks", "beat", "--loglevel=info", *options)

    return start


def append_settings(app_under_test, text):
    with (app_under_test.folder / "celeryconfig.py").open("a") as settings:
        settings.write(text)


def count_sent(beat):
    return beat.logs().count(SENT)


def has_exited(node):
    return node.status == "exited"


def assert_sends(beat, count):
    """Fail unless this beat sends `count` more messages within half a minute."""
    before = count_sent(beat)
    wait_until(lambda: count_sent(beat) >= before + count or has_exited(beat), 30)
    found = count_sent(beat) - before
    assert found >= count, (
        f"beat should send {count} more messages, but it sent {found}.\n{beat.logs()}"
    )


def assert_started_and_sends(beat, count):
    """Fail unless this beat, which was just started, sends `count` messages in all."""
    wait_until(lambda: count_sent(beat) >= count or has_exited(beat), 30)
    found = count_sent(beat)
    assert found >= count, f"beat should send {count} messages, but it sent {found}.\n{beat.logs()}"


def assert_exits(beat, signal="SIGINT"):
    """Send a signal to a beat; fail unless it exits."""
    beat.kill(signal)
    exited = wait_until(lambda: has_exited(beat), 30)
    assert exited, f"beat should exit after {signal}, but it still runs.\n{beat.logs()}"


@a_copy
def test_two_beats_make_one_entry(celery_setup, app, app_under_test, start):
    enter_request = find_task(app, ENTER)
    fetch(enter_request.delay("pay", 1000))
    first = start()
    assert_started_and_sends(first, 2)
    second = start()
    assert_started_and_sends(second, 2)
    assert_exits(second)
    assert_sends(first, 2)
    sent_by_first = count_sent(first)
    assert_exits(first, "SIGTERM")
    total = sent_by_first + count_sent(second)
    succeeded = "Task tasks.ledger.interest_request["
    [worker] = app_under_test.workers
    wait_until(lambda: worker.logs().count(succeeded) >= 2 * total, 5)
    balance = fetch(enter_request.delay("pay", 1000))
    with closing(sqlite3.connect(app_under_test.folder / "ledger.db")) as db:
        made = db.execute("SELECT key FROM entries WHERE key != 'pay'").fetchall()
    assert (balance, len(made)) == (1010.0, 1), (
        f"{total} messages of two beats should make one entry and the balance 1010.0, but they"
        f" made {len(made)} and {balance}."
    )


@a_copy_without_worker
def test_a_second_beat_with_the_same_pidfile_exits(app_under_test, start):
    option = "--pidfile=celerybeat.pid"
    first = start(option)
    assert_started_and_sends(first, 1)
    second = start(option)
    wait_until(lambda: has_exited(second), 30)
    status = second.process.poll()
    assert status == 73 and "Pidfile (celerybeat.pid) already exists." in second.logs(), (
        "The second beat should say that the pidfile exists and exit with status 73, but its status"
        f" is {status}.\n{second.logs()}"
    )
    assert_exits(first, "SIGKILL")
    third = start(option)
    assert_started_and_sends(third, 1)
    assert "Stale pidfile exists" in third.logs(), (
        f"beat should replace the pidfile of a killed beat and say so.\n{third.logs()}"
    )
    assert_exits(third)
    left = (app_under_test.folder / "celerybeat.pid").exists()
    assert not left, "beat should remove its pidfile when it exits, but the file is still there."


@a_copy_without_worker
def test_of_two_redbeats_one_sends(app_under_test, start):
    pytest.importorskip("redbeat", reason=REDBEAT_MISSING)
    append_settings(app_under_test, REDBEAT)
    options = "-S", "redbeat.RedBeatScheduler", "--max-interval=1"
    redis = app_under_test.broker.client
    first = start(*options)
    assert_started_and_sends(first, 1)
    second = start(*options)
    assert wait_until(lambda: "beat: Starting..." in second.logs(), 30), (
        f"The second RedBeat should start, but it doesn't within 30 seconds.\n{second.logs()}"
    )
    assert_sends(first, 3)
    assert count_sent(second) == 0, (
        f"The second RedBeat should send nothing while the first runs.\n{second.logs()}"
    )
    assert_exits(first)
    assert_started_and_sends(second, 2)
    kept = redis.hget("redbeat:interest", "meta")
    assert "last_run_at" in kept, (
        f"RedBeat should keep in Redis when it sent last, but it keeps {kept}."
    )
    files = list(app_under_test.folder.glob("celerybeat*"))
    assert not files, f"RedBeat should write no file, but it wrote {files}."
    # The lock of a killed RedBeat expires after five times its --max-interval.
    assert_exits(second, "SIGKILL")
    seconds = redis.ttl("redbeat::lock")
    assert 3 <= seconds <= 5, (
        f"The lock of a killed RedBeat should expire within 5 seconds, but {seconds} are left."
    )


@pytest.mark.isolated(copy=True, args=["-B", *ALONE])
def test_a_worker_with_B_brings_a_beat(celery_setup):
    celery_setup.worker.wait_for_log("beat: Starting...", timeout=30)


@a_copy_without_worker
def test_redbeat_ignores_the_variable(app, app_under_test):
    redbeat = pytest.importorskip("redbeat.schedulers", reason=REDBEAT_MISSING)
    found = redbeat.RedBeatConfig(app).redis_url
    assert found == "redis://127.0.0.1:6379/0", (
        f"RedBeat should use the broker_url of celeryconfig.py, but it uses {found}."
    )
