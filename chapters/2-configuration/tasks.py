"""Arithmetic for a Celery worker.

A client imports a task from here and calls its `delay`, which sends a message to the broker and
returns at once. A worker, started in this folder with `celery -A tasks worker --loglevel=info`,
takes the message, runs the function and stores what it returned in the result backend, where
the client finds it.
"""

from celery import Celery
from loguru import logger

app = Celery("tasks")
app.config_from_object("celeryconfig")


@app.task
def add(x, y):
    """Return x + y."""
    logger.debug("asked: {} + {}", x, y)
    result = x + y
    logger.debug("answer: {}", result)
    return result
