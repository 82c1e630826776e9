"""Chapter 10: beat as a process, alone, twice, killed, and with RedBeat."""

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest
from support.assertions import fetch, find_task
from support.names import ALONE, ENTER

from course.chapters import ROOT
from course.environment import PINNED, PROGRAMS, environment
from course.waiting import wait_until

SENT = "Sending due task"
# Appended to the settings of a copy, so that each entry is due three times a second.
OFTEN = """
for entry in beat_schedule.values():
    entry["schedule"] = 0.3
"""
# The lesson's two settings.
REDBEAT = """
from tasks.celery import app

app.conf.redbeat_redis_url = app.conf.broker_url
"""
LOCK_TIMEOUT = "redbeat_lock_timeout = 60\n"
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
    """Fail unless this beat sends `count` more messages within a minute."""
    before = count_sent(beat)
    wait_until(lambda: count_sent(beat) >= before + count or has_exited(beat), 60)
    found = count_sent(beat) - before
    assert found >= count, (
        f"beat should send {count} more messages, but it sent {found}.\n{beat.logs()}"
    )


def assert_started_and_sends(beat, count):
    """Fail unless this beat, which was just started, sends `count` messages in all."""
    wait_until(lambda: count_sent(beat) >= count or has_exited(beat), 60)
    found = count_sent(beat)
    assert found >= count, f"beat should send {count} messages, but it sent {found}.\n{beat.logs()}"


def assert_exits(beat, signal="SIGINT"):
    """Send a signal to a beat; fail unless it exits."""
    beat.kill(signal)
    exited = wait_until(lambda: has_exited(beat), 60)
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
    wait_until(lambda: worker.logs().count(succeeded) >= 2 * total)
    balance = fetch(enter_request.delay("pay", 1000))
    with closing(sqlite3.connect(app_under_test.folder / "ledger.db")) as db:
        made = db.execute("SELECT key FROM entries WHERE key != 'pay'").fetchall()
    assert (balance, len(made)) == (1010.0, 1), (
        f"{total} messages of two beats should make one entry and the balance 1010.0, but they"
        f" made {len(made)} and {balance}."
    )


def test_git_ignores_what_beat_writes():
    """Some Pythons make several files of one name, and the lesson names a pidfile."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    names = ["celerybeat-schedule", "celerybeat-schedule.dat", "celerybeat.pid"]
    done = subprocess.run(
        ["git", "check-ignore", *names],
        cwd=ROOT / "chapters" / "10-periodic-tasks",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == names, (
        f"Git should ignore {', '.join(names)} in chapter 10's folder, but it ignores only:"
        f" {done.stdout or 'none'}"
    )


PIDFILE = "--pidfile=celerybeat.pid"


def assert_refuses(beat):
    """Fail unless a beat exits because of its pidfile."""
    wait_until(lambda: has_exited(beat), 60)
    status = beat.process.poll()
    assert status == 73 and "Pidfile (celerybeat.pid) already exists." in beat.logs(), (
        "beat should say that the pidfile exists and exit with status 73, but its status is"
        f" {status}.\n{beat.logs()}"
    )


@a_copy_without_worker
def test_a_second_beat_with_the_same_pidfile_exits(app_under_test, start):
    pidfile = app_under_test.folder / "celerybeat.pid"
    pidfile.write_text(f"{os.getpid()}\n")
    assert_refuses(start(PIDFILE))  # though the live process with this id is pytest
    pidfile.unlink()
    first = start(PIDFILE)
    assert_started_and_sends(first, 1)
    assert_refuses(start(PIDFILE))
    assert_exits(first, "SIGKILL")
    third = start(PIDFILE)
    assert_started_and_sends(third, 1)
    assert "Stale pidfile exists" in third.logs(), (
        f"beat should replace the pidfile of a killed beat and say so.\n{third.logs()}"
    )
    assert_exits(third)
    assert not pidfile.exists(), "beat should remove its pidfile when it exits, but it is there."


@pytest.mark.row("A pidfile that has beat's own pid, as in a container that was killed")
@a_copy_without_worker
def test_a_pidfile_with_the_pid_that_beat_gets(app_under_test, start):
    """A shell writes its own id, which stays when it becomes beat. In a container, this is 1."""
    script = f"echo $$ > celerybeat.pid; exec celery -A tasks beat --loglevel=info {PIDFILE}"
    beat = app_under_test.start("/bin/sh", "-c", script)
    if PINNED:
        assert_refuses(beat)
    else:
        assert_started_and_sends(beat, 1)


@pytest.fixture
def redbeat(app_under_test, start):
    """A function that starts a RedBeat, which looks each second for the lock and for its entry."""
    pytest.importorskip("redbeat", reason=REDBEAT_MISSING)
    with (app_under_test.folder / "tasks" / "celery.py").open("a") as module:
        module.write(REDBEAT)

    def redbeat(interval=1):
        return start("-S", "redbeat.RedBeatScheduler", f"--max-interval={interval}")

    return redbeat


def assert_lock_expires_within(redis, least, most):
    """Fail unless the lock of a RedBeat that runs has so many seconds left."""
    wait_until(lambda: least <= redis.ttl("redbeat::lock") <= most)
    seconds = redis.ttl("redbeat::lock")
    assert least <= seconds <= most, (
        f"RedBeat's lock should expire within {most} seconds, but {seconds} are left."
    )


@a_copy_without_worker
def test_of_two_redbeats_one_sends(app_under_test, redbeat):
    redis = app_under_test.broker.client
    settings = app_under_test.folder / "celeryconfig.py"
    before = settings.read_text()
    append_settings(app_under_test, LOCK_TIMEOUT)  # for a first that stands still for a while
    first = redbeat()
    assert_started_and_sends(first, 1)
    settings.write_text(before)
    second = redbeat()
    assert wait_until(lambda: "beat: Starting..." in second.logs(), 60), (
        f"The second RedBeat should start, but it doesn't within a minute.\n{second.logs()}"
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
    assert_lock_expires_within(redis, 3, 5)
    assert_exits(second, "SIGKILL")
    left = redis.ttl("redbeat::lock")
    assert left == -2 or 0 <= left <= 5, f"The lock should expire in 5 s, but in {left}."


@a_copy_without_worker
def test_a_redbeat_that_has_lost_its_lock_exits(app_under_test, redbeat):
    """The lock expires while the process pauses. Here it is removed, which takes no time."""
    append_settings(app_under_test, LOCK_TIMEOUT)
    redis = app_under_test.broker.client
    beat = redbeat()
    assert_started_and_sends(beat, 1)
    assert_lock_expires_within(redis, 50, 60)
    redis.delete("redbeat::lock")
    wait_until(lambda: has_exited(beat), 60)
    assert has_exited(beat) and "LockNotOwnedError" in beat.logs(), (
        f"RedBeat should exit with LockNotOwnedError without its lock.\n{beat.logs()}"
    )
    # With a lock that is shorter than the interval, it exits too.
    append_settings(app_under_test, 'redbeat_lock_timeout = 1\nentry["schedule"] = 3600\n')
    beat = redbeat(interval=2)
    assert wait_until(lambda: has_exited(beat), 60) and "extend" in beat.logs(), (
        f"RedBeat should exit when its lock is shorter than its interval.\n{beat.logs()}"
    )


SHOW_REDBEAT_URL = f"""
from redbeat.schedulers import RedBeatConfig
from tasks.celery import app

print(RedBeatConfig(app).redis_url)
{REDBEAT}
print(RedBeatConfig(app).redis_url)
"""


@pytest.mark.parametrize(
    "variable, value, wanted",
    [
        ("REDIS_PORT", "6399", "redis://127.0.0.1:6399/0"),
        ("CELERY_BROKER_URL", "redis://127.0.0.1:6398/1", "redis://127.0.0.1:6398/1"),
    ],
)
@pytest.mark.isolated(count=0)
def test_redbeat_uses_the_server_of_the_app_if_told(app_under_test, variable, value, wanted):
    pytest.importorskip("redbeat", reason=REDBEAT_MISSING)
    shown = subprocess.run(
        [PROGRAMS / "python", "-c", SHOW_REDBEAT_URL],
        cwd=app_under_test.folder,
        env=environment() | {variable: value},
        capture_output=True,
        text=True,
        check=True,
    )
    found = shown.stdout.split()
    assert found == ["redis://127.0.0.1:6379/0", wanted], (
        f"With {variable}={value}, RedBeat should use port 6379, and {wanted} if told, but it uses"
        f" {found}."
    )


@pytest.mark.isolated(copy=True, args=["-B", *ALONE])
def test_a_worker_with_B_brings_a_beat(celery_setup):
    celery_setup.worker.wait_for_log("beat: Starting...", timeout=60)
