"""Runs commands of Celery in processes that are forked from one that has imported Celery.

The import takes half a second, which each worker of the tests would take again.
"""

import atexit
import gc
import multiprocessing
import os
import sys
import tempfile

from celery.__main__ import main
from support.celery_internals import number_few_channels

FORKSERVER = multiprocessing.get_context("forkserver")
# What a worker and beat import, without what reads the environment or starts a thread.
FORKSERVER.set_forkserver_preload(
    [
        "billiard.popen_fork",
        "billiard.sharedctypes",
        "celery.app.amqp",
        "celery.app.control",
        "celery.app.events",
        "celery.app.log",
        "celery.apps.beat",
        "celery.apps.worker",
        "celery.backends.redis",
        "celery.bin.celery",
        "celery.concurrency.prefork",
        "celery.events.receiver",
        "celery.fixups.django",
        "celery.worker.components",
        "celery.worker.consumer",
        "celery.worker.strategy",
        "encodings.idna",
        "sqlite3",
    ]
)
# multiprocessing makes a Unix socket in the folder for temporary files. The path of a socket has
# at most about a hundred bytes.
IS_POSSIBLE = len(os.fsencode(tempfile.gettempdir())) < 70


class Forked:
    """A command of Celery in a session of its own, with the interface of a Popen that tests use."""

    def __init__(self, reaper, command, folder, env, log):
        """Start a command in a folder, with this environment; add its output to the file log."""
        connection, other_end = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(
            name="MainProcess", target=run, args=(other_end, command, folder, env, log)
        )
        self.process.start()
        other_end.close()
        self.pid = self.process.pid
        connection.recv()  # it is the leader of its group now
        reaper.watch(self.pid)
        connection.send("start")

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()


def run(connection, command, folder, env, log):
    """Become the command, once the reaper watches this process."""
    os.setsid()
    connection.send("ready")
    connection.recv()
    gc.freeze()  # Celery collects garbage before each fork: not among what is imported here
    redirect_output(log)
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path]
    sys.argv = command
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    number_few_channels()
    tempfile.tempdir = None  # so that it reads the new environment
    try:
        main()
    finally:
        # multiprocessing doesn't run these, such as the one that removes a PID file.
        atexit._run_exitfuncs()


def redirect_output(log):
    """Let this process read nothing, and write to the end of a file."""
    nothing = os.open(os.devnull, os.O_RDWR)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
