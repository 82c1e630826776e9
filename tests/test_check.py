"""What a learner's tools say: of an attempt, of messages, of a lesson's changes and of progress."""

import json
import shutil

import pytest
from support.nodes import IGNORED

from course import change, progress
from course.chapters import CHAPTERS, ROOT
from course.check import Check, find_import_problem
from course.events import Reader, parse_command
from course.lesson import apply_diff
from course.messages import Printer

CHAPTER_1 = ROOT / "chapters" / CHAPTERS[0]
TASKS = (CHAPTER_1 / "tasks.py").read_text()


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """A copy of chapter 1, named by DIR, with what the tools keep in a folder of the test."""
    folder = shutil.copytree(CHAPTER_1, tmp_path / "attempt", ignore=IGNORED)
    monkeypatch.setenv("DIR", str(folder))
    monkeypatch.setattr(change, "KEPT", tmp_path / "changes")
    monkeypatch.setattr(progress, "FILE", tmp_path / "progress.json")
    return folder


@pytest.mark.parametrize(
    "text, wanted",
    [
        (TASKS, ""),
        ("import nothing_here\n", "tasks.py, line 1: ModuleNotFoundError: No module named"),
        ("def add(x, y)\n", "tasks.py, line 1: SyntaxError: expected ':'"),
        ("print('x' * 1_000_000)\n1 / 0\n", "tasks.py, line 2: ZeroDivisionError: division by"),
        ("exit()\n", "Importing the files made Python exit (status 0): does one of them call exit"),
        ("import os\nos._exit(7)\n", "Importing the files made Python exit (status 7)"),
        ("import os, sys\nos.close(2)\nsys.stdout = None\n", ""),
    ],
)
def test_what_keeps_files_from_being_imported(attempt, text, wanted):
    (attempt / "tasks.py").write_text(text)
    found = find_import_problem(attempt, CHAPTER_1)
    assert found.startswith(wanted) and bool(found) == bool(wanted), (
        f"The check should say {wanted!r}, but it said {found!r}."
    )


def test_an_import_that_does_not_end(attempt, monkeypatch):
    (attempt / "tasks.py").write_text("import time\n\nwhile True:\n    time.sleep(9)\n")
    for seconds in (2, 20):
        monkeypatch.setattr("course.check.IMPORT_SECONDS", seconds)
        found = find_import_problem(attempt, CHAPTER_1)
        if found.startswith("tasks.py"):  # a busy machine may not even get there in two seconds
            break
    wanted = f"tasks.py, line 4: importing this should finish within {seconds} seconds"
    assert found.startswith(wanted), (
        f"The check should name the line that waits, but it said {found!r}."
    )


def test_files_that_are_missing_or_hide_a_package(attempt):
    (attempt / "celery.py").write_text("")
    found = find_import_problem(attempt, CHAPTER_1)
    assert "hides the package" in found, f"celery.py should be refused, but not with {found!r}."
    (attempt / "celery.py").unlink()
    (attempt / "tasks.py").rename(attempt / "task.py")
    found = find_import_problem(attempt, CHAPTER_1)
    assert found == "This folder should have tasks.py; it has task.py.", (
        f"A folder without tasks.py should be refused, but not with {found!r}."
    )


def test_progress_follows_the_last_check(attempt):
    name = CHAPTERS[0]
    progress.note_check(name, attempt, True, progress.digest(attempt))
    assert progress.has_passed(name, attempt), "A check that passed should be kept."
    assert "Done: 1 of" in progress.describe_progress(), progress.describe_progress()
    (attempt / "tasks.py").write_text(TASKS + "# changed\n")
    assert not progress.has_passed(name, attempt), "An edited attempt should be checked again."
    progress.note_check(name, attempt, False, "")
    assert "Done: 0 of" in progress.describe_progress(), progress.describe_progress()


def test_a_nudge_comes_before_the_hint(attempt):
    found = [progress.nudge(attempt, step) for step in ("one", "one", "two")]
    assert found == [False, True, False], (
        f"A step's second hint should follow a nudge, but these were repeated: {found}."
    )


def test_an_open_star_step_gets_a_nudge_and_then_a_hint(attempt, capsys):
    step = {"text": "a power", "anchor": "the-app", "hint": "Write power.", "star": True}
    check = Check("1")
    check.show_star(step, {"what": "failed", "sentence": "There should be a power."})
    check.show_star(step | {"text": "a root"}, {"what": "failed", "sentence": "No root."})
    for verb, wanted in [
        ("", "hint     make chapter-1-hint DIR="),
        ("hint", 'nudge    read "The app" again'),
        ("hint", "hint     Write power."),
    ]:
        check.show_pass(verb)
        found = capsys.readouterr().out
        assert wanted in found, f"The check should print {wanted!r}, but it printed {found!r}."


@pytest.mark.parametrize("number", ["2", "13"])
def test_each_thing_that_one_knows_now_is_a_line(attempt, capsys, number):
    Check(number).show_pass("")
    known = capsys.readouterr().out.partition("You now know:")[2].partition("Compare:")[0]
    for line in known.split("\n\n")[1].splitlines():
        assert line.startswith("- "), f"Each line should be an item of the list, but not {line!r}."
    assert "\nIn six months, remember this: " in known, (
        f"What to remember should come without marks for bold, but the check printed {known!r}."
    )


def first_change():
    """Return the number of a chapter whose lesson changes one of its files, and that diff."""
    for name in CHAPTERS:
        changes = change.find_changes(name.partition("-")[0])
        if changes and (ROOT / "chapters" / name / changes[0][0].label).exists():
            return name, changes[0]
    raise AssertionError("A lesson should have a change.")


def test_a_change_is_made_and_taken_back(tmp_path, attempt, monkeypatch, capsys):
    name, blocks = first_change()
    number = name.partition("-")[0]
    folder = shutil.copytree(ROOT / "chapters" / name, tmp_path / name, ignore=IGNORED)
    monkeypatch.setenv("DIR", str(folder))
    path = folder / blocks[0].label
    before = path.read_text()
    change.change(number, "1")
    assert path.read_text() != before, f"The change should be made in {blocks[0].label}."
    with pytest.raises(SystemExit, match="has change 1 already"):
        change.change(number, "1")
    path.write_text(path.read_text() + "# my own line\n")
    change.undo(number)
    assert path.read_text() == before + "# my own line\n", (
        "undo should take the lesson's lines back and keep the learner's, but the file is"
        f" {path.read_text()!r}."
    )
    change.undo(number)
    assert "has no change of the lesson" in capsys.readouterr().out, (
        "A second undo should have nothing to do."
    )


def test_a_typed_change_of_a_typed_change_is_taken_back():
    """Chapter 4's second change of mean.py replaces what its first has made."""
    blocks = [block for blocks in change.find_changes("4") for block in blocks]
    diffs = [block.source for block in blocks if block.label == "mean.py"]
    text = ""
    for diff in diffs:
        text = apply_diff(text, diff)
    typed = change.find_typed(text, "", diffs)
    before, _ = change.take_back(text, typed)
    assert before == "", f"undo should take mean.py back, but it leaves {before!r}."


def test_a_change_that_git_restore_took_back(tmp_path, attempt, monkeypatch):
    """Chapter 9's change 3 needs change 2, whether or not it was made once before."""
    folder = shutil.copytree(ROOT / "chapters/9-concurrency", tmp_path / "9", ignore=IGNORED)
    monkeypatch.setenv("DIR", str(folder))
    before = (folder / "libs/rates.py").read_text()
    change.change("9", "2")
    change.change("9", "3")
    (folder / "libs/rates.py").write_text(before)
    with pytest.raises(SystemExit, match="try make chapter-9-change N=2 first"):
        change.change("9", "3")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_lesson_names_the_number_of_a_change(name):
    number = name.partition("-")[0]
    count = len(change.find_changes(number))
    lesson = " ".join((ROOT / "chapters" / name / "README.md").read_text().split())
    assert count == 1 or f"make chapter-{number}-change`" not in lesson, (
        f"The lesson of chapter {number} has {count} changes, so it should name the N of each."
    )


@pytest.mark.parametrize("count, wanted", [(1, "is made"), (2, "change N=2")])
def test_a_change_without_a_number(tmp_path, attempt, monkeypatch, capsys, count, wanted):
    """The only change of a lesson needs no number; more than one are listed."""
    name, blocks = first_change()
    folder = shutil.copytree(ROOT / "chapters" / name, tmp_path / name, ignore=IGNORED)
    monkeypatch.setenv("DIR", str(folder))
    monkeypatch.setattr(change, "find_changes", lambda _: [blocks] * count)
    change.change(name.partition("-")[0])
    found = capsys.readouterr().out
    assert wanted in found, (
        f"With {count} change(s), chapter-N-change should print {wanted!r}, but it printed {found}."
    )


# What Redis' MONITOR shows of a call, its answer and of what is put back.
MESSAGE = {
    "body": "W1sxLCAyXSwge30sIHt9XQ==",
    "headers": {"task": "tasks.add", "id": "0123456789", "argsrepr": "hidden"},
    "properties": {"delivery_tag": "tag"},
}


def read_events(*commands):
    """Return the events of commands, each a list of words, a second apart."""
    reader = Reader()
    events = []
    for second, words in enumerate(commands):
        quoted = " ".join(json.dumps(word) for word in words)
        command = parse_command(f"{second}.5 [0 127.0.0.1:1] {quoted}")
        events.append(reader.event(command))
    return [event for event in events if event]


def call(number, **headers):
    """Return the command that sends a call with this id."""
    message = MESSAGE | {"headers": MESSAGE["headers"] | {"id": f"{number}" * 8, **headers}}
    return ["LPUSH", "celery", json.dumps(message)]


def test_events_of_a_call():
    text = json.dumps(MESSAGE)
    stored = json.dumps({"status": "SUCCESS", "result": 3})
    key = "celery-task-meta-0123456789"
    events = read_events(
        ["SUBSCRIBE", key],
        ["LPUSH", "celery", text],
        ["HSET", "unacked", "tag", text],
        ["HDEL", "unacked", "tag"],
        ["SETEX", key, "3600", stored],
        ["PUBLISH", key, stored],
        ["PING"],
    )
    found = [event["what"] for event in events]
    assert found == ["wait", "send", "take", "ack", "store", "arrive"], (
        f"A call should be six events, but they are {found}."
    )
    assert events[1]["call"] == "tasks.add(1, 2)", (
        f"The arguments should be those of the body, but the call is {events[1]['call']}."
    )
    wanted = {"t": 4.5, "what": "store", "id": "0123456789", "state": "SUCCESS", "value": "3"}
    wanted |= {"kept": 3600, "process": 1}
    assert events[4] == wanted, f"The result should be {wanted}, but it is {events[4]}."


def test_a_message_that_is_put_back_is_not_sent_again():
    text = json.dumps(MESSAGE)
    events = read_events(
        ["HSET", "unacked", "tag", text],
        ["HGET", "unacked", "tag"],
        ["HDEL", "unacked", "tag"],
        ["RPUSH", "celery", text],
    )
    found = [event["what"] for event in events]
    assert found == ["take", "back"], f"It should go back, but the events are {found}."


def test_later_members_of_a_group_are_counted(capsys):
    printer = Printer()
    for event in read_events(*[call(number, group="g") for number in range(9)]):
        printer.show(event)
    printer.flush()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].endswith("7 more of the group: 7 sent"), (
        f"Two of nine members should be shown in full, but the lines are {lines}."
    )


def test_a_groups_count_has_no_earlier_time_than_the_line_before(capsys):
    printer = Printer()
    members = [call(number, group="g") for number in range(5)]
    for event in read_events(*members, call(0, group="g")):
        printer.show(event)
    printer.flush()
    times = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert times == sorted(times), f"The times should not go back, but they are {times}."


def test_the_clock_starts_again_after_a_pause(capsys):
    printer = Printer()
    events = read_events(call(1), call(2))
    events[1]["t"] += 100
    for event in events:
        printer.show(event)
    first, blank, second = capsys.readouterr().out.splitlines()
    assert (first.split()[0], blank, second.split()[0]) == ("0.000", "", "0.000"), (
        f"After a pause there should be a blank line and a new clock, not {blank!r}, {second!r}."
    )
