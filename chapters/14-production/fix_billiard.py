"""Give the installed billiard 3.6 the method of code objects that Python 3.11 added.

Celery 5.1 needs billiard < 4, but billiard has `co_positions` only from 4.1 on. Without it a worker
that logs the exception of a task logs an AttributeError of its own instead, some 100 lines long.
"""

import os
from importlib.util import find_spec
from pathlib import Path

LAST_LINE = "        self.co_varnames = ()\n"
METHOD = """
    def co_positions(self):
        while True:
            yield None, None, None, None
"""

path = Path(find_spec("billiard").origin).with_name("einfo.py")
text = path.read_text()
if METHOD not in text:
    # Replaced and not written in place: uv's cache may hold the same file by a hard link.
    new_path = path.with_suffix(".new")
    new_path.write_text(text.replace(LAST_LINE, LAST_LINE + METHOD, 1))
    os.replace(new_path, path)
