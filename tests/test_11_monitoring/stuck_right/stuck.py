"""Print the tasks that have been running for more than so many seconds: python stuck.py 60."""

import sys
import time

from tasks.celery import app

limit = float(sys.argv[1])
workers = app.control.inspect(timeout=0.5).active() or {}
for tasks in workers.values():
    for task in tasks:
        if time.time() - task["time_start"] > limit:
            print(task["name"], task["id"])
