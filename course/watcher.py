"""A process beside a worker that says when the worker's code was edited."""

import json
import os
import select
import signal
import sys

from course.loaded import changed_files


class Watcher:
    """A process that looks at a worker's files once a second, as long as the worker lives.

    It is a sibling of the worker, which stays as Celery starts it. The pipe between them closes
    when the worker ends, however that ends.
    """

    def __init__(self, folder):
        """Start the process; it waits for the names of the files."""
        reader, self.writer = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(self.writer)
            # The parent of a process that is forked twice isn't the worker.
            if os.fork() == 0:
                run(folder, reader)
            os._exit(0)
        os.close(reader)
        os.waitpid(child, 0)
        # Celery's processes must not keep the pipe open.
        os.register_at_fork(after_in_child=self.close)

    def watch(self, files):
        """Watch files, given as names and digests."""
        os.write(self.writer, json.dumps(files).encode() + b"\n")

    def close(self):
        """Close this process' end of the pipe, once."""
        if self.writer is not None:
            os.close(self.writer)
        self.writer = None


def run(folder, reader):
    """Report each change of the files that the worker names on the pipe, until the pipe closes."""
    # Ctrl-C is the worker's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    line = os.fdopen(reader, "rb", buffering=0, closefd=False).readline()
    if not line:
        return
    files = json.loads(line)
    reported = []
    while not select.select([reader], [], [], 1)[0]:
        changed = changed_files(folder, files)
        if changed != reported:
            print(describe_change(changed), file=sys.stderr, flush=True)
            reported = changed


def describe_change(names):
    """Return what the worker's reader should know when these files differ from the loaded ones."""
    if not names:
        return "\nThe files are again as this worker loaded them.\n"
    return (
        f"\n{', '.join(names)} changed: this worker still runs the old code. Press Ctrl-C, and"
        " start it again.\n"
    )
