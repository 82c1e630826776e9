"""Arithmetic for a Celery worker.

A client imports a task from here and calls its `delay`, which sends a message to the broker and
returns at once. A worker, started in this folder with `celery -A tasks worker --loglevel=info`,
takes the message, runs the function and stores what it returned in the result backend, where
the client finds it.

Each task logs what it was asked and what it answers, in whichever process runs it: the worker's
terminal shows the lines of a message, the client's those of a plain call. They go to stderr.
"""

from celery import Celery
from loguru import logger

app = Celery(
    "tasks",
    broker="redis://127.0.0.1:6379/0",
    backend="redis://127.0.0.1:6379/0",
)


@app.task
def add(x, y):
    """Return x + y."""
    logger.debug("asked: {} + {}", x, y)
    result = x + y
    logger.debug("answer: {}", result)
    return result


@app.task
def power(x, y):
    """Return x to the power of y."""
    return x**y
