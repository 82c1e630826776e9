from tasks.celery import app


@app.task(queue="rates")
def alarm_request(limit):
    """It sees the messages of one priority."""
    redis = app.connection().default_channel.client
    return [name for name in app.amqp.queues if redis.llen(name) > limit]
