"""Settings of the app, under the names that Celery's documentation lists them by."""

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
