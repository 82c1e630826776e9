"""A prompt that says when the files that this Python has imported were saved since."""

import sys
import time

from course.loaded import changed_files, loaded_files


class StalePrompt(str):
    """The text >>>, below a warning at the first input after a file was saved.

    Python's basic prompt asks for the text once an input; the prompt of Python 3.13 and later asks
    again at each key, and must get the same text. It looks for line breaks in the prompt before it
    asks, so this is a string.
    """

    def __new__(cls, _folder):
        return super().__new__(cls, ">>> ")

    def __init__(self, folder):
        self.folder = folder
        self.files = loaded_files(folder)
        self.reported = []
        self.warning = ""
        self.calls = 0
        self.last_input = None
        self.last_look = 0

    def __str__(self):
        self.calls += 1
        number = count_inputs() or self.calls
        if number != self.last_input:
            self.last_input = number
            self.warning = self.find_warning()
            # What was imported since the last input.
            self.files = loaded_files(self.folder, known=self.files)
        return f"{self.warning}>>> "

    def find_warning(self):
        """Return a line about the files that changed since the last warning, or ""."""
        # The lines of a pasted block come faster than this.
        if time.monotonic() - self.last_look < 1:
            return ""
        self.last_look = time.monotonic()
        changed = changed_files(self.folder, self.files)
        if changed == self.reported:
            return ""
        self.reported = changed
        if not changed:
            return ""
        return (
            f"({', '.join(changed)} changed: this prompt still runs the old code. Leave it with"
            " exit(), and start it again.)\n"
        )


def count_inputs():
    """Return how many inputs the prompt of Python 3.13 has taken, or None with the basic prompt."""
    readline = sys.modules.get("_pyrepl.readline")
    if not readline:
        return None
    return readline.get_current_history_length() + 1
