"""Import modules, and leave with a status that no code of an attempt has by chance; say where it stands if that takes long.

It is a program: import_probe.py SECONDS MODULE...
"""

import faulthandler
import importlib
import os
import signal
import sys

IMPORTED = 66

if __name__ == "__main__":
    seconds = int(sys.argv[1])
    sys.path[0] = ""
    signal.alarm(2 * seconds)
    faulthandler.dump_traceback_later(seconds, exit=True)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    os._exit(IMPORTED)
