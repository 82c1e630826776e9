"""The embedded server: killed, damaged, without room, started twice."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from checkout import ROUNDS, Checkout, one_line
from course import ROOT, expect, wait_until


@pytest.fixture
def checkout(tmp_path):
    with Checkout(tmp_path) as checkout:
        yield checkout


@pytest.fixture
def data(checkout):
    """The folder where the server has kept a message, and the server killed."""
    checkout.make("redis")
    checkout.send("tasks.add", 4, 4)
    checkout.kill_server()
    return checkout.folder / ".course" / "redis" / str(checkout.port)


def test_only_loopback_listens(checkout):
    checkout.make("redis")
    found = checkout.redis.config_get("bind")["bind"]
    expect(found == "127.0.0.1", f"The server should listen on loopback alone, it listens on {found}.")
    compose = (ROOT / "docker-compose.yml").read_text()
    expect(
        '"127.0.0.1:${REDIS_PORT:-6379}:6379"' in compose, "The container should publish on loopback alone."
    )


@pytest.mark.parametrize("number", ROUNDS)
def test_killed_server_keeps_what_waits(checkout, data, number):
    (data / "valkey.pid").write_text(str(os.getpid()))  # what an older checkout left; it is ours by now
    done = checkout.make("redis")
    expect(done.returncode == 0, f"The server should start again, it printed:\n{done.stdout}")
    expect(checkout.redis.llen("celery") == 1, "The message should still wait.")


@pytest.mark.parametrize("damage", ["manifest", "base", "incr", "missing", "file"])
def test_damaged_data_is_kept_aside(checkout, data, damage):
    kept = data / "appendonlydir"
    if damage == "file":
        kept.rename(data / "before")
        kept.write_text("no folder")
    elif damage == "missing":
        next(kept.glob("*incr*")).unlink()
    else:
        path = next(kept.glob(f"*{damage}*"))
        path.write_bytes(b"garbage" + path.read_bytes()[7:])
    before = kept.read_bytes() if kept.is_file() else {p.name: p.read_bytes() for p in kept.iterdir()}
    done = checkout.make("redis")
    expect(done.returncode == 0 and checkout.redis.ping(), f"The server should start:\n{done.stdout}")
    [aside] = data.glob("damaged-*")
    expect(str(aside) in done.stdout, f"It should say where the damaged data is:\n{done.stdout}")
    after = aside.read_bytes() if aside.is_file() else {p.name: p.read_bytes() for p in aside.iterdir()}
    expect(before == after, "The damaged data should be kept as it was.")


def test_cut_off_data_is_read_as_far_as_it_goes(checkout, data):
    path = next((data / "appendonlydir").glob("*incr*"))
    os.truncate(path, path.stat().st_size - 5)
    done = checkout.make("redis")
    expect(done.returncode == 0 and checkout.redis.ping(), f"The server should start:\n{done.stdout}")


def test_folder_cannot_be_written(checkout):
    (checkout.folder / ".course" / "redis").write_text("a file where the folder should be")
    one_line(checkout.make("redis"), "cannot keep its data in", str(checkout.port))


def test_disk_is_full(checkout):
    folder = checkout.folder / ".course" / "redis" / str(checkout.port)
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a disk to fill: root on Linux, to mount one in memory")
    try:
        (folder / "rest").write_bytes(bytes(60_000))
        one_line(checkout.make("redis"), "no space left")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_two_terminals_at_once(checkout):
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: checkout.make("redis"), range(3)))
    expect([each.returncode for each in done] == [0] * 3, f"All should end well: {[d.stdout for d in done]}")
    expect(wait_until(checkout.redis.ping), "One server should answer.")
    done = checkout.make("stop")
    expect("is stopped" in done.stdout, f"One stop should end the one server:\n{done.stdout}")
    expect("No Redis of ours" in checkout.make("stop").stdout, "No second server should be left.")


def test_server_of_another_checkout_is_used_and_left_alone(checkout, tmp_path):
    checkout.make("redis")
    (tmp_path / "other").mkdir()
    other = Checkout(tmp_path / "other")
    ours = {"REDIS_PORT": str(checkout.port), "REDIS": ""}
    done = other.make("redis", **ours)
    expect("already answers" in done.stdout, f"The second should use the first's server:\n{done.stdout}")
    done = other.make("stop", **ours)
    expect("left alone" in done.stdout and checkout.redis.ping(), f"It should not stop it:\n{done.stdout}")
