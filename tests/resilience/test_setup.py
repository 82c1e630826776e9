"""Set-up is interrupted, runs twice at once, meets a wrong package or no network or Python."""

import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pexpect

from course.chapters import ROOT
from course.environment import PROGRAMS, STACK

# Our own, where none is on PATH: it need not be installed for each test.
UV = [".course/uv"] if (ROOT / ".course" / "uv").exists() else []


def is_whole(checkout):
    """Fail unless a worker's environment is there, and nothing half built beside."""
    python = checkout.folder / PROGRAMS.parent.name / "bin" / "python"
    assert not subprocess.call([python, "-c", "import celery, loguru"]), (
        "The environment should be whole."
    )
    left = [path.name for path in (checkout.folder / ".course").glob("*.[0-9]*")]
    assert not left, f"Nothing half built should be left, there is {left}."


def test_interrupted_set_up_is_finished_by_the_next(clone, turn):
    checkout = clone()
    for interrupt in ("kill", "close", "sendintr"):
        terminal = checkout.terminal("make setup")
        time.sleep(random.uniform(0.02, 4))
        getattr(terminal, interrupt)()
        terminal.ends()
    checkout.make("setup")
    is_whole(checkout)


def test_two_set_ups_at_once_with_an_old_uv_on_path(clone, tmp_path):
    checkout, old = clone(*UV), tmp_path / "uv"
    old.write_text(
        '#!/bin/sh\necho warning: unknown >&2\n[ "$*" = "cache dir" ] || touch "$0.used"\n'
    )
    old.chmod(0o755)
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda _: checkout.make("setup", PATH=f"{tmp_path}:{checkout.env['PATH']}"),
                range(2),
            )
        )
    assert not (tmp_path / "uv.used").exists(), "The old uv should install nothing."
    is_whole(checkout)


def test_wrong_package_is_refused_and_a_python_that_went_is_replaced(clone, tmp_path):
    checkout = clone(*UV)
    cold = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_FIND_LINKS": ""}
    checkout.make("setup", "could not be installed, for the reason above", fails=True, **cold)
    lock, vine = f"tools/locks/{STACK}.txt", "vine==5.1.0 \\\n    --hash=sha256:"
    text = (checkout.folder / lock).read_text()
    (checkout.folder / lock).write_text(f"{text.partition('vine==')[0]}{vine}{'0' * 64}\n")
    checkout.make("setup", "could not be installed", fails=True)
    (checkout.folder / lock).write_text(text)
    checkout.make("setup")
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved and renamed"))
    checkout.make("chapter-10-beat ARGS=--help", "Usage: celery")
    is_whole(checkout)
    python = checkout.folder / PROGRAMS.parent.name / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    checkout.make("stop", "No Redis of ours")
    checkout.worker(1).kill()
    checkout.make("clean", "is stopped")
    assert not python.parent.exists(), "make clean should remove the environment."


def test_missing_attempt_is_named_before_a_set_up(clone):
    checkout = clone()
    checkout.make("chapter-1-check", "There is no folder", fails=True)
    checkout.make("chapter-2-start DIR=chapters", "chapters isn't empty", fails=True)
    assert not (checkout.folder / PROGRAMS.parent.name).exists(), (
        "Nothing should be set up for these."
    )


def test_python_is_missing(clone, tmp_path):
    for name in ("make", "sh", "dirname", "cat", "cksum"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for command in ("setup", "stop", "chapter-2-diff"):
        clone().make(command, "Python is missing: install python3", fails=True, PATH=str(tmp_path))


def test_folder_is_not_ours_to_write(clone, tmp_path):
    run = (
        "exec" if os.geteuid() else "setpriv --bounding-set=-all"
    )  # root without its rights, on Linux
    (tmp_path / "make").write_text(f'#!/bin/sh\n{run} {shutil.which("make")} "$@"\n')
    (tmp_path / "make").chmod(0o755)
    for linked, command, sentence in (
        (UV, "setup", "cannot be made" if UV else "This folder cannot be written to"),
        ([PROGRAMS.parent.name], "redis", "cannot keep its data in"),
        ([PROGRAMS.parent.name], "chapter-2-start", "can't be made"),
    ):
        checkout = clone(*linked)
        for folder in (checkout.folder / ".course", checkout.folder):
            folder.chmod(0o555)
        checkout.make(command, sentence, fails=True, PATH=f"{tmp_path}:{os.environ['PATH']}")
        (checkout.folder / ".course").chmod(0o755)


def test_smaller_set_up_after_a_larger_one_does_nothing(clone):
    checkout = clone(*UV)
    checkout.make("setup-web", "for a worker, Flower and the web page.")
    text = pexpect.run("make setup", cwd=checkout.folder, env=checkout.env, encoding="utf-8")
    assert not text, f"make setup should have nothing to do, but it said {text}."
