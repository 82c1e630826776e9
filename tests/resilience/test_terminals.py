"""A terminal says what is stale, missing, taken or mistyped, and with which port it works."""

import os
import subprocess
import sys
import time

import pytest
from support.nodes import TESTS
from support.reaper import find_processes

from course.environment import PROGRAMS, free_port
from course.waiting import wait_until

TASKS = "2-configuration/tasks.py"
OLD = "result = x + y"
NEW = "result = x * y"
SHOW_URLS = "from tasks import app; print(app.conf.broker_url, app.conf.result_backend)"


def test_worker_says_that_its_code_was_edited(checkout):
    worker = checkout.worker(2)
    checkout.edit(TASKS, OLD, NEW)
    worker.expect("tasks.py changed: this worker still runs the old code")
    checkout.make("chapter-2-worker", "runs older code (tasks.py changed since", fails=True)
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect("still runs the code from before tasks.py changed: press Ctrl-C")
    shell.expect(">>> ")
    checkout.edit(TASKS, NEW, OLD)
    worker.expect("The files are again as this worker loaded them")
    checkout.make("chapter-2-worker", "is up already: stop it with Ctrl-C", fails=True)
    checkout.worker(2, "-c 1 -n second@%h")


@pytest.mark.parametrize("stop", ["Ctrl-C", "closed terminal", "SIGKILL"])
def test_what_watches_a_worker_ends_with_it(checkout, stop):
    worker = checkout.worker(2)
    [parent, *others] = sorted(
        (process for process in worker.processes() if "worker" in process.cmdline()),
        key=lambda process: process.create_time(),
    )
    assert others, "A process should watch the worker's files."
    if stop == "Ctrl-C":
        worker.sendcontrol("c")
    elif stop == "SIGKILL":
        parent.kill()
    else:
        worker.close()
    ended = wait_until(lambda: not any(process.is_running() for process in others), 60)
    assert ended, f"After {stop}, none of the worker's processes should be left."


def test_prompt_says_once_that_its_code_was_edited(checkout):
    checkout.make("redis")
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect("Calls will wait, as no worker is up: make chapter-2-worker")
    shell.expect(">>> ")
    shell.sendline("from tasks import add")
    shell.expect(">>> ")
    checkout.edit(TASKS, OLD, NEW)
    time.sleep(1)
    shell.sendline("add(4, 4)")
    shell.expect("8\r\n.tasks.py changed: this prompt still runs the old code.*\r\n>>> ")
    # A pasted block.
    shell.send("for i in range(2):\n    i + 40\n\ni + 50\n")
    shell.expect("40\r\n41\r\n>>> i [+] 50\r\n51\r\n>>> ")


def test_shell_without_a_server_or_beside_another_chapters_worker(checkout):
    shell = checkout.terminal("make chapter-3-shell")
    shell.expect("no Redis at 127.0.0.1:.* no worker")
    shell.expect("Calls will fail, as no Redis answers: make chapter-3-worker")
    worker = checkout.worker(2)
    shell = checkout.terminal("make chapter-3-shell")
    shell.expect("runs the code of chapters/2-configuration, not of this folder")
    shell = checkout.terminal(f"make chapter-3-shell REDIS_PORT={free_port()}")
    shell.expect(f"this folder's Redis is at 127.0.0.1:{checkout.port}: type export REDIS_PORT=")
    checkout.make("stop", "in chapters/2-configuration still runs and waits for Redis")
    worker.kill()


def test_worker_that_was_typed_by_hand_is_asked(checkout):
    checkout.make("redis")
    activate = f". {PROGRAMS.parent.name}/bin/activate && cd chapters"
    worker = checkout.terminal(f"{activate}/2-configuration && celery -A tasks worker -l info -c 1")
    worker.expect(r" ready\.")
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect(r"· worker celery@\S+")
    shell.expect(">>> ")
    assert "started before" not in shell.before, "A worker of the same code is no problem."
    checkout.make("chapter-2-worker", "is up already: stop it with Ctrl-C", fails=True)
    checkout.make("chapter-3-worker", "A worker of different code uses this server", fails=True)
    checkout.edit(TASKS, OLD, NEW)
    shell = checkout.terminal("make chapter-2-shell")
    shell.expect("started before this folder's code was saved last")


def show_urls(checkout, **env):
    """Return the URLs that an app sees when python is typed in chapter 1's folder."""
    return subprocess.run(
        [PROGRAMS / "python", "-c", SHOW_URLS],
        cwd=checkout.folder / "chapters" / "1-first-steps",
        env=checkout.env | env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()


def test_port_reaches_what_is_typed(checkout):
    (checkout.folder / "chapters" / "1-first-steps" / "tasks.py").write_text(
        "from celery import Celery\n"
        'app = Celery("tasks", broker="redis://127.0.0.1:6379/0",'
        ' backend="redis://localhost:6379")\n'
    )
    moved = [f"redis://127.0.0.1:{checkout.port}/0", f"redis://localhost:{checkout.port}"]
    usual = ["redis://127.0.0.1:6379/0", "redis://localhost:6379"]
    found = show_urls(checkout)
    assert found == moved, f"With REDIS_PORT, the URLs should be {moved}, not {found}."
    for name in ("REDIS_HOST", "CELERY_RESULT_BACKEND", "CELERY_BROKER_READ_URL"):
        found = show_urls(checkout, **{name: usual[1]})
        assert found == usual, f"With {name}, the URLs should be {usual}, not {found}."
    checkout.edit("1-first-steps/tasks.py", ', backend="redis://localhost:6379"', "")
    found = show_urls(checkout)
    assert found == [moved[0], "None"], f"The app should have no backend, and has {found[1]}."
    typed = checkout.terminal(
        f"cd chapters/1-first-steps && '{PROGRAMS}/python' -c '{SHOW_URLS}; {SHOW_URLS}'"
    )
    typed.expect(f"Celery uses port {checkout.port}, as REDIS_PORT says.")
    typed.ends()
    assert "REDIS_PORT says" not in typed.text(), "It should be said once."


@pytest.mark.parametrize(
    "command, sentence",
    [
        (
            "chapter-3-wroker",
            "There is no make chapter-3-wroker: did you mean make chapter-3-worker?",
        ),
        ("chapter-3", "There is no make chapter-3: did you mean make chapter-3-worker?"),
        ("mesages", "did you mean make messages?"),
        ("chapter-3-worker DIRR=my/3", "There is no variable DIRR: did you mean DIR?"),
        ("chapter-3-worker dir=my/3", "There is no variable dir: did you mean DIR?"),
        ("chapter-3-purge ARGS=-f", "No Redis answers at REDIS_PORT="),
        (
            "--no-print-directory -C chapters/3-project-tree chapter-4-up DIR=x",
            "chapter-4-up doesn't use DIR",
        ),
    ],
)
def test_mistyped_word(checkout, command, sentence):
    checkout.make(command, sentence, fails=True)


def test_commands_are_typed_in_a_chapters_or_an_attempts_folder(checkout):
    show = """ARGS='-c "import tasks; print(tasks.__file__)"'"""
    checkout.make(f"-C chapters/2-configuration chapter-2-shell {show}", f"chapters/{TASKS}")
    checkout.make("chapter-2-start")
    checkout.make(f"-C my/2-configuration chapter-2-shell {show}", f"my/{TASKS}")
    checkout.make(f"-C my/2-configuration chapter-1-shell {show}", "chapters/1-first-steps/tasks")
    checkout.make("-C my/2-configuration stop", "No Redis of ours")


RUN = r"""
import pexpect
from support.reaper import Reaper
shell = pexpect.spawn("bash", ["--norc"])
Reaper().watch(shell.pid)
shell.sendline("nohup sleep 60 &")
shell.sendline("echo started $!")
shell.expect(r"started \d+")
print(shell.pid, flush=True)
shell.expect(pexpect.EOF, timeout=60)
"""


def test_a_killed_run_leaves_nothing_that_it_typed_in_a_shell(tmp_path):
    env = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as run:
        session = int(run.stdout.readline())
        assert len(find_processes(session)) > 1, "The shell and what it started should run."
        run.kill()
    ended = wait_until(lambda: not find_processes(session))
    assert ended, "After the kill, no process of the shell's session should be left."
