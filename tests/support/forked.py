"""Celery's commands, in processes that are forked from one which has imported Celery: that takes half a second each time."""

import atexit
import gc
import multiprocessing
import os
import sys
import tempfile

from celery.__main__ import main

FORKSERVER = multiprocessing.get_context("forkserver")
# What a worker and a beat import, but nothing that looks at the environment or begins a thread.
IMPORTED = (
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.log",
)
IMPORTED += (
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.fixups.django",
)
IMPORTED += "celery.worker.components", "celery.worker.consumer"
FORKSERVER.set_forkserver_preload(list(IMPORTED))
# A Unix socket is made in the folder for temporary files, and its path may have a hundred bytes.
POSSIBLE = len(os.fsencode(tempfile.gettempdir())) < 70


def run(pipe, words, folder, env, log):
    """Become what a shell would start there, or end where the tests have ended before the reaper knew of it."""
    os.setsid()
    pipe.send(True)
    pipe.recv()
    gc.freeze()  # Celery collects garbage before each fork: not in all that is imported here
    nothing, output = os.open(os.devnull, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = words
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # what it found before
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # such as the removal of a pidfile, which multiprocessing leaves out


class Forked:
    """A process of its own session, as far as tests use a Popen. Its output is added to a file."""

    def __init__(self, reaper, *command):
        """Start a command: its words, its folder, its environment, and the file for its output."""
        here, there = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(name="MainProcess", target=run, args=(there, *command))
        self.process.start()
        there.close()
        self.pid, self.wait = self.process.pid, self.process.join
        here.recv()  # a signal to its group finds it there
        reaper.watch(self.pid)
        here.send(True)

    def poll(self):
        return self.process.exitcode
