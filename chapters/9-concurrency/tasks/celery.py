"""The app, which `celery -A tasks` finds here."""

from celery import Celery

app = Celery("tasks")
app.config_from_object("celeryconfig")
