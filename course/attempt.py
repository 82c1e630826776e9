"""A learner's own attempt at a chapter: where it lies, and how it differs from the course's."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from course.chapters import (
    NOT_CODE,
    PREVIOUS,
    ROOT,
    display_path,
    find_chapter,
    find_folder,
    number_of,
)


def copy(source, folder):
    """Copy an app: not its lesson, nor what is hidden, compiled or written."""
    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("README.md", *NOT_CODE), dirs_exist_ok=True
    )


def start(number):
    """Copy the learner's chapter before, where it passes its check, or else the course's, into a new folder."""
    name = find_chapter(number)
    folder = Path(os.environ.get("DIR") or ROOT / "my" / name).expanduser().resolve()
    shown = display_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(
            f"{shown} isn't empty, so it is left as it is: go on there, or name a new folder with DIR=."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{shown} can't be made ({error.strerror}): name another folder with DIR=.")
    what = "is empty"
    if previous := PREVIOUS.get(name):
        source = ROOT / "my" / previous
        check = [sys.executable, "-m", "course", "check", str(number_of(previous))]
        env = {key: value for key, value in os.environ.items() if key != "DIR"}
        if (
            not source.is_dir()
            or subprocess.run(check, cwd=ROOT, env=env, capture_output=True, check=False).returncode
        ):
            source = ROOT / "chapters" / previous
        copy(source, folder)
        what = f"holds a copy of {display_path(source)}"
    own = "" if folder == ROOT / "my" / name else f" DIR={shown}"
    print(f"{shown} {what}. Write chapter {number} there, as chapters/{name}/README.md says.")
    print(f"make chapter-{number}-check{own} tells you what is done and what is next.")


def diff(number, *options):
    """Show what changed since the chapter before, or between the learner's attempt and the chapter where DIR names one."""
    name = find_chapter(number)
    if os.environ.get("DIR"):
        compare(find_folder(number, "my"), ROOT / "chapters" / name, number, *options)
    elif not PREVIOUS.get(name):
        print("Chapter 1 is the first: there is nothing before it.")
    else:
        trees = [f"HEAD:chapters/{each}" for each in (PREVIOUS[name], name)]
        os.chdir(ROOT)
        os.execvp("git", ["git", "diff", "-M", *options, *trees, "--", ".", ":(exclude)README.md"])


def compare(own, ours, number, *options):
    """Show how the code of two folders differs, without comments, docstrings and formatting."""
    names = "yours", f"chapter-{number}"
    with tempfile.TemporaryDirectory() as temp:
        for name, folder in zip(names, (own, ours), strict=True):
            copy(folder, Path(temp, name))
            for path in Path(temp, name).rglob("*.py"):
                path.write_text(code(path.read_text(errors="replace")))
        command = ["git", "diff", "--no-index", "-M", *options, *names]
        differs = subprocess.run(command, cwd=temp, check=False).returncode
    if not differs:
        print("The same code.")
    print("Your way may be just as good: the check decides, not this comparison.")


def code(text):
    """Return Python code without comments and docstrings, in one form of writing; as it is where it isn't valid."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree) + "\n"
