"""Chapter 8: what beat sends and when, on a clock that the tests move, and what the ledger makes of it."""

import importlib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import signals
from celery.beat import PersistentScheduler
from celery.exceptions import TaskRevokedError
from celery.schedules import crontab
from support.assertions import (
    assert_exported,
    assert_listed,
    assert_raises,
    assert_result,
    assert_setting,
    assert_task_returns,
    describe,
    find_task,
)

from course.environment import STACK
from course.waiting import wait_until

NAME = "tasks.ledger.interest_request"
ENTER = "tasks.ledger.enter_request"
MATH = ["add", "sub", "mul", "divide", "xsum"]


@pytest.fixture
def pay_interest(ledger):
    """The chapter's function, on a balance of 1000."""
    module = importlib.import_module("libs.ledger")
    assert hasattr(module, "pay_interest"), "libs/ledger.py should have a function pay_interest."
    module.enter("pay", 1000)
    return module.pay_interest


class Beat:
    """Beat's own scheduler, on a clock that stands still unless it waits: a day takes some milliseconds."""

    def __init__(self, app, file):
        self.app, self.file, self.now, self.sent = app, str(file), None, []

    def time(self):
        return self.now.astimezone(self.app.timezone)

    def note(self, sender, body, headers, **_):
        expires = (
            headers["expires"]
            and (datetime.fromisoformat(headers["expires"]) - self.now).total_seconds()
        )
        self.sent.append(
            {"at": self.time(), "task": sender, "args": list(body[0]), "expires": expires}
        )

    def run(self, begin, close=True, **duration):
        """Start beat at this time, stop it after this long; return the times at which it sent a message."""
        self.now, already = datetime.fromisoformat(f"{begin}+00:00"), len(self.sent)
        end = self.now + timedelta(**duration)
        signals.before_task_publish.connect(self.note)
        try:
            scheduler = PersistentScheduler(app=self.app, schedule_filename=self.file)
            while self.now < end:
                # A wait takes a little longer than it should.
                self.now += timedelta(seconds=max(scheduler.tick(), 0) + 0.003)
            if close:
                scheduler.close()
            else:
                self.killed = scheduler  # what is collected as garbage would be written
        except Exception as error:  # noqa: BLE001  it becomes the sentence
            raise AssertionError(
                f"beat should run with this schedule, and raised {describe(error)}"
            ) from None
        finally:
            signals.before_task_publish.disconnect(self.note)
        return [each["at"].isoformat(" ", "minutes") for each in self.sent[already:]]


@pytest.fixture
def beat(app, monkeypatch, tmp_path):
    """The chapter's beat, whose messages nobody takes."""
    beat = Beat(app, tmp_path / "celerybeat-schedule")
    monkeypatch.setattr(app, "now", beat.time)
    return beat


def sends(beat, schedule, zone="UTC"):
    """Make this beat's only schedule; nothing else is in its way."""
    beat.app.conf.timezone = zone
    beat.app.__dict__.pop("timezone", None)  # what it was before
    beat.app.conf.beat_schedule = {
        "interest": {"task": NAME, "args": (0.01,), "schedule": schedule}
    }


def raised(errors):
    """Raise the next error, if there is one left."""
    for error in errors:
        raise error


def entries(ledger):
    with closing(sqlite3.connect(ledger)) as db:
        return dict(db.execute("SELECT id, amount FROM entries"))


nobody_takes = pytest.mark.isolated(count=0)


def test_lesson(lesson):
    lesson.holds()


@pytest.mark.step(
    '`libs.ledger.pay_interest("2026-03-01", 0.01)` enters a hundredth of the balance under'
    " `interest 2026-03-01`, and returns the new balance",
    "a-daily-task",
)
def test_pay_interest(pay_interest, ledger):
    """Read the balance, and call enter with an id that has the day in it."""
    found = pay_interest("2026-03-01", 0.01)
    assert found == 1010.0, (
        f"On a balance of 1000, pay_interest should return 1010.0, it returned {found!r}."
    )
    added = {id: amount for id, amount in entries(ledger).items() if id != "pay"}
    assert added == {"interest 2026-03-01": 10.0}, (
        f"pay_interest should add one entry, 'interest 2026-03-01' with 10.0, it added {added}."
    )


@pytest.mark.step(
    "a second call for the same day changes nothing, and another day pays again", "a-daily-task"
)
def test_a_day_is_paid_once(pay_interest):
    """The id that the entry is made under has to hold the day: f"interest {day}"."""
    days = ["2026-03-01", "2026-03-01", "2026-03-02"]
    found = [round(pay_interest(day, 0.01), 2) for day in days]
    assert found == [1010.0, 1010.0, 1020.1], (
        "Interest for March 1st, for March 1st again and for March 2nd should leave 1010.0, 1010.0 and 1020.1;"
        f" it left {', '.join(map(str, found))}."
    )


@pytest.mark.step(
    "`from tasks import interest_request` works, and the worker lists `tasks.ledger.interest_request`",
    "a-daily-task",
)
def test_package_offers_the_task(worker, app):
    """Write it in tasks/ledger.py, like enter_request, and import it in tasks/__init__.py."""
    assert_exported(app, NAME)
    assert_listed(worker, [NAME])


@pytest.mark.step(
    "`interest_request.delay(0.01)` enters today's interest, by the date in UTC, and only once",
    "a-daily-task",
)
def test_interest_request(celery_setup, app, pay_interest, ledger):
    """The task works out the day: datetime.now(UTC).date(). Its only argument is the rate."""
    days = {f"interest {datetime.now(UTC).date()}"}
    assert_task_returns(app, NAME, (0.01,), 1010.0)
    assert_task_returns(app, NAME, (0.01,), 1010.0)
    days |= {f"interest {datetime.now(UTC).date()}"}  # the test may run at midnight
    added = set(entries(ledger)) - {"pay"}
    assert added and added <= days, (
        f"interest_request should make an entry {min(days)!r}, it made {', '.join(map(repr, added)) or 'none'}."
    )


@pytest.mark.step(
    "while the ledger is locked, `interest_request` is retried three times, as `enter_request` is",
    "a-daily-task",
)
def test_a_locked_ledger_is_tried_again(app, pay_interest, ledger):
    """@app.task takes autoretry_for, retry_backoff and max_retries, which is 3 unless you set it."""
    reasons = []

    def note(reason, **_):
        reasons.append(str(reason))

    signals.task_retry.connect(note)
    try:
        with closing(sqlite3.connect(ledger, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            result = find_task(app, NAME).apply((0.01,))  # run here, where retries don't wait
    finally:
        signals.task_retry.disconnect(note)
    assert (result.state, len(reasons)) == ("FAILURE", 3), (
        "If the ledger stays locked, interest_request should be retried three times and be FAILURE;"
        f" it was retried {len(reasons)} times, and is {result.state} ({result.result!r})."
    )


@pytest.mark.step(
    "beat sends `interest_request` with the rate 0.01 once a day, at 4:00 UTC",
    "interval-and-crontab",
)
@nobody_takes
def test_beat_sends_once_a_day(app, beat):
    """beat_schedule is a dictionary of dictionaries. crontab needs both hour=4 and minute=0, and args is a tuple: (0.01,)."""
    assert app.conf.beat_schedule, "celeryconfig.py should set beat_schedule, and doesn't."
    times = beat.run("2026-03-01 00:30", days=2)
    called = {f"{each['task']} with {each['args']}" for each in beat.sent} or {"nothing"}
    assert called == {f"{NAME} with [0.01]"}, (
        f"beat should send {NAME} with [0.01] and no more, it sent {', '.join(sorted(called))}."
    )
    assert times == ["2026-03-01 04:00+00:00", "2026-03-02 04:00+00:00"], (
        f"In two days beat should send twice, at 4:00 UTC; it sent {len(times)} times, at {', '.join(times[:3])}, …"
    )


@pytest.mark.step(
    "a message that waits longer than twelve hours is dropped", "when-no-worker-is-running"
)
@nobody_takes
def test_a_message_expires(app, beat):
    """An entry's "options" is a dictionary of what apply_async takes, such as expires, in seconds."""
    beat.run("2026-03-01 00:30", days=1)
    assert beat.sent, "beat should send a message a day, it sent none."
    expires = beat.sent[0]["expires"]
    assert expires is not None, (
        "beat's message should expire after twelve hours, 43200 seconds: it never does."
    )
    assert abs(expires - 12 * 3600) < 1, (
        f"beat's message should expire after twelve hours, 43200 seconds: it does after {expires:.0f}."
    )


@pytest.mark.step("the tasks and the settings of chapter 7 are still there", "a-daily-task")
def test_what_chapter_7_had(worker, app, ledger):
    """Nothing else changes in this chapter."""
    assert_listed(worker, [ENTER, *(f"tasks.math.{name}_request" for name in MATH)])
    assert_setting(app, "task_routes", {"tasks.ledger.*": {"queue": "ledger"}})
    assert_setting(app, "broker_transport_options", {"visibility_timeout": 3600})
    for name in ("task_acks_late", "task_reject_on_worker_lost"):
        assert_setting(app, name, True)
    assert_task_returns(app, ENTER, ("rent", -500), -500.0)


# What follows is about Celery itself.


@nobody_takes
@pytest.mark.parametrize(
    "schedule, wanted",
    [
        (crontab(minute="*/15", hour=4), ["04:00", "04:15", "04:30", "04:45"]),
        (crontab(hour="8-18/5", minute=30), ["08:30", "13:30", "18:30"]),
        (crontab(hour=6, minute=0, day_of_week="mon-fri"), []),  # a Sunday
        (crontab(hour=6, minute=0, day_of_week="sun"), ["06:00"]),
        (crontab(day_of_month=1, hour=6, minute=0), ["06:00"]),
        (timedelta(hours=8), ["08:00", "16:00"]),
        (6 * 3600, ["06:00", "12:00", "18:00"]),
    ],
)
def test_schedules(beat, schedule, wanted):
    sends(beat, schedule)
    found = [each[11:16] for each in beat.run("2026-03-01 00:00", hours=23.9)]
    assert found == wanted, (
        f"{schedule!r} should send at {wanted} on March 1st 2026, it sent at {found}."
    )


@nobody_takes
def test_an_hour_without_a_minute_is_sixty_times(beat):
    sends(beat, crontab(hour=4))
    times = beat.run("2026-03-01 00:00", days=1)
    found = len(times), times[0][11:16], times[-1][11:16]
    assert found == (60, "04:00", "04:59"), (
        f"crontab(hour=4) should send from 4:00 to 4:59: {found}."
    )


@nobody_takes
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_schedule_in_utc_has_no_daylight_saving(beat, day):
    sends(beat, crontab(hour=2, minute=30))
    found = beat.run(f"{day} 00:00", days=1)
    assert found == [f"{day} 02:30+00:00"], (
        f"A schedule in UTC should be the same on each day: {found}"
    )


@nobody_takes
@pytest.mark.parametrize(
    "hour, day, wanted",
    [
        (4, "2026-03-29", "04:00+02:00"),
        (4, "2026-10-25", "04:00+01:00"),
        (2, "2026-03-29", {"pinned": "03:00+02:00", "latest": "03:30+02:00"}[STACK]),
        (2, "2026-10-25", "02:30+02:00"),
    ],
)
def test_a_day_with_a_change_of_the_clock_has_one_run(beat, hour, day, wanted):
    sends(beat, crontab(hour=hour, minute=0 if hour == 4 else 30), "Europe/Berlin")
    before = datetime.fromisoformat(day) - timedelta(hours=12)
    found = [each for each in beat.run(before.isoformat(" "), days=1) if each.startswith(day)]
    assert found == [f"{day} {wanted}"], (
        f"On {day} beat should send once, at {wanted}; it sent at {found}."
    )


@nobody_takes
def test_the_hour_that_comes_twice_is_passed_over(beat):
    """At 3:00 in summer time it is 2:00 again: an hourly schedule has a gap of two hours."""
    sends(beat, crontab(minute=30), "Europe/Berlin")
    found = [each[11:] for each in beat.run("2026-10-24 23:15", hours=4)]
    assert found == ["01:30+02:00", "02:30+02:00", "03:30+01:00"], f"It was sent at {found}."


@nobody_takes
@pytest.mark.parametrize("day, hours", [("2026-03-28", 23), ("2026-10-24", 25)])
def test_an_interval_of_a_day_in_a_zone(beat, day, hours):
    sends(beat, timedelta(hours=24), "Europe/Berlin")
    beat.run(f"{day} 12:00", days=1.1)
    hours = hours if STACK == "pinned" else 24
    found = (beat.sent[0]["at"] - datetime.fromisoformat(f"{day} 12:00+00:00")) / timedelta(hours=1)
    assert round(found, 2) == hours, (
        f"From {day} on, 24 hours should be {hours}, they are {found:.2f}."
    )


@nobody_takes
def test_what_was_missed_is_sent_once(beat):
    sends(beat, crontab())
    beat.run("2026-03-01 12:00:30", minutes=3)
    begin = "2026-03-01 12:05:54"  # 144 seconds after the last
    found = beat.run(begin, seconds=1)
    assert found == ["2026-03-01 12:05+00:00"], (
        f"beat should send once as it starts, it sent at {found}."
    )


@nobody_takes
def test_days_that_beat_missed_are_not_made_up_for(beat):
    sends(beat, crontab(hour=4, minute=0))
    beat.run("2026-03-02 00:00", days=1)  # a Monday
    found = beat.run("2026-03-05 02:00", hours=20)
    assert found == ["2026-03-05 02:00+00:00", "2026-03-05 04:00+00:00"], (
        f"After three days beat should send as it starts, and at 4:00; it sent at {found}."
    )


@nobody_takes
def test_a_first_start_sends_nothing(beat):
    sends(beat, crontab(hour=4, minute=0))
    found = beat.run("2026-03-01 04:30", hours=1)
    assert not found, f"Without a file beat should wait for the next time, it sent at {found}."


@nobody_takes
def test_an_edited_schedule_counts_after_a_restart(beat):
    sends(beat, crontab(hour=4, minute=0))
    beat.run("2026-03-01 00:00", hours=12)
    beat.app.conf.beat_schedule["interest"]["schedule"] = crontab(hour=18, minute=0)
    found = beat.run("2026-03-01 12:00", days=1)
    assert found == ["2026-03-01 18:00+00:00"], (
        f"beat should send at 18:00 now, it sent at {found}."
    )
    # What should have been in the meantime is sent at once.
    beat.app.conf.beat_schedule["interest"]["schedule"] = crontab(hour=20, minute=0)
    found = beat.run("2026-03-02 12:00", hours=1)
    assert found == ["2026-03-02 12:00+00:00"], (
        f"beat should send what is overdue, it sent at {found}."
    )


@nobody_takes
def test_another_name_or_zone_begins_anew(beat):
    sends(beat, crontab(hour=4, minute=0))
    beat.run("2026-03-01 00:00", days=1)
    sends(beat, crontab(hour=4, minute=0), "Europe/Berlin")
    found = beat.run("2026-03-05 02:00", minutes=30)
    assert not found, f"A new zone should reset the file, beat sent at {found}."
    beat.app.conf.beat_schedule["daily"] = beat.app.conf.beat_schedule.pop("interest")
    found = beat.run("2026-03-09 02:00", minutes=30)
    assert not found, f"An entry of a new name should have no past, beat sent at {found}."


@nobody_takes
def test_a_killed_beat_has_forgotten_the_last_minutes(beat):
    assert PersistentScheduler.sync_every == 180, "beat should write its file every three minutes."
    sends(beat, crontab())
    beat.run("2026-03-01 12:00:30", minutes=2, close=False)  # the second run isn't written
    found = beat.run("2026-03-01 12:02:40", seconds=10)
    assert found == ["2026-03-01 12:02+00:00"], (
        f"beat should send the last run again after a kill, it sent at {found}."
    )


@nobody_takes
@pytest.mark.parametrize("error", [OSError(11, "Resource temporarily unavailable"), None])
def test_a_file_that_cannot_be_opened_is_removed(beat, monkeypatch, caplog, error):
    """As by a second beat, where dbm.gnu has locked the file for the first; not each Python has that."""
    sends(beat, crontab())
    beat.run("2026-03-01 12:00:30", minutes=2)
    for file in Path(beat.file).parent.glob("celerybeat-schedule*"):
        file.write_bytes(b"damaged")
    if error:
        opened = PersistentScheduler._open_schedule
        errors = iter([error])
        monkeypatch.setattr(
            PersistentScheduler, "_open_schedule", lambda self: raised(errors) or opened(self)
        )
    found = beat.run("2026-03-01 12:05:54", seconds=1)
    assert "Removing corrupted schedule file" in caplog.text, (
        f"beat should say so, it said: {caplog.text}"
    )
    assert not found, f"Without its file beat should wait for the next time, it sent at {found}."


def test_an_expired_message_is_dropped(worker, app, pay_interest, ledger):
    past = datetime.now(UTC) - timedelta(seconds=1)
    result = find_task(app, NAME).apply_async((0.01,), expires=past)
    with assert_raises(
        TaskRevokedError, "An expired task should raise TaskRevokedError in the caller"
    ):
        result.get(timeout=5)
    worker.wait_for_log(f"Discarding revoked task: {NAME}[{result.id}]")
    assert list(entries(ledger)) == ["pay"], (
        f"An expired task shouldn't run; there are {entries(ledger)}."
    )


def test_beat_does_not_look_whether_a_task_is_there(worker, app, beat, pay_interest):
    sends(beat, crontab())
    beat.app.conf.beat_schedule["misspelt"] = {
        "task": "tasks.ledger.intrest_request",
        "schedule": crontab(),
    }
    beat.run("2026-03-01 12:00:30", minutes=2)
    found = [each["task"] for each in beat.sent].count("tasks.ledger.intrest_request")
    assert found == 2, f"beat should go on with a task that isn't there, it sent {found} of two."
    worker.wait_for_log("Received unregistered task of type 'tasks.ledger.intrest_request'")
    wait_until(lambda: worker.logs().count(f"Task {NAME}[") >= 4, 5)  # two received, two succeeded
    assert_result("The task that is there", find_task(app, NAME).delay(0.01), 1010.0)


def test_a_message_that_waits_past_midnight_counts_for_the_day_on_which_it_runs(
    app, pay_interest, ledger, monkeypatch
):
    module = importlib.import_module("tasks.ledger")
    if getattr(module, "datetime", None) is not datetime:
        pytest.skip("moves the clock of `from datetime import datetime`")

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 2, 0, 5, tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Clock)
    find_task(app, NAME)(0.01)
    found = entries(ledger)
    assert "interest 2026-03-02" in found, f"The day should be that of the run; there are {found}."
