"""Settings of the app, under the names that Celery's documentation lists them by."""

broker_url = "redis://127.0.0.1:6379/0"
result_backend = "redis://127.0.0.1:6379/0"

# JSON and nothing else: unpickling a message can run any code that its sender chose.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]

# A time without a zone is UTC, on every machine.
timezone = "UTC"
enable_utc = True

# Redis forgets a result after an hour.
result_expires = 3600

# A task whose worker dies runs again, so every task must bear running twice.
task_acks_late = True
task_reject_on_worker_lost = True

# A message that was taken and not acknowledged goes back into the queue after an hour.
broker_transport_options = {"visibility_timeout": 3600}
