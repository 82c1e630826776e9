"""A Python prompt for a lesson: statements come in as JSON lines, what they print goes out.

Run with the source on `python -c`, so that the current folder is importable as at a real prompt.
"""

import contextlib
import io
import json
import os
import sys
import traceback


class Both(io.StringIO):
    """Keeps what is written to it, and copies it into what a terminal would show."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def write(self, text):
        self.terminal.write(text)
        return super().write(text)


class Current:
    """sys.stderr as loguru keeps it: one object for the whole session."""

    def __init__(self):
        self.target = io.StringIO()

    def write(self, text):
        return self.target.write(text)

    def flush(self):
        pass


def serve():
    # The answers get a descriptor of their own: prints of child processes must not mix with them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stderr = current = Current()
    namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    for line in sys.stdin:
        terminal = io.StringIO()
        current.target = terminal
        printed, error = Both(terminal), None
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(json.loads(line), "<stdin>", "single"), namespace)  # noqa: S102  a prompt
        except BaseException as raised:  # noqa: BLE001  a prompt shows them all
            error = "".join(traceback.format_exception_only(type(raised), raised))
        print(json.dumps([printed.getvalue(), terminal.getvalue(), error]), file=answers, flush=True)


serve()
