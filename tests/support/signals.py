"""Receivers of Celery's signals that are connected for a while."""

import re
from contextlib import contextmanager
from dataclasses import dataclass

from celery.signals import before_task_publish, task_retry


@contextmanager
def connected(signal, receiver):
    """Call the receiver each time Celery sends the signal in the block."""
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


@contextmanager
def retries():
    """Yield a list of the reasons for the retries in the block, such as "Retry in 1s"."""
    reasons = []

    def note(reason, **_):
        reasons.append(str(reason))

    with connected(task_retry, note):
        yield reasons


def pauses(text):
    """Return the pauses that retries announce in a text, such as ["1s", "2s"]."""
    return re.findall(r"Retry in (\w+)", text)


@contextmanager
def published_queues():
    """Yield a list of the queues that the messages in the block are sent to."""
    queues = []

    def note(exchange, routing_key, **_):
        queues.append(exchange or routing_key)

    with connected(before_task_publish, note):
        yield queues


@dataclass
class Message:
    """A message that was sent: the name of its task, and its arguments as text."""

    name: str
    arguments: str


@contextmanager
def published_messages():
    """Yield a list of the messages that are sent from this process in the block."""
    messages = []

    def note(sender, headers, **_):
        messages.append(Message(sender, headers["argsrepr"]))

    with connected(before_task_publish, note):
        yield messages
