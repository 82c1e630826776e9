"""The embedded server: killed, damaged, on a full disk, started twice."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from course.chapters import ROOT
from course.environment import PINNED, PROGRAMS, free_port
from course.lesson import Lesson
from course.server import is_serving
from course.waiting import wait_until


@pytest.fixture
def data(checkout):
    """The data folder of a server that was killed while it had two messages."""
    checkout.make("redis")
    checkout.add(4, 4)
    checkout.add(4, 4)
    checkout.kill_server()
    return checkout.data


@pytest.mark.parametrize("cut, kept", [(0, 2), (5, 1)])
def test_killed_server_keeps_what_waits_for_its_user_alone(checkout, data, turn, cut, kept):
    [journal] = data.glob("appendonlydir/*incr*")
    os.truncate(journal, journal.stat().st_size - cut)
    checkout.make("redis", "started at")
    found = checkout.redis.llen("celery")
    assert found == kept, f"{kept} messages are complete and should wait, but {found} do."
    bind = checkout.redis.config_get("bind")["bind"]
    assert bind == "127.0.0.1", f"The server should listen on loopback only, not on {bind}."
    compose = (ROOT / "docker-compose.yml").read_text()
    assert '"127.0.0.1:${REDIS_PORT:-6379}:6379"' in compose, (
        "The container should be published on loopback only."
    )
    for path in (data, *data.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, f"Only its user should have access to {path}."


@pytest.mark.parametrize("part", ["manifest", "base", "incr", "nothing"])
def test_damaged_data_is_kept_aside(checkout, data, part):
    kept = data / "appendonlydir"
    for path in kept.glob(f"*{part}*"):
        path.write_bytes(b"garbage" + path.read_bytes()[7:])
    if part == "nothing":
        next(kept.glob("*incr*")).unlink()
    before = read_files(kept)
    checkout.make("redis", f"kept in {data}/damaged-")
    [aside] = data.glob("damaged-*")
    assert read_files(aside) == before, "The damaged data should be kept as it was."
    assert not checkout.redis.dbsize(), "The server should start empty."


def read_files(folder):
    """Return what is in the files of a folder, sorted."""
    return sorted(path.read_bytes() for path in folder.rglob("*"))


def test_a_full_disk(checkout):
    checkout.data.parent.write_text("a file where the folder should be")
    checkout.make("redis", f"cannot keep its data in {checkout.data}", fails=True)
    checkout.data.parent.unlink()
    checkout.data.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", checkout.data]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a disk to fill: root on Linux, to mount one in memory")
    try:
        (checkout.data / "rest").write_bytes(bytes(60_000))
        checkout.make("redis", "no space left", fails=True)
    finally:
        subprocess.run(["umount", checkout.data], check=True)


def test_servers_of_terminals_ports_and_clones(checkout, clone):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: checkout.make("redis", "Redis: the embedded server"), range(3)))
    other = clone(PROGRAMS.parent.name)
    other.make(f"redis REDIS= REDIS_PORT={checkout.port}", "already answers")
    other.make(f"stop REDIS_PORT={checkout.port}", "left alone")
    ports = [checkout.port, free_port(), free_port()]
    for port in ports:
        checkout.make(f"redis REDIS_PORT={port}")
    (checkout.data.parent / "6379.bak").mkdir()
    checkout.make("stop", "is stopped")
    checkout.make("stop", "No Redis of ours")
    serving = [port for port in ports if is_serving(port)]
    assert serving == ports[1:], (
        f"With REDIS_PORT, only the server on that port should stop, but {serving} are serving."
    )
    checkout.make("stop REDIS_PORT=")
    serving = [port for port in ports if is_serving(port)]
    assert not serving, f"Without REDIS_PORT, all servers should stop, but {serving} are serving."


def test_killed_server_loses_at_most_the_message_on_its_way(checkout, turn):
    checkout.make("redis")
    ids = [checkout.add(i, i) for i in range(1000)]
    worker = checkout.worker(2)
    # Each round kills the server at another moment.
    left = 950 - 40 * (turn % 20)
    wait_until(lambda: worker.text() and checkout.redis.llen("celery") < left)
    checkout.kill_server()
    worker.expect("Trying to re-establish the connection")
    checkout.make("redis")
    wait_until(lambda: not checkout.redis.llen("celery") or not worker.processes(), 60)
    if not PINNED and not worker.processes():
        # Celery 5.7 may acknowledge a message on the old connection, and exit.
        worker = checkout.worker(2)
        wait_until(lambda: worker.text() and not checkout.redis.llen("celery"), 60)
    # Messages that the worker had reserved come back after the visibility timeout, or as the
    # page says.
    time.sleep(1)
    restore_messages(checkout)
    wait_until(lambda: worker.text() and len(checkout.redis.keys("celery-task-meta-*")) == 1000)
    # Celery takes a message off the queue and then writes down that it has it: between the two,
    # the message is lost. A task that is running then can't store its result.
    wrong = []
    for number, task_id in enumerate(ids):
        meta = json.loads(checkout.redis.get(f"celery-task-meta-{task_id}") or "{}")
        if meta.get("result") != 2 * number:
            wrong.append((number, meta))
    unacked = checkout.redis.hlen("unacked")
    shown = worker.text()[-3000:]
    assert len(wrong) <= 2, f"Of 1000 tasks one may be lost and one fail, not {wrong}:\n{shown}"
    assert worker.processes(), f"The worker should still run:\n{shown}"
    assert not unacked, f"All messages should be acknowledged, but {unacked} are not:\n{shown}"


def restore_messages(checkout):
    """Type the first prompt of when-it-goes-wrong.md, which puts reserved messages back."""
    page = Lesson(ROOT / "chapters" / "when-it-goes-wrong.md")
    block = page.blocks[0]
    typed = [line[4:] for line in block.source.splitlines()]
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect(">>> ")
    shell.send("\n".join(typed) + "\n\n")
