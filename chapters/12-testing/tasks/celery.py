"""The app, which `celery -A tasks` finds here, and what its tasks log."""

import sys

from celery import Celery, Task
from loguru import logger

LINE = "{time} | {level: <8} | {extra[id]} | {name}:{function}:{line} - {message}"


def add_id(record):
    """Add the id of the running task to a line of the log, or None outside of tasks."""
    record["extra"]["id"] = None
    if app.current_worker_task:
        record["extra"]["id"] = app.current_worker_task.request.id


class LoggedTask(Task):
    """A task that says in one line that it has failed."""

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        logger.error("{}[{}] failed: {!r}", self.name, task_id, exc)


# Without diagnose=False, a traceback shows the values of variables, passwords among them.
logger.configure(
    handlers=[{"sink": sys.stderr, "format": LINE, "diagnose": False}],
    patcher=add_id,
)

app = Celery("tasks", task_cls=LoggedTask)
app.config_from_object("celeryconfig")
