"""What chapter 5's app costs, in commands and imports, so that no clock is needed."""

import subprocess
import sys
from collections import Counter

import pytest
from celery import chord, group
from support.assertions import find_task
from support.names import ADD, XSUM

from course.environment import PINNED, environment
from course.waiting import wait_until

# How often these come depends on which side is quicker, or they only enclose others.
LEFT_OUT = {"BRPOP", "UNSUBSCRIBE", "MULTI", "EXEC"}
# A message is pushed, recorded as taken (ZADD, HSET) and removed when it's done (ZREM, HDEL). The
# result is stored and published, after a look for an earlier one (GET); the caller subscribes and
# looks once.
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
GROUP = {
    "LPUSH": 10,
    "ZADD": 10,
    "HSET": 10,
    "ZREM": 10,
    "HDEL": 10,
    "SETEX": 10,
    "PUBLISH": 10,
    "GET": 10,
    "SUBSCRIBE": 20,
    "MGET": 1,
}
# Eleven calls. The members leave their results in a sorted set, which the last one passes on.
PINNED_CHORD = {
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
}
LATEST_CHORD = {
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
}


def origin(line):
    """Return the database and the client of a line of MONITOR.

    Such a line is `1795507380.658780 [3 127.0.0.1:50214] "GET" "key"`.
    """
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
        """Run a function; return how often each command was sent until all is acknowledged."""
        self.redis.echo("begin")
        function()
        wait_until(lambda: not self.redis.hlen("unacked"))
        self.redis.echo("end")
        line = self.read_line()
        while '"ECHO" "begin"' not in line:
            line = self.read_line()
        own = origin(line)
        counts = Counter()
        line = self.read_line()
        while '"ECHO" "end"' not in line:
            database = origin(line)[0]
            command = line.split('"')[1].upper()
            is_own = origin(line) == own
            if not is_own and database == self.database and command not in LEFT_OUT:
                counts[command] += 1
            line = self.read_line()
        return counts

    def read_line(self):
        return self.connection.read_response()

    def close(self):
        self.connection.disconnect()


@pytest.fixture
def monitor(redis):
    monitor = Monitor(redis)
    yield monitor
    monitor.close()


def assert_commands(monitor, name, function, wanted):
    """Fail if a function sends Redis more commands than these."""
    function()  # the first call opens connections
    rounds = [monitor.count(function) for _ in range(3)]
    for command in rounds[0]:
        # The least of three, because Celery's own timers may send a command in a round.
        least = min(counts[command] for counts in rounds)
        assert least <= wanted.get(command, 0), (
            f"{name} should send {command} {wanted.get(command, 0)} times, but it sent it {least}"
            " times."
        )


alone = pytest.mark.isolated(
    args=["-c", "1", "--without-mingle", "--without-gossip", "--without-heartbeat"]
)


@alone
def test_commands_of_a_call(celery_setup, app, monitor):
    add = find_task(app, ADD)
    assert_commands(monitor, "A call", lambda: add.delay(4, 4).get(timeout=30), CALL)


@alone
def test_commands_of_a_group(celery_setup, app, monitor):
    add = find_task(app, ADD)

    def run_group():
        group(add.s(i, i) for i in range(10)).delay().get(timeout=30)

    assert_commands(monitor, "A group of 10", run_group, GROUP)


@alone
def test_commands_of_a_chord(celery_setup, app, monitor):
    add = find_task(app, ADD)
    xsum = find_task(app, XSUM)

    def run_chord():
        result = chord((add.s(i, i) for i in range(10)), xsum.s()).delay()
        # With propagate=True, get looks at the members again and again.
        result.get(timeout=30, propagate=False)

    wanted = PINNED_CHORD if PINNED else LATEST_CHORD
    assert_commands(monitor, "A chord of 10", run_chord, wanted)


# Prints the modules that the app imports beyond those of Celery and loguru.
IMPORTS = """
import sys
import loguru
from celery.app.utils import find_app
import celery.app.builtins, celery.apps.worker, celery.bin.celery, celery.concurrency.prefork
before = set(sys.modules)
app = find_app("tasks")
app.loader.import_default_modules()
print(*sorted(set(sys.modules) - before))
"""


def test_modules_that_the_app_imports(folder):
    env = environment("redis://127.0.0.1:1/0")
    command = [sys.executable, "-c", IMPORTS]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, (
        f"The app should be importable, but it raised: {run.stderr.strip().splitlines()[-1:]}"
    )
    expected = {"celery", "kombu", "tasks", "libs", "celeryconfig"}
    for name in run.stdout.split():
        assert name.partition(".")[0] in expected, (
            f"A worker should import only Celery, loguru and the chapter's modules,"
            f" but it also imports {name}."
        )
