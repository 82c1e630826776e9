"""What chapter 5's app costs, in counts and not in seconds: a regression that needs no clock to be seen."""

import subprocess
import sys
from collections import Counter

import pytest
from celery import VERSION, chord, group
from support.assertions import find_task

from course.environment import environment
from course.waiting import wait_until

# How often these come depends on who is quicker, or they stand around others.
LEFT_OUT = {"BRPOP", "UNSUBSCRIBE", "MULTI", "EXEC"}
# A message is pushed, noted as taken (ZADD, HSET) and struck off when done (ZREM, HDEL). The result is stored and
# published, after a look whether there is one (GET); the caller subscribes and looks once.
CALL = {
    "LPUSH": 1,
    "ZADD": 1,
    "HSET": 1,
    "ZREM": 1,
    "HDEL": 1,
    "SETEX": 1,
    "PUBLISH": 1,
    "GET": 2,
    "SUBSCRIBE": 1,
}
# Ten calls, but the caller looks at all results at once (MGET).
GROUP = {name: 10 * count for name, count in CALL.items()} | {"GET": 10, "SUBSCRIBE": 20, "MGET": 1}
# Eleven calls; the members count themselves and leave their results in a sorted set, which the last one hands on.
CHORD = {
    "pinned": {
        "LPUSH": 11,
        "HSET": 11,
        "ZREM": 11,
        "HDEL": 11,
        "SETEX": 12,
        "PUBLISH": 12,
        "GET": 33,
        "SUBSCRIBE": 21,
        "ZADD": 21,
        "ZCOUNT": 10,
        "ZRANGE": 1,
        "EXPIRE": 30,
        "DEL": 3,
    },
    "latest": {
        "LPUSH": 11,
        "HSET": 11,
        "ZREM": 11,
        "HDEL": 11,
        "SETEX": 11,
        "PUBLISH": 11,
        "GET": 45,
        "SUBSCRIBE": 11,
        "ZADD": 21,
        "ZCOUNT": 10,
        "ZRANGE": 1,
        "EXPIRE": 51,
        "DEL": 2,
        "SET": 3,
        "SADD": 10,
        "SISMEMBER": 10,
        "EVALSHA": 12,
    },
}["pinned" if VERSION < (5, 2) else "latest"]


def place(line):
    """The database and the client of a line of MONITOR: `1795507380.658780 [3 127.0.0.1:50214] "GET" "key"`."""
    return line.partition("[")[2].partition("]")[0].split()


class Monitor:
    """Counts the commands that reach a database, with Redis' MONITOR."""

    def __init__(self, redis):
        self.redis = redis
        self.database = str(redis.connection_pool.connection_kwargs["db"])
        self.connection = redis.connection_pool.get_connection("MONITOR")
        self.connection.send_command("MONITOR")
        self.connection.read_response()

    def count(self, function):
        """Run function() and return how often each command was sent until all messages were acknowledged."""
        self.redis.echo("begin")
        function()
        wait_until(lambda: not self.redis.hlen("unacked"))
        self.redis.echo("end")
        begin = self.line()
        while '"ECHO" "begin"' not in begin:
            begin = self.line()
        own, counts, line = place(begin), Counter(), self.line()
        while '"ECHO" "end"' not in line:
            command = line.split('"')[1].upper()
            if place(line) != own and place(line)[0] == self.database and command not in LEFT_OUT:
                counts[command] += 1
            line = self.line()
        return counts

    def line(self):
        return self.connection.read_response()

    def close(self):
        self.connection.disconnect()


@pytest.mark.isolated(
    args=["-c", "1", "--without-mingle", "--without-gossip", "--without-heartbeat"]
)
def test_commands_sent_to_redis(celery_setup, app, redis):
    add, xsum = find_task(app, "tasks.math.add_request"), find_task(app, "tasks.math.xsum_request")
    tens = [add.s(i, i) for i in range(10)]
    # A chord's get looks at its members again and again, unless it is told not to raise what they raise.
    shapes = {
        "A call": (lambda: add.delay(4, 4).get(timeout=10), CALL),
        "A group of 10": (lambda: group(tens).delay().get(timeout=10), GROUP),
        "A chord of 10": (
            lambda: chord(tens, xsum.s()).delay().get(timeout=10, propagate=False),
            CHORD,
        ),
    }
    monitor = Monitor(redis)
    try:
        for name, (function, wanted) in shapes.items():
            function()  # the first opens connections
            # The least of three, as a command of Celery's own timers may fall into a round.
            rounds = [monitor.count(function) for _ in range(3)]
            found = {command: min(each[command] for each in rounds) for command in rounds[0]}
            more = {
                command: count for command, count in found.items() if count > wanted.get(command, 0)
            }
            assert not more, (
                f"{name} should send Redis only the commands that Celery needs for it, but it sends {more}, not"
                f" { ({command: wanted.get(command, 0) for command in more}) }."
            )
    finally:
        monitor.close()


IMPORTS = """
import sys
import loguru
from celery.app.utils import find_app
import celery.app.builtins, celery.apps.worker, celery.bin.celery, celery.concurrency.prefork
before = set(sys.modules)
app = find_app("tasks")
app.loader.import_default_modules()
print(*sorted(name for name in set(sys.modules) - before if name.split(".")[0] not in ("celery", "kombu")))
"""


def test_modules_that_the_app_imports(folder):
    env = environment("redis://127.0.0.1:1/0")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        name
        for name in done.stdout.split()
        if name.split(".")[0] not in ("tasks", "libs", "celeryconfig")
    ]
    assert done.returncode == 0, (
        f"The app should be importable, but it raised: {done.stderr.strip().splitlines()[-1:]}"
    )
    assert not found, (
        f"A worker should import only Celery, loguru and the chapter's modules, but it also imports {found}."
    )
