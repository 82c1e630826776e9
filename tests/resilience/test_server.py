"""The embedded server: killed, damaged, without room, started twice."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from course import PROGRAMS, ROOT, free_port
from server import answers


@pytest.fixture
def data(checkout):
    """The folder where the server has kept a message, and the server killed."""
    checkout.make("redis")
    checkout.add(4, 4)
    checkout.kill_server()
    return checkout.data


def test_killed_server_keeps_what_waits_for_its_user_alone(checkout, data, turn):
    checkout.make("redis", "started at")
    assert checkout.redis.llen("celery") == 1, "The message should still wait."
    bind = checkout.redis.config_get("bind")["bind"]
    assert bind == "127.0.0.1", f"The server should listen on loopback alone, it listens on {bind}."
    compose = (ROOT / "docker-compose.yml").read_text()
    published = '"127.0.0.1:${REDIS_PORT:-6379}:6379"' in compose
    assert published, "The container should publish on loopback alone."
    others = [path for path in (data, *data.rglob("*")) if path.stat().st_mode & 0o077]
    assert not others, f"What the server keeps should be its user's alone; others can reach {others}."


@pytest.mark.parametrize("damage", ["manifest", "base", "incr", "missing", "cut off"])
def test_damaged_data_is_kept_aside(checkout, data, damage):
    kept = data / "appendonlydir"
    [journal] = kept.glob("*incr*")
    if damage == "cut off":
        os.truncate(journal, journal.stat().st_size - 5)
        checkout.make("redis", "started at")  # it is read as far as it goes
        return
    if damage == "missing":
        journal.unlink()
    else:
        [path] = kept.glob(f"*{damage}*")
        path.write_bytes(b"garbage" + path.read_bytes()[7:])
    before = sorted(path.read_bytes() for path in kept.rglob("*"))
    checkout.make("redis", f"kept in {data}/damaged-")
    [aside] = data.glob("damaged-*")
    after = sorted(path.read_bytes() for path in aside.rglob("*"))
    assert after == before, "The damaged data should be kept as it was."
    assert not checkout.redis.dbsize(), "The server should start empty."


def test_no_room(checkout):
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
    left = [answers(port) for port in ports]
    assert left == [False, True, True], f"With REDIS_PORT, the server there alone should end; {left} answer."
    checkout.make("stop REDIS_PORT=")
    assert not any(map(answers, ports)), "Without, the servers on all ports should end."
