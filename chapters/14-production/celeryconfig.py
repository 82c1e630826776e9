"""Settings of the app, under the names that Celery's documentation lists them by."""

import os
from pathlib import Path
from urllib.parse import quote

from celery.schedules import crontab


def redis_url():
    """Return the URL of Redis that the environment describes, or else this machine's."""
    host = os.environ.get("REDIS_HOST", "127.0.0.1")
    port = os.environ.get("REDIS_PORT", "6379")
    password_file = os.environ.get("REDIS_PASSWORD_FILE")
    ca_file = os.environ.get("REDIS_CA_FILE")
    login = ""
    if password_file:
        password = Path(password_file).read_text().strip()
        login = f":{quote(password, safe='')}@"
    if ca_file:
        tls = f"ssl_cert_reqs=required&ssl_ca_certs={quote(ca_file, safe='')}"
        return f"rediss://{login}{host}:{port}/0?{tls}"
    return f"redis://{login}{host}:{port}/0"


broker_url = redis_url()
result_backend = redis_url()

# Redis forgets a result after an hour. Celery's own default is a day.
result_expires = 3600

# The worker acknowledges a message when its task has finished, and gives it back when the task's
# process is killed. So each task must be safe to run twice.
task_acks_late = True
task_reject_on_worker_lost = True

# In seconds. Every task gets an exception after the first, and its process is killed after the
# second. Nothing can stop a thread: for rates, the limit is the timeout in libs/rates.py.
task_soft_time_limit = 10
task_time_limit = 20

# In seconds. Redis hands a message out again that a worker has held for so long: while it waits in
# the worker, while it waits for its ETA or its retry, and while it runs. Keep this above the sum:
# a worker takes four messages for each process, and each may run for 20 seconds.
broker_transport_options = {"visibility_timeout": 100}

# A process of the pool is replaced after so many tasks, or when it has used more memory than this,
# in KiB.
worker_max_tasks_per_child = 1000
worker_max_memory_per_child = 150_000

# The queues that a worker takes from, unless -Q or -X says otherwise. Any other name is an error.
task_queues = {"celery": {}, "ledger": {}, "rates": {}}
task_create_missing_queues = False

# A single process can be the ledger's only writer, and slow rates delay nobody.
# All other tasks go to `celery`.
task_routes = {"tasks.ledger.*": {"queue": "ledger"}, "tasks.rates.*": {"queue": "rates"}}

# What beat sends, and when: every day at 4:00, UTC. A message expires after twelve hours. That is
# longer than the visibility timeout, so what a killed worker held can still run, and what was sent
# at 4:00 can't run on the next day.
beat_schedule = {
    "interest": {
        "task": "tasks.ledger.interest_request",
        "schedule": crontab(hour=4, minute=0),
        "args": (0.01,),
        "options": {"expires": 12 * 3600},
    },
}
