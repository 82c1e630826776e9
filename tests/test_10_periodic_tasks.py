"""Chapter 10: what beat sends and when, on a clock that the tests set, and what the ledger does."""

import importlib
import inspect
import shelve
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import celery.beat
import pytest
from celery import Celery, signals
from celery.beat import PersistentScheduler, Service
from celery.exceptions import TaskRevokedError
from celery.schedules import crontab
from support.assertions import (
    assert_exported,
    assert_listed,
    assert_raises,
    assert_result,
    assert_returns,
    assert_task_returns,
    describe,
    find_task,
)
from support.carried import assert_carried_settings, assert_carried_tasks, carried_tasks
from support.names import ENTER, INTEREST
from support.signals import connected, published_messages, retries

from course.environment import PINNED
from course.waiting import wait_until

BERLIN = "Europe/Berlin"
ENTRY_PARTS = {"task", "schedule", "args", "kwargs", "options", "relative"}
# The tasks of the star steps.
RENT = "tasks.ledger.rent_request"
MISSED = "tasks.ledger.missed_request"
LATER = "tasks.ledger.later_request"
DUE = "tasks.ledger.due_request"


@pytest.fixture
def pay_interest(ledger):
    """The chapter's function, on a balance of 1000."""
    module = importlib.import_module("libs.ledger")
    assert hasattr(module, "pay_interest"), (
        "libs/ledger.py should have a function pay_interest, but it has none."
    )
    module.enter("pay", 1000)
    return module.pay_interest


class Beat:
    """Celery's own beat on a clock that beat's sleep moves on: a day takes milliseconds.

    It stands in for the module time in celery.beat. `sent` lists the messages: when they were sent,
    their task, arguments by position or name, and expiry in seconds.
    """

    def __init__(self, app, file):
        self.app = app
        self.file = str(file)
        self.now = None
        self.end = None
        self.sent = []
        self.killed = []
        self.errors = []

    def time(self):
        """Return the time in the app's zone; a look at the clock takes a millisecond."""
        self.now += timedelta(milliseconds=1)
        return self.now.astimezone(self.app.timezone)

    def monotonic(self):
        return self.now.timestamp()

    def sleep(self, seconds):
        """Move the clock; press Ctrl-C if beat's time is over."""
        self.now += timedelta(seconds=seconds)
        if self.now >= self.end:
            self.now = self.end
            raise KeyboardInterrupt

    def note(self, sender, body, headers, **_):
        expires = None
        if headers["expires"]:
            expires = (datetime.fromisoformat(headers["expires"]) - self.now).total_seconds()
        arguments = [*body[0], *body[1].values()]
        message = {"at": self.time(), "task": sender, "args": arguments, "expires": expires}
        self.sent.append(message)

    def note_error(self, text, *values, **_):
        """Log an error as beat does, and keep it: beat goes on if it can't send a message."""
        celery.beat.logger.error(text, *values)
        self.errors.append(values[0])

    def set_zone(self, zone):
        self.app.conf.timezone = zone
        del self.app.timezone  # the app has cached the zone that it had before

    def set_schedule(self, schedule, zone="UTC"):
        """Make this the only entry of the schedule, in this time zone."""
        self.set_zone(zone)
        entry = {"task": INTEREST, "args": (0.01,), "schedule": schedule}
        self.app.conf.beat_schedule = {"interest": entry}

    def leave_out(self, task):
        """Forget the entries of a task, which is due too often for a run of days."""
        schedule = self.app.conf.beat_schedule
        for name in list(schedule):
            if schedule[name].get("task") == task:
                del schedule[name]

    def run(self, begin, close=True, **duration):
        """Start beat at this time in UTC and stop it after this timedelta, or kill it.

        Return the times at which it sent a message, in the app's time zone.
        """
        self.now = datetime.fromisoformat(f"{begin}+00:00")
        self.end = self.now + timedelta(**duration)
        already = len(self.sent)
        self.errors.clear()
        self.app.finalize()  # as `celery beat` does; the app may add to its schedule then
        service = Service(self.app, schedule_filename=self.file)
        if not close:
            service.sync = lambda: None  # which would write the file and close it
            self.killed.append(service)  # what is garbage collected would still write its file
        try:
            with connected(signals.before_task_publish, self.note):
                service.start()
        except Exception as error:  # noqa: BLE001  it becomes the sentence
            raise AssertionError(
                f"beat should run with this schedule, but this was raised: {describe(error)}"
            ) from None
        return [message["at"].isoformat(" ", "minutes") for message in self.sent[already:]]


@pytest.fixture
def beat(app, monkeypatch, tmp_path):
    """The chapter's beat, whose messages no worker takes."""
    beat = Beat(app, tmp_path / "celerybeat-schedule")
    monkeypatch.setattr(app, "now", beat.time)
    monkeypatch.setattr(celery.beat, "time", beat)
    monkeypatch.setattr(celery.beat, "error", beat.note_error)
    return beat


class FailsOnce:
    """A stand-in for the module shelve that can't open a file the first time."""

    def __init__(self, error):
        self.errors = [error]

    def open(self, *args, **options):
        if self.errors:
            raise self.errors.pop()
        return shelve.open(*args, **options)


def entries(ledger):
    """Return the ledger's amounts by their ids."""
    with closing(sqlite3.connect(ledger)) as db:
        [table] = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchone()
        return {row[0]: row[1] for row in db.execute(f'SELECT * FROM "{table}"')}


def interest_entries(ledger):
    """Return the entries without the balance that pay_interest began with."""
    found = entries(ledger)
    found.pop("pay", None)
    return found


no_worker = pytest.mark.isolated(count=0)


@pytest.fixture
def distant_zone(monkeypatch):
    """A time zone for this process in which it is another day than in UTC."""
    zone = "<-12>12"
    if datetime.now(UTC).hour >= 12:
        zone = "<+14>-14"
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


def assert_entry(name, entry):
    """Fail unless this entry of the schedule has the parts that beat wants."""
    assert isinstance(entry, dict), (
        f"The entry {name!r} of beat_schedule should be a dictionary of its own, with a task and a"
        f" schedule, but it is {entry!r}."
    )
    unknown = sorted(set(entry) - ENTRY_PARTS)
    assert not unknown, (
        f"The entry {name!r} has {', '.join(unknown)} beside its task and schedule, but what"
        ' apply_async takes belongs in its "options".'
    )
    args = entry.get("args", ())
    assert isinstance(args, (tuple, list)), (
        f"The args of the entry {name!r} should be a tuple, as in (0.01,), but they are {args!r}."
    )
    schedule = entry.get("schedule")
    assert not isinstance(schedule, str), (
        f"The schedule of the entry {name!r} should be a crontab, a timedelta or a number of"
        f" seconds, but it is the text {schedule!r}."
    )


def names_of_a_fixed_day(task, day):
    """Return the names in a task's module, and its parameters, that hold this day since import."""
    values = dict(vars(importlib.import_module(task.__module__)))
    for name, parameter in inspect.signature(task.run).parameters.items():
        values[name] = parameter.default
    return [name for name, value in values.items() if day in str(value)]


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
        f"On a balance of 1000, pay_interest should return 1010.0, but it returned {found!r}."
    )
    added = interest_entries(ledger)
    assert added == {"interest 2026-03-01": 10.0}, (
        "pay_interest should add one entry, 'interest 2026-03-01' with 10.0, but it added"
        f" {added or 'none'}."
    )


@pytest.mark.step(
    "a second call for the same day changes nothing, and another day pays again", "a-daily-task"
)
def test_a_day_is_paid_once(pay_interest):
    """The id that the entry is made under has to hold the day: f"interest {day}"."""
    days = ["2026-03-01", "2026-03-01", "2026-03-02"]
    found = [round(pay_interest(day, 0.01), 2) for day in days]
    assert found == [1010.0, 1010.0, 1020.1], (
        "Interest for March 1st, for March 1st again and for March 2nd should leave 1010.0, 1010.0"
        f" and 1020.1, but it left {', '.join(map(str, found))}."
    )


@pytest.mark.step(
    "`from tasks import interest_request` works, and the worker lists"
    " `tasks.ledger.interest_request`",
    "a-daily-task",
)
def test_package_offers_the_task(worker, app):
    """Write it in tasks/ledger.py, like enter_request, and import it in tasks/__init__.py."""
    assert_exported(app, INTEREST)
    assert_listed(worker, [INTEREST])


@pytest.mark.step(
    "`interest_request.delay(0.01)` enters today's interest, by the date in UTC, and only once",
    "a-daily-task",
)
def test_interest_request(celery_setup, app, pay_interest, ledger, distant_zone):
    """The task works out the day: datetime.now(UTC).date(). Its only argument is the rate."""
    before = f"interest {datetime.now(UTC).date()}"
    # Called as a function here, where it is another day than in UTC, and then by the worker.
    task = find_task(app, INTEREST)
    assert_returns("interest_request(0.01)", lambda: task(0.01), 1010.0)
    after = f"interest {datetime.now(UTC).date()}"  # another day, if the test runs at midnight
    added = list(interest_entries(ledger))
    assert added and set(added) <= {before, after}, (
        f"interest_request should make an entry {before!r}, by the date in UTC, but it made"
        f" {added or 'none'}."
    )
    fixed = names_of_a_fixed_day(task, after.removeprefix("interest "))
    assert not fixed, (
        "interest_request should work out the day each time it runs, but"
        f" {' and '.join(fixed)} keeps the day on which the worker started."
    )
    assert_task_returns(app, INTEREST, (0.01,), 1010.0)


@pytest.mark.step(
    "while the ledger is locked, `interest_request` is retried three times, as `enter_request` is",
    "a-daily-task",
)
def test_a_locked_ledger_is_tried_again(app, pay_interest, ledger):
    """@app.task takes autoretry_for, retry_backoff and max_retries, which is 3 by default."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as lock, retries() as reasons:
        lock.execute("BEGIN IMMEDIATE")
        # apply() doesn't wait before a retry.
        result = find_task(app, INTEREST).apply((0.01,))
    assert (result.state, len(reasons)) == ("FAILURE", 3), (
        "If the ledger stays locked, interest_request should be retried three times and then fail,"
        f" but it was retried {len(reasons)} times, and its state is {result.state}"
        f" ({result.result!r})."
    )


@pytest.mark.step(
    "beat sends `interest_request` with the rate 0.01 once a day, at 4:00 UTC",
    "interval-and-crontab",
)
@no_worker
def test_beat_sends_once_a_day(app, beat):
    """beat_schedule is a dictionary of dictionaries. crontab needs both hour=4 and minute=0,
    and args is a tuple: (0.01,)."""
    app.finalize()
    assert app.conf.beat_schedule, "celeryconfig.py should set beat_schedule, but it doesn't."
    for name, entry in app.conf.beat_schedule.items():
        assert_entry(name, entry)
    beat.leave_out(DUE)
    beat.run("2026-03-01 00:30", days=2)
    assert not beat.errors, (
        f"beat should send each entry, but this was raised: {describe(beat.errors[0])}"
    )
    calls = {f"{message['task']} with {message['args']}" for message in beat.sent}
    interest = [message for message in beat.sent if message["task"] == INTEREST]
    assert interest and all(message["args"] == [0.01] for message in interest), (
        f"beat should send {INTEREST} with [0.01], but it sent"
        f" {', '.join(sorted(calls)) or 'nothing'}."
    )
    times = [message["at"].isoformat(" ", "minutes") for message in interest]
    assert times == ["2026-03-01 04:00+00:00", "2026-03-02 04:00+00:00"], (
        f"In two days beat should send twice, at 4:00 UTC, but it sent {len(times)} times,"
        f" first at {', '.join(times[:3])}."
    )


@pytest.mark.step(
    "a message that waits longer than twelve hours is dropped", "when-no-worker-is-running"
)
@no_worker
def test_a_message_expires(app, beat):
    """An entry's "options" is a dictionary of what apply_async takes, such as expires, in
    seconds."""
    beat.leave_out(DUE)
    beat.run("2026-03-01 00:30", days=1)
    interest = [message for message in beat.sent if message["task"] == INTEREST]
    assert interest, f"beat should send {INTEREST} once a day, but it didn't."
    sent, expires = interest[0]["at"], interest[0]["expires"]
    assert expires is not None, (
        "beat's message should expire after twelve hours, 43200 seconds, but it never expires."
    )
    assert abs(expires - 12 * 3600) < 1, (
        "beat's message should expire after twelve hours, 43200 seconds, but what it sends at"
        f" {sent:%Y-%m-%d %H:%M} expires after {expires:.0f}, at"
        f" {sent + timedelta(seconds=expires):%Y-%m-%d %H:%M}."
    )


@pytest.mark.step("the tasks and the settings of chapter 9 are still there", "a-daily-task")
def test_what_chapter_9_had(worker, app, number, ledger):
    """Nothing else changes in this chapter."""
    assert_listed(worker, carried_tasks(number))
    assert_carried_settings(app, number)
    assert_carried_tasks(app, number)
    assert_task_returns(app, ENTER, ("rent", -500), -500.0)


def sent_of(beat, task):
    """Return the times and the arguments of beat's messages for a task."""
    return [
        (f"{sent['at']:%m-%d %H:%M}", sent["args"]) for sent in beat.sent if sent["task"] == task
    ]


def amounts(ledger):
    """Return the ledger's amounts by their keys, in cents."""
    return {key: round(amount, 2) for key, amount in entries(ledger).items()}


@pytest.mark.star(
    "beat sends `rent_request` with -500 on the first of each month at 6:00 UTC; it enters the rent"
    " once a month, under `rent 2026-03` in March",
    "beat",
)
@no_worker
def test_star_rent(app, beat, ledger):
    """An entry's arguments are the same each time. So who has to know which month it is?"""
    rent_request = find_task(app, RENT)
    beat.leave_out(DUE)
    beat.run("2026-02-28 20:00", days=1)
    beat.run("2026-03-31 20:00", days=1)
    found = sent_of(beat, RENT)
    wanted = [("03-01 06:00", [-500]), ("04-01 06:00", [-500])]
    assert found == wanted, (
        f"In March and April, beat should send {wanted} to rent_request, but it sent {len(found)}"
        f" in all, beginning with {found[:2]}."
    )
    before = f"rent {datetime.now(UTC):%Y-%m}"
    for _ in range(2):
        rent_request(-500)
    after = f"rent {datetime.now(UTC):%Y-%m}"
    keys = set(entries(ledger))
    assert keys and keys <= {before, after}, (
        f"rent_request should enter the rent under {before!r}, but the ledger has {keys}."
    )


@pytest.mark.star(
    "`missed_request(0.01)` enters the interest of each day since the last one in the ledger, the"
    " oldest first, and today's, and returns the balance",
    "when-beat-is-down",
)
@no_worker
def test_star_missed(app, pay_interest, ledger):
    """Keys that end in a date are in the order of their days, so SQL's max finds the last."""
    missed_request = find_task(app, MISSED)
    today = datetime.now(UTC).date()
    assert_returns("On an empty ledger, missed_request(0.01)", lambda: missed_request(0.01), 1010.0)
    added = list(interest_entries(ledger))
    assert added == [f"interest {today}"], (
        f"Without earlier interest, missed_request should enter today's alone, but it has {added}."
    )
    ledger.unlink()
    importlib.import_module("libs.ledger").enter("pay", 1000)
    pay_interest((today - timedelta(days=3)).isoformat(), 0.01)
    wanted = {"pay": 1000.0}
    for days, amount in ((3, 10.0), (2, 10.1), (1, 10.2), (0, 10.3)):
        wanted[f"interest {today - timedelta(days=days)}"] = amount
    for _ in range(2):
        balance = missed_request(0.01)
        assert amounts(ledger) == wanted and round(balance, 2) == 1040.6, (
            f"Three days after the last interest, missed_request should leave {wanted} and return"
            f" 1040.60401, but it left {amounts(ledger)} and returned {balance!r}."
        )


@pytest.mark.star(
    '`later_request("gift", 100, "2027-01-01")` keeps an amount without sending a message;'
    " `due_request()`, which beat sends every minute, enters it once, from that day on",
    "a-date-far-away",
)
@no_worker
def test_star_due(app, beat, ledger):
    """A second table of the ledger's file has the day of each amount."""
    later_request, due_request = find_task(app, LATER), find_task(app, DUE)
    beat.run("2026-03-01 12:00:30", minutes=3)
    found = sent_of(beat, DUE)
    assert len(found) == 3, (
        f"In three minutes, beat should send due_request three times, but it sent {found}."
    )
    today = datetime.now(UTC).date()
    with published_messages() as messages:
        later_request("gift", 100, (today - timedelta(days=1)).isoformat())
        later_request("tip", 5, today.isoformat())
        later_request("rent", -500, (today + timedelta(days=2)).isoformat())
    assert not messages, f"later_request should send no message, but it sent {messages}."
    app.conf.task_always_eager = True  # if due_request sends a message for each amount, run it
    for _ in range(2):
        due_request()
        balance = find_task(app, ENTER)("gift", 100)
        assert balance == 105.0, (
            "Of 100 since yesterday, 5 today and -500 in two days, due_request should leave 105.0,"
            f" but it left {balance}."
        )


# What follows is about Celery itself.


@no_worker
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
    beat.set_schedule(schedule)
    found = [time[11:16] for time in beat.run("2026-03-01 00:00", hours=23.9)]
    assert found == wanted, (
        f"{schedule!r} should be due at {wanted} on March 1st 2026, but it was due at {found}."
    )


@no_worker
def test_a_schedule_in_utc_has_no_daylight_saving(beat):
    day = "2026-03-29"
    beat.set_schedule(crontab(hour=2, minute=30))
    found = beat.run(f"{day} 00:00", days=1)
    assert found == [f"{day} 02:30+00:00"], (
        f"A schedule in UTC should be due at 02:30 on {day} too, but it was due at {found}."
    )


def assert_one_run_in_berlin(beat, schedule, day, wanted):
    """Fail unless beat sends once on this day, at this local time."""
    beat.set_schedule(schedule, BERLIN)
    noon_before = datetime.fromisoformat(day) - timedelta(hours=12)
    times = beat.run(noon_before.isoformat(" "), days=1)
    found = [time for time in times if time.startswith(day)]
    assert found == [f"{day} {wanted}"], (
        f"On {day} beat should send once, at {wanted}, but it sent at {found}."
    )


@no_worker
@pytest.mark.parametrize(
    "day, wanted", [("2026-03-29", "04:00+02:00"), ("2026-10-25", "04:00+01:00")]
)
def test_a_day_with_a_change_of_the_clock_has_one_run(beat, day, wanted):
    assert_one_run_in_berlin(beat, crontab(hour=4, minute=0), day, wanted)


@no_worker
def test_a_time_that_a_day_skips_runs_later(beat):
    wanted = "03:30+02:00"
    if PINNED:
        wanted = "03:00+02:00"
    assert_one_run_in_berlin(beat, crontab(hour=2, minute=30), "2026-03-29", wanted)


@no_worker
@pytest.mark.parametrize("hour, minute", [(0, 0), (1, 0), (2, 30), (23, 59)])
def test_runs_asks_for_the_whole_day(app, hour, minute):
    """The lesson's day begins at midnight in the schedule's zone, and a change of the clock is no
    second run."""
    berlin = Celery(set_as_current=False)
    berlin.conf.timezone = BERLIN
    runs = importlib.import_module("experiments").runs
    found = runs(crontab(hour=hour, minute=minute, app=berlin), "2026-10-25")
    assert [time[:16] for time in found] == [f"2026-10-25 {hour:02}:{minute:02}"], (
        f"On October 25th, runs should find {hour}:{minute:02} once, but it found {found}."
    )


@no_worker
@pytest.mark.parametrize("day, hours_on_pinned", [("2026-03-28", 23), ("2026-10-24", 25)])
def test_an_interval_of_a_day_in_a_zone(beat, day, hours_on_pinned):
    wanted = 24
    if PINNED:
        wanted = hours_on_pinned
    beat.set_schedule(timedelta(hours=24), BERLIN)
    beat.run(f"{day} 12:00", days=1.1)
    noon = datetime.fromisoformat(f"{day} 12:00+00:00")
    found = (beat.sent[0]["at"] - noon) / timedelta(hours=1)
    assert round(found, 2) == wanted, (
        f"From {day} on, an interval of 24 hours should take {wanted}, but it took {found:.2f}."
    )


@no_worker
def test_days_that_beat_missed_are_not_made_up_for(beat):
    beat.set_schedule(crontab(hour=4, minute=0))
    beat.run("2026-03-02 00:00", days=1)  # a Monday
    found = beat.run("2026-03-05 02:00", hours=20)
    assert found == ["2026-03-05 02:00+00:00", "2026-03-05 04:00+00:00"], (
        f"After three days beat should send as it starts, and at 4:00, but it sent at {found}."
    )


@no_worker
def test_a_first_start_sends_nothing(beat):
    beat.set_schedule(crontab(hour=4, minute=0))
    found = beat.run("2026-03-01 04:30", hours=1)
    assert not found, f"Without a file beat should wait for the next time, but it sent at {found}."


@no_worker
def test_an_edited_schedule_is_used_after_a_restart(beat):
    beat.set_schedule(crontab(hour=4, minute=0))
    beat.run("2026-03-01 00:00", hours=12)
    beat.app.conf.beat_schedule["interest"]["schedule"] = crontab(hour=18, minute=0)
    found = beat.run("2026-03-01 12:00", days=1)
    assert found == ["2026-03-01 18:00+00:00"], (
        f"beat should send at 18:00 now, but it sent at {found}."
    )
    # The new schedule was due in the meantime, so beat sends at once.
    beat.app.conf.beat_schedule["interest"]["schedule"] = crontab(hour=20, minute=0)
    found = beat.run("2026-03-02 12:00", hours=1)
    assert found == ["2026-03-02 12:00+00:00"], (
        f"beat should send an overdue entry as it starts, but it sent at {found}."
    )


@no_worker
def test_only_a_second_zone_begins_anew(beat):
    """The chapter has no zone. Beat clears its file if that has a zone already, and another one."""
    beat.run("2026-03-02 00:00", hours=12)
    beat.set_zone(BERLIN)
    found = beat.run("2026-03-05 02:00", minutes=30)
    assert found == ["2026-03-05 03:00+01:00"], (
        f"With its first zone, beat should send what is overdue at once, but it sent at {found}."
    )
    beat.set_zone("Europe/London")
    found = beat.run("2026-03-09 02:00", minutes=30)
    assert not found, f"Another zone should reset the file, but beat sent at {found}."


@no_worker
@pytest.mark.parametrize(
    "begin, killed_after, wanted",
    [
        ("03:53", 11 * 60 + 30, ["2026-03-01 04:05+00:00"]),  # wakes at 3:58, 4:00 and 4:05
        ("03:53", 12 * 60 + 30, []),
        ("03:50", 14 * 60 + 30, ["2026-03-01 04:05+00:00"]),  # wakes at 3:55, 4:00 and 4:05
        ("03:50", 15 * 60 + 30, []),
    ],
)
def test_a_killed_beat_has_forgotten_what_it_sent_since_it_woke(beat, begin, killed_after, wanted):
    """With the chapter's schedule, beat sleeps for five minutes at most."""
    found = beat.run(f"2026-03-01 {begin}", close=False, seconds=killed_after)
    assert found == ["2026-03-01 04:00+00:00"], f"beat should send at 4:00, but it sent at {found}."
    with shelve.open(beat.file, "r") as file:
        writes_at_once = hasattr(file.dict, "sync")
    if not writes_at_once:  # Debian's own Python, whose dbm writes when the file is closed
        wanted = []
    found = beat.run("2026-03-01 04:05:45", minutes=1)
    assert found == wanted, (
        f"A beat that was started at {begin} and killed {killed_after} seconds later should be"
        f" followed by one that sends at {wanted}, but that sent at {found}."
    )


@no_worker
def test_a_late_run_expires_on_the_next_day(beat):
    beat.run("2026-03-02 00:00", hours=12)
    found = beat.run("2026-03-03 22:00", minutes=30)
    assert found == ["2026-03-03 22:00+00:00"], f"beat should send at 22:00, but sent at {found}."
    message = beat.sent[-1]
    expires = message["at"] + timedelta(seconds=message["expires"])
    assert expires.isoformat(" ", "minutes") == "2026-03-04 10:00+00:00", (
        f"What is sent at 22:00 should expire at 10:00 on the next day, but it does at {expires}."
    )


@no_worker
@pytest.mark.parametrize("begin, is_late", [("09:59", False), ("10:01", True)])
def test_a_run_that_is_too_late_is_left_out(app, beat, begin, is_late):
    """A run that is at most six hours late expires on its day."""
    app.conf.beat_cron_starting_deadline = 6 * 3600
    beat.run("2026-03-02 00:00", hours=12)
    wanted = [f"2026-03-05 {begin}+00:00", "2026-03-06 04:00+00:00"]
    if is_late and not PINNED:
        del wanted[0]
    found = beat.run(f"2026-03-05 {begin}", days=1)
    assert found == wanted, (
        f"From {begin} on, beat should send at {wanted}, but it sent at {found}."
    )


@no_worker
def test_three_minutes_are_the_least(beat):
    seconds = PersistentScheduler.sync_every
    assert seconds == 180, (
        f"beat should write its file every 180 seconds at most, but sync_every is {seconds}."
    )


def assert_file_is_removed(beat, caplog):
    """Start beat on its file; fail unless it removes that and begins anew."""
    found = beat.run("2026-03-01 12:05:54", seconds=1)
    assert "Removing corrupted schedule file" in caplog.text, (
        f"beat should log that it removes the file, but it logged: {caplog.text or 'nothing'}"
    )
    assert not found, (
        f"Without its file beat should wait for the next time, but it sent at {found}."
    )


def damage_files(beat):
    for file in Path(beat.file).parent.glob("celerybeat-schedule*"):
        file.write_bytes(b"damaged")


@no_worker
def test_a_damaged_file_is_removed(beat, caplog):
    beat.set_schedule(crontab())
    beat.run("2026-03-01 12:00:30", minutes=2)
    damage_files(beat)
    assert_file_is_removed(beat, caplog)


@no_worker
def test_a_locked_file_is_removed(beat, monkeypatch, caplog):
    """A second beat meets this where Python has dbm.gnu, which locks the file for the first."""
    beat.set_schedule(crontab())
    beat.run("2026-03-01 12:00:30", minutes=2)
    damage_files(beat)
    error = OSError(11, "Resource temporarily unavailable")
    monkeypatch.setattr(PersistentScheduler, "persistence", FailsOnce(error))
    assert_file_is_removed(beat, caplog)


def test_an_expired_message_is_dropped(worker, app, pay_interest, ledger):
    past = datetime.now(UTC) - timedelta(seconds=1)
    result = find_task(app, INTEREST).apply_async((0.01,), expires=past)
    with assert_raises(TaskRevokedError, "get() of an expired task should raise TaskRevokedError"):
        result.get(timeout=30)
    worker.wait_for_log(f"Discarding revoked task: {INTEREST}[{result.id}]")
    added = interest_entries(ledger)
    assert not added, f"An expired task shouldn't run, but it made the entries {added}."


def test_beat_does_not_check_that_a_task_exists(worker, app, beat, pay_interest):
    beat.set_schedule(crontab())
    beat.app.conf.beat_schedule["misspelt"] = {
        "task": "tasks.ledger.intrest_request",
        "schedule": crontab(),
    }
    beat.run("2026-03-01 12:00:30", minutes=2)
    found = [message["task"] for message in beat.sent].count("tasks.ledger.intrest_request")
    assert found == 2, (
        f"beat should send a task that doesn't exist twice in two minutes, but it sent {found}."
    )
    worker.wait_for_log("Received unregistered task of type 'tasks.ledger.intrest_request'")
    # Two are received, and two have succeeded.
    wait_until(lambda: worker.logs().count(f"Task {INTEREST}[") >= 4)
    assert_result("The task that exists", find_task(app, INTEREST).delay(0.01), 1010.0)


def test_interest_is_for_the_day_on_which_the_task_runs(app, pay_interest, ledger, monkeypatch):
    module = importlib.import_module("tasks.ledger")
    if getattr(module, "datetime", None) is not datetime:
        pytest.skip("replaces the clock of `from datetime import datetime`")

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 2, 0, 5, tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Clock)
    find_task(app, INTEREST)(0.01)
    found = interest_entries(ledger)
    assert "interest 2026-03-02" in found, (
        f"The interest should be for the day of the run, 2026-03-02, but the entries are {found}."
    )
