"""Which chapters are done: those whose last check passed. It is kept in .course/progress.json."""

import hashlib
import json
import os
from contextlib import suppress

from course.chapters import CHAPTERS, NOT_CODE, ROOT, find_files, number_of

FILE = ROOT / ".course" / "progress.json"


def read_progress():
    """Return what is kept: for each chapter's name its check, for each folder the last nudge."""
    progress = {"done": {}, "nudged": {}}
    with suppress(OSError, ValueError):
        progress |= json.loads(FILE.read_text())
    return progress


def write_progress(progress):
    """Keep what read_progress() returned. A folder that can't be written is no problem."""
    with suppress(OSError):
        FILE.parent.mkdir(exist_ok=True)
        temporary = FILE.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(progress, indent=2))
        temporary.replace(FILE)


def digest(folder):
    """Return a text that changes if a file of an app does."""
    state = hashlib.sha256()
    for name in find_files(folder, ("README.md", *NOT_CODE)):
        content = (folder / name).read_bytes()
        state.update(f"{name} {len(content)}\n".encode() + content)
    return state.hexdigest()


def note_check(name, folder, passed, checked):
    """Keep that an attempt at a chapter passed its check or not; `checked` is its digest then."""
    progress = read_progress()
    kept = progress["done"].get(name)
    if passed:
        progress["done"][name] = {"folder": str(folder), "digest": checked}
    elif kept and kept["folder"] == str(folder):
        del progress["done"][name]
    write_progress(progress)


def has_passed(name, folder):
    """Return whether an attempt passed its last check and hasn't changed since."""
    kept = read_progress()["done"].get(name)
    if not kept or kept["folder"] != str(folder):
        return False
    return kept["digest"] == digest(folder)


def nudge(folder, step):
    """Keep that a learner was nudged about a step; return whether it is the second time."""
    progress = read_progress()
    repeated = progress["nudged"].get(str(folder)) == step
    progress["nudged"][str(folder)] = step
    write_progress(progress)
    return repeated


def count_done():
    """Return a line with the numbers of the chapters that are done."""
    done = read_progress()["done"]
    numbers = [str(number_of(name)) for name in CHAPTERS if name in done]
    return f"Done: {len(numbers)} of {len(CHAPTERS)} chapters ({', '.join(numbers) or 'none'})."


def describe_progress():
    """Return a line that says which chapters are done and which is next."""
    done = read_progress()["done"]
    for name in CHAPTERS:
        if name not in done:
            return f"{count_done()} Next: chapters/{name}/README.md."
    return count_done()


def describe_old_number(name):
    """Return a sentence if my/ has an attempt at this chapter under another number, or ""."""
    title = str(name).partition("-")[2]
    if not title or (ROOT / "my" / name).exists():
        return ""
    for folder in sorted((ROOT / "my").glob(f"*-{title}")):
        if folder.name.partition("-")[2] == title:
            move = f"mv my/{folder.name} my/{name}"
            return (
                f"my/{folder.name} is an attempt at chapter {name} by its old number: type {move}"
            )
    return ""


def main():
    """Print which chapters are done, and which attempts have an old number."""
    print(describe_progress())
    for name in CHAPTERS:
        sentence = describe_old_number(name)
        if sentence:
            print(sentence)
