"""Give the installed billiard 3.6 the method of code objects that Python 3.11 added.

Celery 5.1 needs billiard < 4, and billiard learnt `co_positions` in 4.1. Without it a worker
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
fixed = text if METHOD in text else text.replace(LAST_LINE, LAST_LINE + METHOD, 1)
# Moved into place and not written through: uv's cache may hold the same file by a hard link.
aside = path.with_suffix(".new")
aside.write_text(fixed)
os.replace(aside, path)
