"""Importing the project makes its Celery app the one that `shared_task` uses."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
