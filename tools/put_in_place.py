"""Move an environment that was built aside to its place, unless another set-up was quicker.

usage: put_in_place.py NEW PLACE, both beside each other; each is whole where it has a file `installed`.
"""

import fcntl
import os
import shutil
import sys
from pathlib import Path

new, place = map(Path, sys.argv[1:])
with open(f"{place}.lock", "w") as lock:
    # The system frees the lock when this process ends, in whatever way.
    fcntl.flock(lock, fcntl.LOCK_EX)
    begun, done = min(path.stat().st_mtime for path in new.iterdir()), place / "installed"
    if done.exists() and done.stat().st_mtime > begun:
        shutil.rmtree(new)
    else:
        shutil.rmtree(place, ignore_errors=True)
        os.rename(new, place)
