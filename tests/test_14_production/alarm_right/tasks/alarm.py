from lengths import lengths
from tasks.celery import app


@app.task(queue="rates")
def alarm_request(limit):
    """Return the names of the queues in which more messages than the limit are waiting."""
    return [name for name, length in lengths().items() if length > limit]
