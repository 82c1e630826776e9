"""Settings of the app, under the names that Celery's documentation lists them by."""

from celery.schedules import crontab

broker_url = "redis://127.0.0.1:6379/0"
result_backend = "redis://127.0.0.1:6379/0"

# Redis forgets a result after an hour. Celery's own default is a day.
result_expires = 3600

# The worker acknowledges a message when its task has finished, and gives it back when the task's
# process is killed. So each task must be safe to run twice.
task_acks_late = True
task_reject_on_worker_lost = True

# In seconds. Redis hands a message out again that a worker has held for so long: while it waits in
# the worker, while it waits for its ETA or its retry, and while it runs. Keep this above the sum.
broker_transport_options = {"visibility_timeout": 3600}

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
