"""Text for a Celery worker."""


def shout(text):
    """Return a text in upper case."""
    return text.upper()
