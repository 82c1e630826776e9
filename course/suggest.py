"""Name what a misspelt target or variable of the Makefile should be."""

import re
import sys
from difflib import get_close_matches

from course.chapters import find_chapter


def suggest(kind, name, *known):
    """Say what a name, which is of this kind, should be: one of those that are known."""
    if kind == "target":
        suggest_target(name, known)
    else:
        suggest_variable(name, known)


def suggest_target(name, targets):
    """Exit with a sentence about a target that isn't there."""
    found = re.fullmatch(r"chapter-(.+)-([a-z]+)", name)
    if found:
        number, verb = found.groups()
        if any(target.endswith(f"-{verb}") for target in targets):
            # Exits, as there is none.
            find_chapter(number)
    close = get_close_matches(name, targets, 1)
    if f"{name}-worker" in targets:
        close = [f"{name}-worker"]
    if close:
        sys.exit(f"There is no make {name}: did you mean make {close[0]}?")
    sys.exit(f"There is no make {name}: make alone lists the commands.")


def suggest_variable(name, variables):
    """Print a sentence about a variable, if its name looks like one of these misspelt.

    Any other may be given to make: it reaches the programs that a command starts.
    """
    close = get_close_matches(name.upper(), variables, 1, 0.7)
    if close:
        print(f"There is no variable {name}: did you mean {close[0]}?")
