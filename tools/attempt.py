"""A learner's own attempt at a chapter: where it lies, how it differs. Standard library only.

usage: attempt.py start NUMBER
       attempt.py diff NUMBER [--lesson] [OPTION OF git diff...]
"""

import os
import shutil
import sys
from pathlib import Path

from course import CHAPTERS, ROOT, chapter


def before(name):
    """Return the chapter before this one, or None."""
    at = CHAPTERS.index(name)
    return CHAPTERS[at - 1] if at else None


def files_of(folder):
    """Return the paths of an app's files, from its folder: neither its lesson nor what is hidden or compiled."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path
        for path in found
        if path.name != "README.md"
        and not any(each[0] in "._" and each != "__init__.py" for each in path.parts)
    ]


def start(number):
    name = chapter(number)
    folder = Path(os.environ.get("DIR") or ROOT / "my" / name).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is not empty: go on there, or name a new folder with DIR=.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{folder} can't be made ({error.strerror}): name another folder with DIR=.")
    source = before(name) and ROOT / "chapters" / before(name)
    for path in files_of(source) if source else []:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, folder / path)
    what = f"the app of {source.name}" if source else "nothing yet"
    print(
        f"{folder} holds {what}. Write chapter {number} there; make chapter-{number}-test DIR={folder} checks it."
    )


def diff(number, *options):
    name = chapter(number)
    if not before(name):
        sys.exit("Chapter 1 is the first: there is nothing before it.")
    paths = [] if "--lesson" in options else ["--", ".", ":(exclude)README.md"]
    trees = [f"HEAD:chapters/{each}" for each in (before(name), name)]
    options = [each for each in options if each != "--lesson"]
    os.chdir(ROOT)
    os.execvp("git", ["git", "diff", "-M", *options, *trees, *paths])


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    {"start": start, "diff": diff}[verb](*arguments)
