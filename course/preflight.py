"""The look around before a chapter's workers start.

Two workers of different code on one server take each other's messages and throw them away, so the second is refused.
"""

import json
import os
import re
import sys
import time
from collections import Counter
from urllib.parse import quote, unquote

from course.environment import APP, URLS, redis_port

ANSWER_TIMEOUT = 3  # that a server has to answer in
LOOKED_AT = 100  # messages of each queue, of those that wait
MARK = "course:"


def find_app():
    """Return the chapter's app with its tasks, or None where the code cannot be imported: Celery will tell.

    Points Celery's variables at the learner's port, where that is not the one that chapters name.
    """
    try:
        from celery.app.utils import find_app

        app = find_app(APP)
        app.loader.import_default_modules()
    except (Exception, SystemExit):  # noqa: BLE001  whatever the chapter's code raises
        app = None
    if redis_port() != 6379:
        # Not the result backend's where the app has none: a chapter shows what happens then.
        for name in URLS if not app or app.conf.result_backend else URLS[:1]:
            os.environ.setdefault(name, f"redis://127.0.0.1:{redis_port()}/0")
    return app


def connect(url, setting, variable):
    """Return a client of the Redis server that a setting names, or None where it names no Redis server.

    Ends with a sentence where that server cannot serve.
    """
    import redis

    if not str(url).startswith(("redis://", "rediss://")) or ";" in url:
        return None
    where = (
        f"{variable}={url}"
        if os.environ.get(variable)
        else f"{setting}, {url} in this chapter's code,"
    )
    instead = f"set {URLS[0]} and {URLS[1]} to"
    options = {
        "socket_timeout": ANSWER_TIMEOUT,
        "socket_connect_timeout": ANSWER_TIMEOUT,
        "max_connections": 1,
    }
    options |= {"decode_responses": True, "encoding_errors": "replace"}
    try:
        client = redis.Redis.from_url(url, **options)
        client.setrange("course-look", 0, "")  # a write that changes nothing
        return client
    except (redis.RedisError, ValueError) as error:
        if re.search("NOAUTH|WRONGPASS|assword|uthenticat", str(error)):
            sys.exit(f"{where} wants a password: {instead} redis://:PASSWORD@HOST:PORT/0.")
        if isinstance(error, redis.ResponseError):
            sys.exit(f"{where} refuses writes ({error}): {instead} another server's URL.")
        start = f"make redis starts one, or {instead} a server's URL, or unset both"
        sys.exit(f"No Redis answers at {where} ({error}): {start}.")


def look_for_workers(app, client):
    """Return whether another worker uses this database; end with a sentence where it is one of different code.

    A worker that was started here is known by the name of one of its connections, also while it starts or is
    suspended. Others are asked: a worker listens for remote control, by a pattern.
    """
    import kombu.pools

    own, mark = str(client.client_id()), MARK + quote(os.getcwd())
    # In one transaction, so that of two workers which start at once the second sees the first.
    _, clients = client.pipeline().client_setname(mark).client_list().execute()
    database = str(client.connection_pool.connection_kwargs.get("db") or 0)
    clients = [each for each in clients if each["db"] == database]
    marked = [
        each["name"] for each in clients if each["name"].startswith(MARK) and each["id"] != own
    ]
    for other in set(marked) - {mark}:
        refuse(f"started in {unquote(other.removeprefix(MARK))}")
    listening = sum(each["psub"] != "0" for each in clients)
    if listening > len(marked):
        known = {name for name in app.tasks if not name.startswith("celery.")}
        replies = app.control.inspect(timeout=1, limit=listening).registered() or {}
        # Celery forks later, and asks again on new connections.
        kombu.pools.reset()
        app._after_fork()
        for node, tasks in replies.items():
            if known != {task.split()[0] for task in tasks}:
                refuse(f"{node}, which knows {', '.join(tasks)}")
    return bool(marked or listening)


def refuse(worker):
    sys.exit(
        f"A worker of different code uses this server ({worker}): stop it (Ctrl-C in its terminal, or make down if it is a container), or use another"
        " server with REDIS_PORT=6390, because the two would take each other's messages and throw them away."
    )


def look_at_messages(app, client, number, worker_is_up):
    """Say which messages wait, and what this worker will do with them."""
    taken = client.hlen("unacked")
    if taken and not worker_is_up:
        print(
            f"{taken} taken and unfinished: a worker that was killed had these messages. They go back into the queue"
            " after the visibility timeout, an hour unless you set it."
        )
    counts, more = Counter(), 0
    for queue in app.amqp.queues:
        more += max(0, client.llen(queue) - LOOKED_AT)
        counts.update(map(task_of, client.lrange(queue, -LOOKED_AT, -1)))
    if not counts:
        return
    parts = [
        f"{count} of {name}" if name else f"{count} unreadable" for name, count in counts.items()
    ]
    parts += [f"{more} more"] if more else []
    unknown = ", ".join(sorted(filter(None, counts.keys() - app.tasks.keys())))
    fates = ["this worker runs them"] if counts.keys() & app.tasks.keys() else []
    fates += [f"this worker doesn't know {unknown} and throws those away"] if unknown else []
    fates += ["an unreadable message ends the worker; start it again"] if None in counts else []
    hint = f"make chapter-{number}-purge drops them all"
    hint += "; press Ctrl-C within 5 seconds to keep them" if unknown else ""
    print(f"Waiting in the queue: {', '.join(parts)}; {'; '.join(fates)}; {hint}.", flush=True)
    time.sleep(5 if unknown else 0)


def task_of(message):
    """Return the name of the task that a message calls, or None where Celery did not write it."""
    try:
        return str(json.loads(message)["headers"]["task"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def look(number):
    """Look around before workers of a chapter start; return the connection whose name marks this process as one of them."""
    app = find_app()
    if app:
        broker = connect(app.conf.broker_url, "broker_url", URLS[0])
        connect(app.conf.result_backend, "result_backend", URLS[1])
        if broker:
            look_at_messages(app, broker, number, look_for_workers(app, broker))
        return broker
