"""Send a worker the load of a benchmark, and print what was measured as lines `NAME NUMBER`.

usage: python bench_client.py rate MODULE TASK WORKER   tasks a second, and the worker's megabytes
       python bench_client.py wait chain|group          seconds for eight calls of chapter 5's app

It runs in the folder of an app, on whose modules the lines below import.
"""

import importlib
import sys
import time

import celery
import psutil


def measure_rate(module, name, worker):
    """Print the tasks a second that get done, and the megabytes of the worker with this PID."""
    task = getattr(importlib.import_module(module), name)
    redis = task.app.connection().default_channel.client
    queue = task.app.conf.task_default_queue
    for count in (50, 1000):  # the first to warm up
        begin = time.monotonic()
        celery.group(task.s(number, number) for number in range(count)).delay()
        # Some settings leave no results to wait for.
        while redis.llen(queue) or redis.hlen("unacked"):
            time.sleep(0.005)
        seconds = time.monotonic() - begin
    print("rate", count / seconds)
    main = psutil.Process(int(worker))
    memory = main.memory_info().rss
    for child in main.children(recursive=True):
        memory += child.memory_info().rss
    print("memory", memory / 1e6)


def measure_wait(shape):
    """Print the seconds until the results of a chain or a group of eight calls are there."""
    add_request = importlib.import_module("tasks.math").add_request
    add_request.delay(1, 1).get(timeout=60)  # to warm up
    combine = getattr(celery, shape)
    begin = time.monotonic()
    combine(add_request.si(number, number) for number in range(8)).delay().get(timeout=60)
    print("wait", time.monotonic() - begin)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "rate":
        measure_rate(*arguments)
    else:
        measure_wait(*arguments)
