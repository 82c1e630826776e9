"""The list of chapters, and where their folders and the learner's attempts are."""

import os
import re
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTER_NAME = re.compile(r"\d+-[a-z0-9-]+")


def number_of(name):
    """Return the number that a chapter's name begins with."""
    return int(name.partition("-")[0])


def find_chapters():
    """Return the names of the chapters' folders in the order of their numbers."""
    folders = [path.name for path in ROOT.glob("chapters/*") if path.is_dir()]
    return sorted(filter(CHAPTER_NAME.fullmatch, folders), key=number_of)


def find_written_files():
    """Return patterns of the files that chapters write, from their .gitignore files."""
    patterns = set()
    for path in ROOT.glob("chapters/*/.gitignore"):
        for line in path.read_text().split():
            patterns.add(line.strip("/*") + "*")
    return patterns


def find_no_steps():
    """Return patterns of the files that are no step of an app: .gitattributes marks them -diff."""
    patterns = []
    for line in (ROOT / ".gitattributes").read_text().splitlines():
        pattern, _, attribute = line.partition(" ")
        if attribute == "-diff":
            patterns.append(pattern)
    return patterns


CHAPTERS = find_chapters()
# The previous chapter of each chapter but the first.
PREVIOUS = dict(zip(CHAPTERS[1:], CHAPTERS))  # noqa: B905  the system's Python may be 3.9
# What `make lock` copies into a chapter that has an image of its own.
GENERATED = ("requirements-*.txt", "fix_billiard.py")
# How an app runs elsewhere than in containers: to read, and no part of an attempt.
OTHER_WAYS_TO_RUN = ("systemd", "kubernetes")
# What a copy of an app leaves out.
NOT_CODE = ("Makefile", "__pycache__", ".*", *find_written_files())


def is_left_out(path, patterns):
    """Return whether a file, or a folder that it is in, has a name that fits a pattern."""
    return any(fnmatch(part, pattern) for part in path.parts for pattern in patterns)


def find_files(folder, left_out):
    """Return the files in a folder in their order, as relative paths, without what is left out."""
    files = []
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not is_left_out(name, left_out):
            files.append(name)
    return files


def find_chapter(number):
    """Return the name of the chapter with this number; exit with a sentence if there is none."""
    found = [name for name in CHAPTERS if name.partition("-")[0] == str(number)]
    if len(found) == 1:
        return found[0]
    count = "no"
    if found:
        count = "more than one"
    sys.exit(f"There is {count} chapter {number}: the chapters are {', '.join(CHAPTERS)}.")


def find_folder(number, home="chapters"):
    """Return the folder that DIR names, or else the chapter's in home; exit if it is missing."""
    name = find_chapter(number)
    named = os.environ.get("DIR")
    path = Path(named or ROOT / home / name).expanduser().resolve()
    if not path.is_dir():
        command = f"make chapter-{number}-start"
        if named:
            command += f" DIR={shlex.quote(named)}"
        sys.exit(f"There is no folder {path}: {command} makes it.")
    return path


def display_path(path):
    """Return a path as one types it: relative to the top of the checkout, quoted for the shell."""
    path = Path(path)
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    return shlex.quote(str(path))
