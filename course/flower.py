"""The password that Flower asks for, unless the learner has chosen another way in."""

import os
import re
import secrets
import sys

from course.chapters import ROOT, display_path

# The name and the password, with a colon in between. Only the learner can read the file.
FILE = ROOT / ".course" / "flower_login"
# Options and variables of Flower that say who may log in.
OPTION = re.compile(r"--(basic[-_]auth|auth)\b")
VARIABLES = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH")


def open_privately(path, flags):
    """Open a file that nobody else can read."""
    return os.open(path, flags, mode=0o600)


def make_password():
    """Make a name and a password, and keep them; exit with a sentence if that isn't possible."""
    text = f"flower:{secrets.token_urlsafe(12)}"
    try:
        FILE.parent.mkdir(exist_ok=True)
        with open(FILE, "w", opener=open_privately) as file:
            file.write(text)
    except OSError as error:
        sys.exit(f"{display_path(FILE)} can't be written: {error.strerror}.")
    return text


def require_password(command):
    """Let the Flower that this process will become ask for a name and a password.

    They are in the environment: anyone on the machine can read a command's words.
    """
    if OPTION.search(" ".join(command)) or any(map(os.environ.get, VARIABLES)):
        return
    if FILE.exists():
        text = FILE.read_text().strip()
        print(f"Flower asks for the name and the password in {display_path(FILE)}.", flush=True)
    else:
        text = make_password()
        name, _, password = text.partition(":")
        print(f"Flower asks for a name, {name}, and a password, {password}.", flush=True)
        print(f"They are kept in {display_path(FILE)}.", flush=True)
    os.environ["FLOWER_BASIC_AUTH"] = text
