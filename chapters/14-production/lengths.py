"""How many messages are waiting: `python lengths.py`."""

from tasks.celery import app


def lengths():
    """Return how many messages are waiting in each queue, whatever their priority."""
    with app.connection() as connection:
        channel = connection.default_channel
        return {name: channel.queue_declare(name).message_count for name in app.amqp.queues}


if __name__ == "__main__":
    print(lengths())
