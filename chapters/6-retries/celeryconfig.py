"""Settings of the app, under the names that Celery's documentation lists them by."""

broker_url = "redis://127.0.0.1:6379/0"
result_backend = "redis://127.0.0.1:6379/0"

# Redis forgets a result after an hour. Celery's own default is a day.
result_expires = 3600
