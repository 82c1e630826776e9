"""Private parts of Celery, kombu and billiard that tests use.

Each was checked on Celery 5.1.2 and 5.7.0, with their kombu and billiard.
"""

from contextlib import contextmanager
from functools import partial

import celery.app.builtins  # noqa: F401  registers Celery's own tasks, before CELERY_TASKS is set
from billiard import einfo
from celery import _state
from celery.concurrency.asynpool import AsynPool
from celery.result import AsyncResult
from kombu import Connection, Consumer, Queue
from kombu.transport.redis import Transport
from kombu.utils import eventio

CELERY_TASKS = set(_state._on_app_finalizers)


def forget_tasks_of_other_apps():
    """Keep Celery from giving an app the tasks of all apps that were imported before.

    In a pytest process, these are the apps of other chapters.
    """
    _state._on_app_finalizers.intersection_update(CELERY_TASKS)


def delete_results_silently():
    """Let a result that is deleted leave its server alone.

    Otherwise a result that outlives its server tries to reach it for 20 seconds.
    """
    del AsyncResult.__del__


def number_few_channels():
    """Let a connection number a thousand channels in advance.

    For all 65,535, kombu 5.1 takes four milliseconds, and a worker makes five connections.
    """
    Transport.channel_max = 1000


def look_for_killed_processes_every(seconds):
    """Let workers in this process look for processes that were killed more often than each 5 s."""
    AsynPool.timers = property(lambda pool: {pool.maintain_pool: seconds})


def look_at_header_too_early(monkeypatch):
    """Let get look at a chord's header as it does a moment before a member fails: in vain."""
    look = AsyncResult._maybe_reraise_parent_error
    looks = []

    def look_from_the_second_time_on(result):
        looks.append(result)
        if len(looks) > 1:
            look(result)

    monkeypatch.setattr(AsyncResult, "_maybe_reraise_parent_error", look_from_the_second_time_on)


def restore_messages(app, **transport_options):
    """Put messages past their visibility timeout back in their queues, as a worker's start does."""
    with app.connection_for_write(transport_options=transport_options) as connection:
        connection.default_channel.qos.restore_visible(num=1000)


@contextmanager
def asking_for_a_message(url, queue):
    """Ask Redis for a message with BRPOP, as a worker's event loop does; close the connection
    after the block, as at a stop.

    A worker asks for a second at a time, in which a busy machine may not get a message sent.
    """

    def ignore(*_):
        pass

    connection = Connection(url)
    channel = connection.default_channel
    consumer = Consumer(channel, [Queue(queue, routing_key=queue)], callbacks=[ignore])
    consumer.consume()
    poller = connection.transport.cycle
    poller.poller = eventio.poll()
    poller.add(channel)
    channel._brpop_start = partial(channel._brpop_start, timeout=60)
    poller._register_BRPOP(channel)
    try:
        yield
    finally:
        channel.close()
        connection.close()


def remove_code_positions(monkeypatch):
    """Remove the method that tools/fix_billiard.py adds to Celery 5.1.2's billiard."""
    monkeypatch.delattr(einfo._Code, "co_positions")
