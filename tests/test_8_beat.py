"""Chapter 8: beat as a process, alone, twice, killed, and with RedBeat."""

import sqlite3
from contextlib import closing

import pytest
from support.assertions import fetch, find_task

from course.waiting import wait_until

SENT = "Sending due task"
# Added to the settings of a copy, so that all it sends comes three times a second.
OFTEN = """
for entry in beat_schedule.values():
    entry["schedule"] = 0.3
"""
REDBEAT = """
import os
redbeat_redis_url = os.environ["CELERY_BROKER_URL"]
"""
pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="these beats are processes: make test"
)
copy = pytest.mark.isolated(copy=True)
alone = pytest.mark.isolated(copy=True, count=0)


@pytest.fixture
def start(app_under_test):
    """Start a beat with these options, on a schedule of three times a second."""
    (app_under_test.folder / "ledger.db").unlink(missing_ok=True)
    with (app_under_test.folder / "celeryconfig.py").open("a") as settings:
        settings.write(OFTEN)

    def start(*options):
        return app_under_test.start("celery", "-A", "tasks", "beat", "--loglevel=info", *options)

    return start


def sends(beat, count, since=0, seconds=30):
    """Fail unless this beat sends so many messages, after the first `since`."""
    wait_until(lambda: beat.logs().count(SENT) >= since + count or beat.status == "exited", seconds)
    found = beat.logs().count(SENT) - since
    assert found >= count, (
        f"beat should send {count} more messages, it sent {found}.\n{beat.logs()}"
    )
    return found + since


def ends(beat, signal="SIGINT"):
    """Send a beat a signal; fail unless it ends."""
    beat.kill(signal)
    assert wait_until(lambda: beat.status == "exited", 30), (
        f"beat should end after {signal}.\n{beat.logs()}"
    )


@copy
def test_two_beats_make_one_entry(celery_setup, app, app_under_test, start):
    pay = find_task(app, "tasks.ledger.enter_request")
    fetch(pay.delay("pay", 1000))
    first = start()
    so_far = sends(first, 2)
    second = start()
    sends(second, 2)
    ends(second)
    so_far = sends(first, 2, first.logs().count(SENT))
    ends(first, "SIGTERM")
    total = so_far + second.logs().count(SENT)
    succeeded = "Task tasks.ledger.interest_request["
    [worker] = app_under_test.workers
    wait_until(lambda: worker.logs().count(succeeded) >= 2 * total, 5)
    balance = fetch(pay.delay("pay", 1000))
    with closing(sqlite3.connect(app_under_test.folder / "ledger.db")) as db:
        made = [id for [id] in db.execute("SELECT id FROM entries WHERE id != 'pay'")]
    assert (balance, len(made)) == (1010.0, 1), (
        f"After {total} messages of two beats there should be one entry and 1010.0, there are {made} and {balance}."
    )


@alone
def test_a_second_beat_with_the_same_pidfile_ends(app_under_test, start):
    option = "--pidfile=celerybeat.pid"
    first = start(option)
    sends(first, 1)
    second = start(option)
    wait_until(lambda: second.status == "exited", 30)
    found = second.process.poll(), "Pidfile (celerybeat.pid) already exists." in second.logs()
    assert found == (73, True), (
        f"The second beat should say so and end with 73: {found}\n{second.logs()}"
    )
    ends(first, "SIGKILL")
    third = start(option)
    sends(third, 1)
    assert "Stale pidfile exists" in third.logs(), (
        f"A killed beat's file should not count.\n{third.logs()}"
    )
    ends(third)
    left = (app_under_test.folder / "celerybeat.pid").exists()
    assert not left, "beat should remove its pidfile when it ends."


@alone
def test_of_two_redbeats_one_sends(app_under_test, start):
    pytest.importorskip("redbeat", reason="needs celery-redbeat: make setup-test")
    with (app_under_test.folder / "celeryconfig.py").open("a") as settings:
        settings.write(REDBEAT)
    options = "-S", "redbeat.RedBeatScheduler", "--max-interval=1"
    first = start(*options)
    sends(first, 1)
    second = start(*options)
    assert wait_until(lambda: "beat: Starting..." in second.logs(), 30), second.logs()
    sends(first, 3, first.logs().count(SENT))
    assert SENT not in second.logs(), f"The second RedBeat should send nothing.\n{second.logs()}"
    ends(first)
    sends(second, 2)
    kept = app_under_test.broker.client.hget("redbeat:interest", "meta")
    assert "last_run_at" in kept, (
        f"RedBeat should keep when it sent last, in Redis; there is {kept}."
    )
    assert not list(app_under_test.folder.glob("celerybeat*")), "RedBeat should write no file."
    # After a kill the lock is held for five times the interval at which the others ask for it.
    ends(second, "SIGKILL")
    found = app_under_test.broker.client.ttl("redbeat::lock")
    assert 3 <= found <= 5, (
        f"A killed RedBeat's lock should be kept for five seconds, it is for {found}."
    )


@pytest.mark.isolated(copy=True, args=["-B", "--without-mingle", "--without-gossip"])
def test_a_worker_with_B_brings_a_beat(celery_setup):
    celery_setup.worker.wait_for_log("beat: Starting...", timeout=30)


@alone
def test_redbeat_ignores_the_variable(app, app_under_test):
    redbeat = pytest.importorskip(
        "redbeat.schedulers", reason="needs celery-redbeat: make setup-test"
    )
    found = redbeat.RedBeatConfig(app).redis_url
    assert found == "redis://127.0.0.1:6379/0", (
        f"RedBeat should take broker_url of the file, it takes {found}."
    )
