"""Starts the processes of the tests, and ends them when pytest ends, in whatever way that is.

A worker spends nearly all of its start, a second of computing, on importing Celery. This process
imports it once and forks for each worker; the fork then runs what `celery -A tasks worker` runs.
Orders come in as JSON lines, the process id of each start goes out. Each process leads a group.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading

GROUPS = set()


class Launcher:
    """The side of the tests."""

    def __init__(self):
        # In a session of its own, where Ctrl-C does not reach it. It ends when its stdin closes.
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lock = threading.Lock()

    def start(self, command, folder, env, out, err):
        """Start a command, in Python where its first word is celery; return the id of its process and group."""
        order = {"command": command, "folder": str(folder), "env": env, "out": str(out), "err": str(err)}
        with self.lock:
            self.send(order)
            return int(self.process.stdout.readline())

    def watch(self, group):
        """End this process group too, which somebody else started."""
        with self.lock:
            self.send({"watch": group})

    def forget(self, group):
        with self.lock:
            self.send({"forget": group})

    def send(self, order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


# Not loguru: it reads LOGURU_LEVEL as it is imported. And not the app, which is the chapter's.
EARLY = [
    "celery.app.amqp",
    "celery.app.log",
    "celery.app.trace",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.events.state",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "kombu.transport.redis",
]


def become(order):
    """In the fork: turn into the process that was ordered."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, file in enumerate(
        [os.open(os.devnull, os.O_RDONLY)] + [os.open(order[n], flags) for n in ("out", "err")]
    ):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    command = order["command"]
    if command[0] != "celery":
        os.execv(command[0], command)
    sys.stdin = open(os.devnull)  # noqa: SIM115  for as long as the process lives
    sys.argv = list(command)
    sys.path[0] = order["folder"]
    sys.path[1:1] = [path for path in order["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    from celery.__main__ import main

    main()


def reap(*_):
    """Take notice of ended processes, so that their ids are free and the tests see that they are gone."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def serve():
    for name in EARLY:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        order = json.loads(line)
        if "forget" in order:
            GROUPS.discard(order["forget"])
            continue
        if "watch" in order:
            GROUPS.add(order["watch"])
            continue
        pid = os.fork()
        if not pid:
            try:
                become(order)
            except SystemExit:
                pass
            except BaseException:  # noqa: BLE001  nothing may go back into the loop
                sys.excepthook(*sys.exc_info())
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os._exit(0)
        GROUPS.add(pid)
        print(pid, flush=True)
    for group in GROUPS:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    serve()
