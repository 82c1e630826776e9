"""A learner's own attempt at a chapter: where it is, and how it differs from the course's."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from course import progress
from course.chapters import (
    CHAPTERS,
    GENERATED,
    NOT_CODE,
    OTHER_WAYS_TO_RUN,
    PREVIOUS,
    ROOT,
    display_path,
    find_chapter,
    find_folder,
    number_of,
)
from course.environment import command_output


def copy(source, folder):
    """Copy an app, without its lesson, and what is the lesson's, generated, hidden or written."""
    not_own = ("README.md", "experiments.py", *OTHER_WAYS_TO_RUN, *GENERATED)
    ignored = shutil.ignore_patterns(*not_own, *NOT_CODE)
    shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)


def refuse_full_folder(folder):
    """Exit with a sentence unless a folder is empty or doesn't exist."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        other = "go on there, or name a new folder with DIR=."
        sys.exit(f"{display_path(folder)} isn't empty, so it is left as it is: {other}")


def make_folder(folder):
    """Make an attempt's folder, or exit with a sentence if it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # With it, commands can be typed there too. It is the same in every chapter.
        shutil.copy(ROOT / "chapters" / CHAPTERS[0] / "Makefile", folder)
    except OSError as error:
        shown = display_path(folder)
        sys.exit(f"{shown} can't be made ({error.strerror}): name another folder with DIR=.")


def passes_check(name, folder):
    """Return whether an attempt passes its check; run it, and say so, unless the last one tells."""
    if progress.has_passed(name, folder):
        return True
    print(f"Checking {display_path(folder)}, to copy it if it passes.", flush=True)
    command = [sys.executable, "-m", "course", "check", str(number_of(name))]
    env = dict(os.environ)
    env.pop("DIR", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)
    return done.returncode == 0


def find_changes(folder):
    """Return the files of a folder of the course that git knows as changed or new."""
    found = command_output("git", "-C", ROOT, "status", "--porcelain", "--", folder) or ""
    return [Path(line[3:]).name for line in found.splitlines()]


def choose_source(name):
    """Return the folder that an attempt at the chapter after this one begins from.

    It is the learner's, if it passes its check, or else the course's. Exits if the course's files
    have been changed: an attempt would silently begin with a lesson's temporary change.
    """
    own = ROOT / "my" / name
    if own.is_dir():
        if passes_check(name, own):
            return own
        number = number_of(name)
        reason = f"doesn't pass make chapter-{number}-check yet, so the course's chapter is copied."
        print(f"{display_path(own)} {reason}")
    source = ROOT / "chapters" / name
    changes = find_changes(source)
    if changes:
        shown = display_path(source)
        undo = f"take them back first, as with git restore {shown}"
        sys.exit(f"{shown} has changes that would be copied ({', '.join(changes)}): {undo}.")
    return source


def find_new_folder(number):
    """Return the folder of a new attempt, which DIR may name; exit if it can't be a new one."""
    name = find_chapter(number)
    usual = ROOT / "my" / name
    folder = Path(os.environ.get("DIR") or usual).expanduser().resolve()
    for chapter in (name, PREVIOUS.get(name)):
        sentence = progress.describe_old_number(chapter)
        if sentence and folder == usual:
            sys.exit(sentence)
    refuse_full_folder(folder)
    return folder


def require_attempt(number, kind=""):
    """Exit with a sentence unless an attempt is there or, with the kind "new", can be made."""
    if kind == "new":
        find_new_folder(number)
    else:
        find_folder(number, "my")


def start(number):
    """Copy the learner's previous chapter, or else the course's, into a new folder."""
    folder = find_new_folder(number)
    name = find_chapter(number)
    shown = display_path(folder)
    previous = PREVIOUS.get(name)
    contents = "is empty"
    source = None
    if previous:
        source = choose_source(previous)
        contents = f"holds a copy of {display_path(source)}"
    make_folder(folder)
    if source:
        copy(source, folder)
    print(f"{shown} {contents}. Write chapter {number} there, as chapters/{name}/README.md says.")
    command = f"make chapter-{number}-check"
    if folder != ROOT / "my" / name:
        command += f" DIR={shown}"
    print(f"{command} shows what is done and what is next.")


def diff(number, *options):
    """Show what changed since the previous chapter, or between the attempt in DIR and the chapter.

    The options are git diff's.
    """
    name = find_chapter(number)
    if os.environ.get("DIR"):
        compare(find_folder(number, "my"), ROOT / "chapters" / name, number, *options)
        return
    previous = PREVIOUS.get(name)
    if not previous:
        print("Chapter 1 is the first: there is nothing before it.")
        return
    trees = [f"HEAD:chapters/{previous}", f"HEAD:chapters/{name}"]
    os.chdir(ROOT)
    os.execvp("git", ["git", "diff", "-M", *options, *trees, "--", ".", ":(exclude)README.md"])


def compare(own, ours, number, *options):
    """Show how the code of two folders differs, without comments, docstrings and formatting."""
    names = ["yours", f"chapter-{number}"]
    with tempfile.TemporaryDirectory() as temp:
        for name, folder in zip(names, (own, ours), strict=True):
            copy(folder, Path(temp, name))
            for path in Path(temp, name).rglob("*.py"):
                path.write_text(normalize(path.read_text(errors="replace")))
        command = ["git", "diff", "--no-index", "-M", *options, *names]
        differs = subprocess.run(command, cwd=temp, check=False).returncode
    if not differs:
        print("The same code.")
    print("Your way may be just as good: the check decides, not this comparison.")


def normalize(text):
    """Return Python code without comments and docstrings, formatted; invalid code as it is."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        if documented and ast.get_docstring(node):
            node.body = node.body[1:]
            if not node.body:
                node.body = [ast.Pass()]
    return ast.unparse(tree) + "\n"
