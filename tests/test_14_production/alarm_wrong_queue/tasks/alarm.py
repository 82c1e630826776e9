from lengths import lengths
from tasks.celery import app


@app.task
def alarm_request(limit):
    """It waits in the queue that is full."""
    return [name for name, length in lengths().items() if length > limit]
