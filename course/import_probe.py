"""Import an attempt's modules and report what happened: a program, run in the attempt's folder.

The report is a file with one line of JSON. It stays empty if the modules make Python exit; it holds
a traceback of faulthandler if importing them takes too long.
"""

import argparse
import faulthandler
import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def describe(error):
    """Return the type and the text of an exception in one line."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def find_place(error):
    """Return the file and line in the current folder where an exception was raised, or ""."""
    here = Path.cwd()
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    for name, line in reversed(places):
        path = Path(name or "")
        if path.is_relative_to(here):
            return f"{path.relative_to(here)}, line {line}"
    return ""


def import_modules(names):
    """Import these modules; return what to report."""
    try:
        for name in names:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  whatever an attempt raises
        return {"error": describe(error), "place": find_place(error)}
    return {"imported": names}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="the file for the report")
    parser.add_argument("seconds", type=float, help="how long the import may take")
    parser.add_argument("modules", nargs="+")
    arguments = parser.parse_args()
    # Modules are found in the attempt's folder, not beside this file.
    sys.path[0] = os.getcwd()
    with arguments.report.open("w") as report:
        faulthandler.dump_traceback_later(arguments.seconds, file=report, exit=True)
        found = import_modules(arguments.modules)
        json.dump(found, report)
    os._exit(0)  # without waiting for threads of the attempt


if __name__ == "__main__":
    main()
