"""What this chapter's lesson does to workers, each with a worker of its own. Not for the app."""

import os
import signal
import subprocess
import sys
import time

from tasks.celery import app

redis = app.connection().default_channel.client


@app.task
def nap(end):
    """Sleep until this time."""
    time.sleep(max(0, end - time.time()))


def start_worker(**variables):
    """Start a worker with one process for the queue `celery`, and let it run what is there."""
    for name, queues in (app.control.inspect().active_queues() or {}).items():
        if any(queue["name"] == "celery" for queue in queues):
            raise RuntimeError(f"{name} takes messages from the queue celery too: stop it first.")
    with app.connection_for_write(transport_options={"visibility_timeout": 0}) as connection:
        connection.default_channel.qos.restore_visible(num=1000)
    command = [sys.executable, "-m", "celery", "-A", "experiments", "worker", "-Q", "celery"]
    command += ["-c", "1", "--without-mingle", "--without-gossip"]
    worker = subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    nap.delay(0).get(timeout=30)
    return worker


def stop(*signals, **variables):
    """Send signals to a worker that is running the first of four naps and holds the others.

    Return how many naps have finished, are back in the queue, and are in `unacked`.
    """
    worker = start_worker(**variables)
    end = time.time() + 3
    results = [nap.delay(end) for _ in range(4)]
    while redis.hlen("unacked") < 4 and time.time() < end:
        time.sleep(0.1)
    for name in signals:
        time.sleep(0.5)
        if name == "KILL":
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.send_signal(getattr(signal, f"SIG{name}"))
    worker.wait(timeout=60)
    return sum(result.ready() for result in results), redis.llen("celery"), redis.hlen("unacked")
