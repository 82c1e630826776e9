"""Text for a Celery worker."""

from tasks.celery import app


@app.task
def shout(text):
    """Return a text in upper case."""
    return text.upper()
