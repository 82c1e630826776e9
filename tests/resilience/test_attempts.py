"""A learner's attempt in a real terminal: watch, its screen and its end."""

import shutil

from course.chapters import CHAPTERS
from course.waiting import wait_until


def test_watch_checks_again_after_a_save(checkout):
    folder = shutil.copytree(checkout.folder / "chapters" / CHAPTERS[0], checkout.folder / "own")
    tasks = folder / "tasks.py"
    right = tasks.read_text()
    tasks.write_text("1 / 0\n")
    terminal = checkout.terminal("make chapter-1-watch DIR=own")
    terminal.expect_exact("watching; save to check again; Ctrl-C ends")
    terminal.expect_exact("tasks.py, line 1: ZeroDivisionError")
    tasks.write_text(right)
    terminal.expect_exact("watching; save to check again; Ctrl-C ends")
    terminal.expect("You now know:", timeout=120)
    terminal.expect_exact("Next: read chapters/2-configuration/README.md")
    terminal.sendcontrol("c")
    terminal.ends()
    text = terminal.text()
    assert "Traceback" not in text, f"Ctrl-C should end watch without a traceback, not with {text}"


def test_messages_can_be_recorded(checkout):
    checkout.make("redis")
    record = checkout.folder / "record.json"
    terminal = checkout.terminal("make messages ARGS=--json > record.json")
    terminal.expect_exact("Ctrl-C ends this.")
    checkout.add(1, 1)
    recorded = wait_until(lambda: '"what": "send"' in record.read_text())
    assert recorded, f"The call should be recorded, but the file has {record.read_text()!r}."
