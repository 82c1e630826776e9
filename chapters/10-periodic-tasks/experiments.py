"""Clocks that you can turn, for the prompt. The app doesn't use this file."""

import time
from datetime import datetime, timedelta

from tasks.celery import app

redis = app.connection().default_channel.client
inspect = app.control.inspect(timeout=10, limit=1)


def copies():
    """Return how many messages the worker holds that aren't due yet."""
    count = 0
    for held in (inspect.scheduled() or {}).values():
        count += len(held)
    return count


def an_hour_passes():
    """Let the messages that the worker holds be an hour older; return how many it holds then.

    A worker looks for messages that are too old about every 100 seconds. We do it at once.
    """
    deadline = time.monotonic() + 10
    while not redis.hlen("unacked"):
        if time.monotonic() > deadline:
            raise RuntimeError("No message is held: is the worker up?")
    before = copies()
    for tag in redis.zrange("unacked_index", 0, -1):
        redis.zincrby("unacked_index", -3601, tag)
    with app.connection_for_write() as connection:
        connection.default_channel.qos.restore_visible(num=1000)
    while copies() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    return copies()


def runs(schedule, day):
    """Return the times on a day at which a schedule is due: ask it in each minute of the day.

    Elsewhere, this day begins up to 14 hours earlier and ends up to 12 hours later than in UTC.
    """
    midnight = datetime.fromisoformat(f"{day} 00:00+00:00")
    now = last = (midnight - timedelta(hours=15)).astimezone(schedule.tz)
    schedule.nowfun = lambda: now
    times = []
    for minute in range(-14 * 60, 36 * 60):
        now = (midnight + timedelta(minutes=minute)).astimezone(schedule.tz)
        if schedule.is_due(last).is_due:
            last = now
            times.append(now.isoformat(" ", "minutes"))
    return [time for time in times if time.startswith(day)]
