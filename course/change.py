"""Make a lesson's changes in a folder and take them back: chapter-6-change N=2, chapter-6-undo.

What is made is kept in .course/changes, because an attempt's folder has no git. Nothing but the
lines of the lesson's diffs is touched: a learner's own edit stays.
"""

import hashlib
import json
import os
import sys

from course.chapters import ROOT, display_path, find_chapter, find_folder
from course.environment import command_output
from course.lesson import Block, apply_diff, read_lesson

KEPT = ROOT / ".course" / "changes"
RESTART = (
    "Now restart the worker and the prompt, and beat if it runs: they still have the old code."
)


def find_changes(number):
    """Return the changes of a lesson in their order: lists of diffs with nothing in between."""
    changes = []
    follows_diff = False
    for part in read_lesson(find_chapter(number)).parts:
        if not isinstance(part, Block):
            continue
        is_diff = part.language == "diff"
        if is_diff and not follows_diff:
            changes.append([])
        if is_diff:
            changes[-1].append(part)
        follows_diff = is_diff
    return changes


def invert(diff):
    """Return the diff that takes a diff back."""
    swapped = {"+": "-", "-": "+"}
    lines = [swapped.get(line[:1], line[:1]) + line[1:] for line in diff.splitlines()]
    return "\n".join(lines) + "\n"


def read(path):
    """Return a file's text, "" if there is no file."""
    if path.is_file():
        return path.read_text()
    return ""


def write(path, text):
    """Write a file, or remove it if its text is empty because a change made it."""
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    else:
        path.unlink(missing_ok=True)


class MadeChanges:
    """The changes that were made in a folder: [number of the change, path, diff] of each."""

    def __init__(self, folder):
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self.file = KEPT / f"{name}.json"
        self.entries = []
        if self.file.exists():
            self.entries = json.loads(self.file.read_text())

    def keep(self):
        KEPT.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.entries))

    def has(self, change_number):
        return any(entry[0] == change_number for entry in self.entries)


def list_changes(number, changes):
    """Print which changes a lesson has."""
    name = find_chapter(number)
    if not changes:
        print(f"chapters/{name}/README.md makes no changes.")
    for position, change in enumerate(changes, 1):
        paths = ", ".join(dict.fromkeys(block.label for block in change))
        place = f"chapters/{name}/README.md line {change[0].line}"
        print(f"make chapter-{number}-change N={position}   {paths} ({place})")


def choose_change(number, changes, wanted):
    """Return the number of the change that is wanted; exit with a sentence if there is none."""
    if not changes:
        sys.exit(f"Chapter {number}'s lesson makes no changes.")
    if not wanted.isdecimal() or not 1 <= int(wanted) <= len(changes):
        plain = f"make chapter-{number}-change lists them"
        sys.exit(f"There is no change {wanted}: N is a number from 1 to {len(changes)}; {plain}.")
    return int(wanted)


def change(number, wanted=""):
    """Make the change of a lesson that has this number; if it is "", the only one, or list all."""
    changes = find_changes(number)
    if not wanted and len(changes) == 1:
        wanted = "1"
    if not wanted:
        list_changes(number, changes)
        return
    position = choose_change(number, changes, wanted)
    folder = find_folder(number)
    made = MadeChanges(folder)
    texts = {}
    for block in changes[position - 1]:
        path = folder / block.label
        before = texts.get(path, read(path))
        after = apply_diff(before, block.source)
        if after is None:
            refuse_change(number, position, changes, folder, block)
        texts[path] = after
    for path, text in texts.items():
        write(path, text)
        print(f"{display_path(path)}: change {position} of the lesson is made.")
    made.entries = [entry for entry in made.entries if entry[0] != position]
    for block in changes[position - 1]:
        made.entries.append([position, block.label, block.source])
    made.keep()
    print(RESTART)


def refuse_change(number, position, changes, folder, block):
    """Exit with a sentence that says why a change can't be made."""
    shown = display_path(folder / block.label)
    text = read(folder / block.label)
    is_left = MadeChanges(folder).has(position) and has_added_line(text, block.source)
    if is_left or apply_diff(text, invert(block.source)) is not None:
        sys.exit(f"{shown} has change {position} already.")
    reason = f"{shown} doesn't have the lines that change {position} begins with"
    for earlier in reversed(range(1, position)):
        labels = [other.label for other in changes[earlier - 1]]
        if block.label in labels and is_possible(changes[earlier - 1], folder):
            sys.exit(f"{reason}: try make chapter-{number}-change N={earlier} first.")
    undo = f"make chapter-{number}-undo takes the lesson's changes back"
    sys.exit(f"{reason}: {undo}, and your own edits there are yours to undo.")


def has_added_line(text, diff):
    """Return whether a line that a diff adds is in a text: git restore takes all of them back."""
    added = {line[1:] for line in diff.splitlines() if line.startswith("+")} - {""}
    return not added.isdisjoint(text.splitlines())


def is_possible(blocks, folder):
    """Return whether each diff of a change could be made now."""
    texts = [apply_diff(read(folder / block.label), block.source) for block in blocks]
    return None not in texts


def find_committed(path):
    """Return the text that git has of a file of the course, "" if it has none."""
    name = path.relative_to(ROOT).as_posix()
    return command_output("git", "-C", ROOT, "show", f"HEAD:{name}") or ""


def take_back(text, diffs):
    """Take diffs back, the last first; return the text and the diffs with edited lines."""
    left = []
    for diff in reversed(diffs):
        before = apply_diff(text, invert(diff))
        if before is not None:
            text = before
        elif apply_diff(text, diff) is None:  # it isn't undone either
            left.append(diff)
    return text, left


def find_typed(text, committed, diffs):
    """Return those diffs that a learner has typed: their new lines are in the text, not in git."""
    typed = []
    for diff in reversed(diffs):  # a later change may have changed the lines of an earlier one
        before = apply_diff(text, invert(diff))
        is_committed = apply_diff(committed, invert(diff)) is not None
        if before is not None and not is_committed:
            typed.insert(0, diff)
            text = before
    return typed


def undo(number):
    """Take back the changes of a lesson, made or typed; name and keep a learner's own edits."""
    folder = find_folder(number)
    in_course = folder == ROOT / "chapters" / find_chapter(number)
    made = MadeChanges(folder)
    in_lesson = [block for blocks in find_changes(number) for block in blocks]
    undone = False
    problems = []
    kept_entries = []
    for label in dict.fromkeys(block.label for block in in_lesson):
        path = folder / label
        text = read(path)
        diffs = [diff for _, changed, diff in made.entries if changed == label]
        if in_course and not diffs:
            in_file = [block.source for block in in_lesson if block.label == label]
            diffs = find_typed(text, find_committed(path), in_file)
        before, left = take_back(text, diffs)
        if before != text:
            write(path, before)
            print(f"{display_path(path)}: the lesson's changes are taken back.")
            undone = True
        if left and not (in_course and text == find_committed(path)):
            problems.append(f"{display_path(path)}: you have edited lines of a change; undo that.")
            kept_entries += [entry for entry in made.entries if entry[2] in left]
        elif in_course and before != find_committed(path):
            problems.append(f"{display_path(path)}: your own edits are kept.")
    made.entries = kept_entries
    made.keep()
    for problem in problems:
        print(problem)
    if undone:
        print(RESTART)
    elif not problems:
        print(f"{display_path(folder)} has no change of the lesson.")
