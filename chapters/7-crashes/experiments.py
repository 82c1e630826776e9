"""Accidents for the prompt. The app doesn't use this file."""

import os
import signal
import time

from tasks.celery import app

redis = app.backend.client
inspect = app.control.inspect(timeout=10, limit=1)


def running_process():
    """Return the PID of the process that has run a task for a second."""
    for _ in range(100):
        for tasks in (inspect.active() or {}).values():
            for task in tasks:
                time.sleep(1)
                return task["worker_pid"]
    raise RuntimeError("No task is running: is the worker up?")


def kill_process():
    """Kill the process that runs a task, as the kernel does when memory runs out."""
    os.kill(running_process(), signal.SIGKILL)


def kill_worker():
    """Kill the worker with all its processes, as a power cut does."""
    os.killpg(os.getpgid(running_process()), signal.SIGKILL)
    time.sleep(1)


def cut_connections():
    """Close the other connections to our database, as a restarted firewall does."""
    running_process()
    own = redis.client_id()
    database = str(redis.connection_pool.connection_kwargs["db"])
    for client in redis.client_list():
        if client["db"] == database and int(client["id"]) != own:
            redis.client_kill_filter(_id=client["id"])


def put_back():
    """Put the messages of killed workers back into their queues. No worker may be running."""
    with app.connection_for_write(transport_options={"visibility_timeout": 0}) as connection:
        connection.default_channel.qos.restore_visible(num=1000)
