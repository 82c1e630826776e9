"""A worker that cannot serve or would do harm is refused; one that is stopped leaves nothing."""

import random
import re
import shlex
import socket
import sys
import time

import pytest

from course.environment import STACK, URLS
from course.waiting import wait_until


def test_worker_of_another_chapter_is_up(checkout):
    first = checkout.worker(2)
    refusal = "A worker of different code uses this server (started in "
    checkout.make("chapter-3-worker", refusal, fails=True)
    second = checkout.worker(2, "-c 1 -n second@%h")
    checkout.gives(checkout.add(4, 4), 8)
    second.kill()
    first.sendcontrol("z")
    first.expect("Stopped")
    checkout.make("chapter-3-worker", refusal, fails=True)
    first.kill()
    checkout.worker(3)  # what a killed worker leaves in Redis stops nobody


def test_two_workers_of_different_chapters_in_the_same_instant(checkout, turn):
    checkout.make("redis")
    terminals = [checkout.terminal(f"make chapter-{number}-worker") for number in (2, 3)]
    ends = [terminal.expect([r" ready\.", "different code"]) for terminal in terminals]
    assert sorted(ends) == [0, 1], f"One should be ready and the other refused, not {ends}."


def test_messages_wait(checkout):
    checkout.make("redis")
    results = [checkout.add(i, i) for i in range(3)]
    terminal = checkout.terminal("make chapter-3-worker")
    terminal.expect("3 of tasks.add; this worker doesn't know tasks.add and throws those away")
    terminal.sendcontrol("c")
    terminal.ends()
    worker = checkout.terminal("make chapter-2-worker")
    worker.expect("3 of tasks.add; this worker runs them")
    for i, result in enumerate(results):
        checkout.gives(result, 2 * i)
    worker.kill()
    checkout.redis.lpush("celery", "not JSON", "[" * 100_000, *["{}"] * 1198)
    checkout.terminal("make chapter-2-worker").expect(
        "100 unreadable, 1100 more; an unreadable message"
    )


@pytest.mark.parametrize(
    "part, malformed, ends",
    [
        ('(?<="body": ")[^"]+', "bm9uc2Vuc2U=", 0),  # nonsense in base64
        (".+", '["nonsense"]', 1),
        (".+", "[" * 9000, 1),
        ('(?<="body": ")[^"]+', "W10=", 2),  # []
        (r'(?<="timelimit": )\[.+?\]', '"x"', 2),
    ],
)
def test_malformed_message_ends_no_worker_one_or_all(checkout, part, malformed, ends):
    """This part of a message is replaced. Two workers stand for all that take it."""
    checkout.make("redis")
    checkout.add(1, 1)
    checkout.redis.lpush("celery", re.sub(part, malformed, checkout.redis.lpop("celery"), count=1))
    result = checkout.add(4, 4)
    for _ in range(ends):
        worker = checkout.terminal("make chapter-2-worker")
        worker.expect("Traceback")
        worker.ends()
        assert checkout.redis.llen("celery") == ends, (
            f"A worker should end with {ends} messages left."
        )
    if ends == 2:
        checkout.make("chapter-2-purge ARGS=-f", "messages from 1 known task queue")
        result = checkout.add(4, 4)
    checkout.worker(2)
    checkout.gives(result, 8)


def test_messages_shows_what_is_malformed_or_big_and_outlives_the_server(checkout):
    checkout.make("redis")
    messages = checkout.terminal("make messages")
    messages.expect("Ctrl-C ends this.")
    strange = '{"headers": {"task": "\\ud800\\n", "id": 1}, "properties": {"delivery_tag": {}}}'
    for body in ("", b"\xff\x00\x1b[31m", "[[]]", strange, "[" * 100_000, b"\xff" * 10_000_000):
        checkout.redis.lpush("queue", body)
        messages.expect("waits in queue 'queue'")
    checkout.redis.set("celery-task-meta-an-id", "{}")
    messages.expect_exact("something unreadable ({}) for an-id, kept forever")
    checkout.kill_server()
    messages.expect("waiting; make redis starts one")
    checkout.make("redis")
    messages.expect("Redis is back.")
    checkout.redis.lpush("later", "nonsense")
    messages.expect_exact("an unreadable message (nonsense) waits in queue 'later'")


def test_something_else_listens(checkout):
    refusal = "which isn't Redis: take another with REDIS_PORT"
    with socket.create_server(("127.0.0.1", checkout.port)):  # silent
        checkout.make("chapter-1-worker", refusal, fails=True)
        url = f"CELERY_BROKER_URL=redis://127.0.0.1:{checkout.port}/0"
        checkout.make(f"chapter-1-worker {url}", f"No Redis answers at {url}", fails=True)
    web = checkout.terminal(
        f"{shlex.quote(sys.executable)} -m http.server --bind 127.0.0.1 {checkout.port}"
    )
    web.expect("Serving HTTP")
    checkout.make("chapter-1-worker", refusal, fails=True)


@pytest.mark.parametrize(
    "command, sentence",
    [
        (
            "CONFIG SET requirepass secret",
            "wants a password: set CELERY_BROKER_URL and CELERY_RESULT_",
        ),
        (
            "REPLICAOF 127.0.0.1 1",
            "refuses writes (You can't write against a read only replica.): set",
        ),
        ("CONFIG SET maxmemory 1", "command not allowed when used memory > 'maxmemory'.): set"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "refuses writes (NOREPLICAS Not enough good replicas",
        ),
    ],
)
def test_server_refuses(checkout, command, sentence):
    checkout.make("redis")
    checkout.redis.execute_command(*command.split())
    checkout.make("chapter-2-worker REDIS=", sentence, fails=True)
    if "secret" in command:
        url = f"redis://:secret@127.0.0.1:{checkout.port}/0"
        wrong = url.replace("secret", "no")
        checkout.make("chapter-2-worker", sentence, fails=True, CELERY_BROKER_URL=wrong)
        checkout.worker(2, **dict.fromkeys(URLS, url))


def test_mistake_in_the_code(checkout):
    (checkout.folder / "chapters" / "3-project-tree" / "tasks" / "math.py").write_text(
        "def add(x, y:"
    )
    checkout.edit("2-configuration/celeryconfig.py", "redis://", "redsi://")
    checkout.edit("1-first-steps/tasks.py", "redis://127.0.0.1:6379", "redis://127.0.0.1:1")
    errors = (
        "No Redis answers at broker_url",
        "No such transport: redsi",
        "tasks can't be imported: SyntaxError: .* tasks/math.py, line 1",
    )
    for number, error in enumerate(errors, 1):
        # With this empty, the chapter's own broker counts.
        terminal = checkout.terminal(f"make chapter-{number}-worker", CELERY_BROKER_URL="")
        terminal.expect(error)
        terminal.ends()


@pytest.mark.parametrize(
    "command, sentence",
    [
        (
            "chapter-99-worker",
            "There is no chapter 99: the chapters are 1-first-steps, 2-configuration, 3",
        ),
        (
            "chapter-3-beat",
            "has nothing for beat: chapters/10-periodic-tasks is the first that has.",
        ),
        ("chapter-3-web", "has nothing for uvicorn: chapters/13-web is the first that has."),
        (
            "chapter-11-flower ARGS=--port=0",
            "No Redis answers at REDIS_PORT=",
        ),
        ("chapter-11-flower ARGS=--port=70000", "Port 70000 is taken or not allowed: try another"),
        ("chapter-4-worker LOGURU_LEVEL=info", "LOGURU_LEVEL=info is no level of loguru: set it"),
        ("chapter-08-diff", "There is no chapter 08: "),
        ("chapter-2-configuration-worker", "There is no chapter 2-configuration: "),
        ("chapter-1-worker DIR=nowhere", "/nowhere: make chapter-1-start DIR=nowhere makes it."),
        ("chapter-1-worker REDIS_PORT=abc", "REDIS_PORT=abc is no port: "),
        ("stop REDIS_PORT=70000", "REDIS_PORT=70000 is no port: "),
        ("setup STACK=newest", 'There is no stack "newest": '),
        (
            "chapter-1-worker CELERY_BROKER_URL=redis://127.0.0.1:1/0",
            "No Redis answers at CELERY_BROKER_URL",
        ),
        (
            "chapter-1-worker CELERY_BROKER_URL=redis://no.invalid/0",
            "No Redis answers at CELERY_BROKER_URL",
        ),
        (
            "chapter-1-worker CELERY_BROKER_URL=redis://x:y/0",
            "No Redis answers at CELERY_BROKER_URL",
        ),
    ],
)
def test_mistyped_command(checkout, command, sentence):
    (checkout.folder / "chapters" / "2-configuration.bak").mkdir()
    checkout.make(command, sentence, fails=True)


def test_suite_in_awkward_folders(checkout):
    (checkout.folder / "a folder").mkdir()
    checkout.make(
        "chapter-1-test ARGS='-n 0 -k add'", " passed", TMPDIR=str(checkout.folder / "a folder")
    )
    assert not list(checkout.folder.rglob("ran")), (
        "No part of the folder's name should be run as a command."
    )
    checkout.make("--dry-run setup", "setup.sh latest", STACK="latest")


def busy_worker(checkout, late, seconds=2):
    """Return a worker of chapter 2 and the id of a task that it runs for these seconds."""
    checkout.edit(
        "2-configuration/tasks.py", "result =", f"__import__('time').sleep({seconds})\n    result ="
    )
    checkout.edit("2-configuration/celeryconfig.py", "broker", f"task_acks_late = {late}\nbroker")
    worker = checkout.worker(2)
    task = checkout.add(4, 4)
    worker.expect(r"asked: 4 \+ 4")
    return worker, task


@pytest.mark.parametrize("stop", ["Ctrl-C", "Ctrl-C twice", "closed terminal"])
def test_what_a_stop_does_to_a_task(checkout, stop, turn):
    """Ctrl-C lets it finish; the others keep it where it is acknowledged late."""
    worker, task = busy_worker(checkout, late=stop != "Ctrl-C")
    if stop == "closed terminal":
        worker.close()
    else:
        worker.sendcontrol("c")
        worker.expect("Warm shutdown")
    if stop == "Ctrl-C twice":
        worker.sendcontrol("c")
    worker.ends()
    kept = checkout.redis.llen("celery") + checkout.redis.hlen("unacked")
    assert kept == 1 or checkout.redis.keys("celery-task-meta-*"), (
        "The task should be kept or done."
    )
    checkout.worker(2)
    if stop != "closed terminal":  # its message waits for the visibility timeout
        checkout.gives(task, 8)


@pytest.mark.row("`'NoneType' object has no attribute 'hostname'`")
@pytest.mark.parametrize("late", [False, True])
def test_stop_while_a_task_runs(checkout, late, turn):
    worker, task = busy_worker(checkout, late, seconds=10)
    checkout.make("stop", "waiting tasks are kept")
    worker.expect("Trying to re-establish the connection")
    checkout.make("redis")
    checkout.gives(task, 8)
    if STACK == "latest" and (late or wait_until(lambda: not worker.processes(), 3)):
        # Celery 5.7 acknowledges the old task on the old connection and exits: always if late.
        worker.expect("'NoneType' object has no attribute 'hostname'")
        worker.ends()
        checkout.worker(2)
    checkout.gives(checkout.add(2, 3), 5)


def test_ctrl_c_while_the_server_is_gone(checkout):
    worker = checkout.worker(2)
    checkout.make("stop")
    worker.expect("Trying to re-establish the connection")
    worker.sendcontrol("c")
    if not wait_until(lambda: not worker.processes(), 8):
        worker.sendcontrol("c")
    worker.ends()


def test_ctrl_c_while_it_starts(checkout, turn):
    def interrupted(command, seconds, shown=""):
        terminal = checkout.terminal(command)
        terminal.expect(shown)
        time.sleep(seconds)
        terminal.sendcontrol("c")
        terminal.ends()
        assert "Traceback" not in terminal.text(), (
            f"Ctrl-C should show no traceback:\n{terminal.text()}"
        )

    with socket.create_server(
        ("127.0.0.1", checkout.port)
    ):  # silent, which takes two seconds to notice
        interrupted("make redis", 1)
    for _ in range(3):
        interrupted("make chapter-2-worker", random.uniform(0, 0.8), "Redis: ")
    checkout.worker(2)


def test_ending_make_ends_the_worker(checkout):
    """In a chapter's folder, there are two, as its Makefile calls the other."""
    terminal = checkout.terminal("cd chapters/3-project-tree && make chapter-3-worker")
    terminal.expect(r" ready\.")
    outer = next(process for process in terminal.processes() if process.name() == "make")
    outer.terminate()
    terminal.ends()
