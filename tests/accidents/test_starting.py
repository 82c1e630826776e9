"""A worker is started where it cannot serve, or would do harm."""

import http.server
import socket
import threading

import pytest
from checkout import Checkout, one_line, seconds_of, server
from course import expect

BOTH = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")


@pytest.fixture
def checkout(tmp_path):
    with Checkout(tmp_path) as checkout:
        yield checkout


def test_worker_of_another_chapter_is_up(checkout):
    first = checkout.worker(2)
    one_line(checkout.make("chapter-4-worker"), "celery@", "2-configuration", "Ctrl-C", "REDIS_PORT")
    checkout.worker(2, 'ARGS=-c 1 -n "second@%h"')
    found = checkout.answer(checkout.send("tasks.add", 4, 4))
    expect(found == 8, f"The workers that are up should go on, add(4, 4) gave {found!r}.")
    for terminal in checkout.terminals:
        terminal.kill()
    expect(first.ended(), "The worker should be gone.")
    # What a killed worker leaves in Redis stops nobody.
    checkout.worker(4)


def test_messages_of_another_chapter_wait(checkout):
    checkout.make("redis")
    results = [checkout.send("tasks.add", i, i) for i in range(3)]
    terminal = checkout.terminal("chapter-4-worker")
    terminal.expect("3 of tasks.add; this worker throws away what it does not know")
    terminal.type("\x03")
    terminal.expect("make: ***")
    expect(checkout.redis.llen("celery") == 3, "Ctrl-C should keep the three messages.")
    terminal = checkout.worker(2)
    said, _, _ = terminal.text.partition(" ready.")
    expect("3 of tasks.add; this worker runs them" in said, f"It should say what waits, it said:\n{said}")
    expect([checkout.answer(each) for each in results] == [0, 2, 4], "The messages that wait should be run.")


def test_messages_are_thrown_away_with_a_word_and_purged_on_demand(checkout):
    checkout.make("redis")
    for number in range(1200):
        checkout.redis.lpush("celery", "{}" if number else "not JSON")
    checkout.send("tasks.math.add", 1, 1)
    done = checkout.make("chapter-3-purge", "ARGS=-f")
    expect("1201 messages" in done.stdout, f"The purge should count 1201, it printed:\n{done.stdout}")
    checkout.send("tasks.add", 1, 1)
    checkout.worker(3).expect("Received unregistered task of type 'tasks.add'")


class NotRedis(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_port_belongs_to_a_web_server(checkout):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", checkout.port), NotRedis)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    one_line(checkout.make("chapter-1-worker"), f"Port {checkout.port}", "no Redis", "REDIS_PORT")
    web.shutdown()
    web.server_close()


def test_port_belongs_to_something_silent(checkout):
    with socket.create_server(("127.0.0.1", checkout.port)):
        done, seconds = seconds_of(lambda: checkout.make("chapter-1-worker"))
    one_line(done, f"Port {checkout.port}", "no Redis", "REDIS_PORT")
    expect(seconds < 8, f"That should not take {seconds:.1f} seconds.")


@pytest.mark.parametrize(
    "options, word",
    [
        (["--requirepass", "secret"], "password"),
        (["--replicaof", "127.0.0.1", "1"], "READONLY"),
        (["--maxmemory", "1"], "OOM"),
        (["--min-replicas-to-write", "1"], "NOREPLICAS"),
    ],
    ids=["password", "replica", "memory", "no replicas"],
)
def test_server_refuses(checkout, tmp_path, options, word):
    with server(tmp_path, *options) as port:
        one_line(checkout.make("chapter-2-worker", REDIS="", REDIS_PORT=str(port)), word, *BOTH)
        url = f"redis://:secret@127.0.0.1:{port}/0"
        if word == "password":
            wrong = dict.fromkeys(BOTH, url.replace("secret", "wrong"))
            one_line(checkout.make("chapter-2-worker", **wrong), word, *BOTH)
            checkout.worker(2, **dict.fromkeys(BOTH, url))


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis://nowhere.invalid/0", "silent", "redis://x:y/0"]
)
def test_url_points_nowhere(checkout, url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if url == "silent":
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        done, seconds = seconds_of(lambda: checkout.make("chapter-1-worker", **dict.fromkeys(BOTH, url)))
    one_line(done, "CELERY_BROKER_URL", url)
    # Five seconds, and what a busy machine adds.
    expect(seconds < 8, f"A URL that points nowhere should not take {seconds:.1f} seconds.")


@pytest.mark.parametrize(
    "file, old, new, line, own",
    [
        ("libs/math.py", "def add(x, y):", "def add(x, y:", "libs/math.py is not valid Python", "SyntaxError"),
        ("tasks/celery.py", '"tasks.math"', '"tasks.maths"', "tasks/celery.py, line 5: there is no", "ModuleNotFound"),
        ("tasks/math.py", "from libs import", "from libs.maths import", "tasks/math.py, line 11", "ModuleNotFound"),
        ("celeryconfig.py", "redis://127.0.0.1:6379", "redis://127.0.0.1:1", "celeryconfig.py, line 3", "Cannot connect"),
        ("celeryconfig.py", "redis://", "redsi://", "celeryconfig.py, line 3", "No such transport"),
    ],
    ids=["syntax", "include", "import", "port", "scheme"],
)  # fmt: skip
def test_mistake_in_the_code(checkout, file, old, new, line, own):
    checkout.edit(f"4-libs-split/{file}", old, new)
    # With these two empty, the chapter's own URLs count.
    terminal = checkout.terminal("chapter-4-worker", **dict.fromkeys(BOTH, ""))
    terminal.expect(own)
    expect(
        line in terminal.text.partition(own)[0], f"{line!r} should come first, it printed:\n{terminal.text}"
    )
