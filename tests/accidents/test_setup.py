"""Set-up is interrupted, runs twice at once, meets a wrong package or no network. The caches of uv are warm here."""

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from checkout import ROUNDS, STACK, Checkout
from course import expect, wait_until


@pytest.fixture
def checkout(tmp_path):
    with Checkout(tmp_path, installed=False) as checkout:
        yield checkout


def expect_whole(checkout):
    course = checkout.folder / ".course"
    python = course / STACK / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "import celery, loguru"], capture_output=True, text=True, check=False
    )
    expect(done.returncode == 0, f"The environment should be whole: {done.stderr}")
    left = [path.name for path in course.glob("*.[0-9]*")]
    expect(not left, f"Nothing half built should be left, there is {left}.")


def group_is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", range(4 * len(ROUNDS)))
def test_interrupted_set_up_is_finished_by_the_next(checkout, number):
    command = ["make", f"STACK={STACK}", "setup"]
    process = subprocess.Popen(command, cwd=checkout.folder, env=checkout.env, start_new_session=True)
    time.sleep(random.uniform(0.02, 1.5))
    os.killpg(process.pid, [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP][number % 4])
    process.wait(30)
    wait_until(lambda: not group_is_there(process.pid), 5)
    done = checkout.make("setup")
    expect(done.returncode == 0, f"The next set-up should finish, it printed:\n{done.stdout}")
    expect_whole(checkout)


def test_two_set_ups_at_once(checkout):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: checkout.make("setup"), range(2)))
    expect([each.returncode for each in done] == [0, 0], f"Both should end well: {[d.stdout for d in done]}")
    expect_whole(checkout)


def test_package_with_another_hash_is_refused(checkout):
    lock = checkout.folder / "tools" / "locks" / f"{STACK}.txt"
    text = lock.read_text()
    head, _, rest = text.partition("vine==5.1.0")
    wrong = rest.split("\n", 3)
    wrong[1:3] = [f"    --hash=sha256:{'0' * 64}"]
    lock.write_text(f"{head}vine==5.1.0" + "\n".join(wrong))
    done = checkout.make("setup")
    expect(
        done.returncode != 0 and "could not be installed" in done.stdout, f"It should fail:\n{done.stdout}"
    )
    expect(not (checkout.folder / ".course" / STACK).exists(), "No environment should stand.")
    lock.write_text(text)
    expect(checkout.make("setup").returncode == 0, "With the right hash it should finish.")
    expect_whole(checkout)


def test_no_network_and_nothing_in_the_caches(checkout, tmp_path):
    done = checkout.make("setup", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "cache"), UV_FIND_LINKS="")
    expect(done.returncode != 0 and "with a network" in done.stdout, f"It should say so:\n{done.stdout}")
    expect(checkout.make("setup").returncode == 0, "With what it needs it should finish.")
    expect_whole(checkout)
