"""The code that a process has loaded: its mark in Redis, and what was saved since."""

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

PREFIX = "course:"


@dataclass
class Mark:
    """What the name of a worker's first connection to Redis says about the worker.

    files has the digest of each file that the worker has imported from its folder, by name.
    """

    folder: str
    node: str
    files: dict

    def connection_name(self):
        """Return the mark as a name of a connection, which may have no spaces."""
        return PREFIX + quote(json.dumps(asdict(self), sort_keys=True))


def find_marks(client_list):
    """Return the marks of all workers in the text of Redis' CLIENT LIST."""
    marks = []
    for word in client_list.split():
        mark = read_mark(word.removeprefix("name="))
        if mark:
            marks.append(mark)
    return marks


def read_mark(name):
    """Return the mark that a connection's name is, or None if it is another name."""
    if not name.startswith(PREFIX):
        return None
    try:
        return Mark(**json.loads(unquote(name.removeprefix(PREFIX))))
    except (TypeError, ValueError):
        return None


def loaded_files(folder, known=None):
    """Return the digests of the files that this process has imported from a folder, by name.

    Files with a known digest are not read again.
    """
    files = dict(known or {})
    top = f"{folder}{os.sep}"
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        name = path.removeprefix(top)
        if name != path and name not in files:
            files[name] = digest(path)
    return files


def changed_files(folder, files):
    """Return the names of the files whose digests are no longer these."""
    return [name for name, loaded in files.items() if digest(os.path.join(folder, name)) != loaded]


def newest_change(folder):
    """Return when a Python file below a folder was last saved, in seconds of the epoch, or 0."""
    newest = 0
    for path in Path(folder).rglob("*.py"):
        newest = max(newest, os.path.getmtime(path))
    return newest


def digest(path):
    """Return a short digest of a file's content, or "" if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
    except OSError:
        return ""
