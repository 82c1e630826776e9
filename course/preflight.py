"""The checks before a chapter's worker starts.

Two workers of different code on one server take each other's messages and throw them away, so the
second is refused.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

from course.chapters import display_path
from course.environment import APP, URLS, port_url, redis_port
from course.import_probe import describe, find_place
from course.loaded import Mark, loaded_files, read_mark

# Celery's settings, and the variables that are stronger.
VARIABLES = dict(zip(("broker_url", "result_backend"), URLS, strict=True))
# Seconds that a server has to answer in.
ANSWER_TIMEOUT = 3
# How many of the waiting messages of each queue are read.
READ_MESSAGES = 100
LOGURU_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


class ServerProblem(Exception):
    """A server cannot serve; the text is a sentence that says what to do."""


def import_app():
    """Return the app in the current folder with its tasks; raise what its code raises."""
    from celery.app.utils import find_app

    app = find_app(APP)
    app.loader.import_default_modules()
    return app


def find_app():
    """Return the app in the current folder with its tasks, or None if the import fails.

    Celery reports the error when it imports the app itself.
    """
    try:
        return import_app()
    except (Exception, SystemExit):  # noqa: BLE001  a chapter's code may raise anything
        return None


def require_app():
    """Return the app in the current folder, or None after a line about what the import raised.

    Celery then reports the whole traceback. Exits with a sentence if LOGURU_LEVEL is no level.
    """
    try:
        return import_app()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a chapter's code may raise anything
        level = os.environ.get("LOGURU_LEVEL")
        if level and level not in LOGURU_LEVELS:
            levels = ", ".join(LOGURU_LEVELS)
            sys.exit(f"LOGURU_LEVEL={level} is no level of loguru: set it to one of {levels}.")
        place = find_place(error) or "outside of this folder"
        print(f"{APP} can't be imported: {describe(error)}, {place}", file=sys.stderr, flush=True)
        return None


def open_server(url, setting):
    """Return a client of the Redis server at a URL, or None if the URL is of another kind.

    Celery knows the URL by this setting. Raises ServerProblem if the server doesn't accept writes.
    """
    import redis

    if not str(url).startswith(("redis://", "rediss://")) or ";" in url:
        return None
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=ANSWER_TIMEOUT,
            socket_connect_timeout=ANSWER_TIMEOUT,
            max_connections=1,
            decode_responses=True,
            encoding_errors="replace",
        )
        # A write that changes nothing.
        client.setrange("course-look", 0, "")
    except (redis.RedisError, ValueError) as error:
        place = describe_url(url, setting)
        raise ServerProblem(describe_problem(error, place)) from None
    return client


def describe_url(url, setting):
    """Return a server's URL with the name under which the learner or the chapter sets it."""
    variable = VARIABLES[setting]
    if os.environ.get(variable):
        return f"{variable}={url}"
    if os.environ.get("REDIS_PORT") and url == port_url():
        return f"REDIS_PORT={redis_port()}"
    return f"{setting}, {url} in this chapter's code,"


def describe_problem(error, place):
    """Return a sentence about a server that doesn't accept writes."""
    import redis

    instead = f"set {URLS[0]} and {URLS[1]} to"
    if re.search("NOAUTH|WRONGPASS|assword|uthenticat", str(error)):
        return f"{place} wants a password: {instead} redis://:PASSWORD@HOST:PORT/0."
    if isinstance(error, redis.ResponseError):
        return f"{place} refuses writes ({error}): {instead} another server's URL."
    other = f"{instead} a server's URL, or unset both"
    if place.startswith("REDIS_PORT="):
        other = "unset REDIS_PORT"
    return f"No Redis answers at {place} ({error}): make redis starts one, or {other}."


def connect(app, setting):
    """Return a client of the server that a setting of an app names; exit if it can't serve."""
    try:
        return open_server(getattr(app.conf, setting), setting)
    except ServerProblem as problem:
        sys.exit(str(problem))


def find_node(options):
    """Return the name that Celery gives to a worker with these options."""
    from celery.utils.nodenames import default_nodename, host_format

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-n", "--hostname", nargs="?")
    found, _ = parser.parse_known_args(options)
    return host_format(default_nodename(found.hostname))


def in_database(client, clients):
    """Return those of a server's clients that use the same database as one client."""
    database = str(client.connection_pool.connection_kwargs.get("db") or 0)
    return [entry for entry in clients if entry["db"] == database]


def find_marked(clients):
    """Return the marks of the workers among the clients of a server."""
    marks = [read_mark(entry["name"]) for entry in clients]
    return [mark for mark in marks if mark]


def count_listeners(clients):
    """Return how many of the clients listen by a pattern, as a worker does for remote control."""
    return sum(entry["psub"] != "0" for entry in clients)


def ask_workers(app, limit):
    """Ask the workers which tasks they know, for at most a second; return these by worker."""
    from course.celery_internals import forget_connections

    replies = app.control.inspect(timeout=1, limit=limit).registered() or {}
    # Celery forks later, and must not share connections with its processes.
    forget_connections(app)
    # An entry may be a name followed by options of the task.
    return {node: {task.split()[0] for task in tasks} for node, tasks in replies.items()}


def own_tasks(app):
    """Return the names of an app's tasks without Celery's own."""
    return {name for name in app.tasks if not name.startswith("celery.")}


def refuse_beside(mark, other, number):
    """Exit with a sentence if a worker with one mark must not start beside one with the other."""
    if other.folder != mark.folder:
        refuse_code(f"started in {other.folder}")
    if other.files != mark.files:
        changed = [name for name, digest in other.files.items() if mark.files.get(name) != digest]
        reason = "files were added"
        if changed:
            reason = f"{', '.join(changed)} changed since it started"
        sys.exit(
            f"The worker {other.node} in {display_path(mark.folder)} runs older code ({reason}):"
            " press Ctrl-C in its terminal and start it again, then type this again."
        )
    if other.node and other.node == mark.node:
        refuse_name(mark.node, number)


def refuse_code(worker):
    """Exit because a worker runs other code."""
    sys.exit(
        f"A worker of different code uses this server ({worker}): stop it (Ctrl-C in its terminal,"
        " or make down if it is a container), or use another server with REDIS_PORT=6390, because"
        " the two would take each other's messages and throw them away."
    )


def refuse_name(node, number):
    """Exit because a worker has this name already."""
    sys.exit(
        f"A worker named {node} is up already: stop it with Ctrl-C in its terminal, or give this"
        f' one another name: make chapter-{number}-worker ARGS="-n second@%h", where your other'
        " options stay as they are."
    )


def check_workers(app, client, mark, number):
    """Mark this process in Redis as a worker; exit if it must not start beside those that are up.

    A worker that the course started is known by the mark on a connection, even while it starts or
    is suspended. Others are asked. Returns whether any other worker uses the database.
    """
    own = str(client.client_id())
    # In one transaction: of two workers that start at once, the second sees the first.
    transaction = client.pipeline().client_setname(mark.connection_name()).client_list()
    _, clients = transaction.execute()
    clients = [entry for entry in in_database(client, clients) if entry["id"] != own]
    marked = find_marked(clients)
    for other in marked:
        refuse_beside(mark, other, number)
    listeners = count_listeners(clients)
    if listeners > len(marked):
        for node, tasks in ask_workers(app, listeners).items():
            if tasks != own_tasks(app):
                refuse_code(f"{node}, which knows {', '.join(sorted(tasks))}")
            if node == mark.node:
                refuse_name(node, number)
    return bool(marked or listeners)


def count_waiting(app, client):
    """Return how many waiting messages call each task, with None for unreadable ones, and how
    many more there are than were read.
    """
    counts = Counter()
    unread = 0
    for queue in app.amqp.queues:
        unread += max(0, client.llen(queue) - READ_MESSAGES)
        for message in client.lrange(queue, -READ_MESSAGES, -1):
            counts[read_task(message)] += 1
    return counts, unread


def list_waiting(counts, unread):
    """Return a phrase that names the waiting messages."""
    parts = []
    for name, count in counts.items():
        parts.append(f"{count} of {name}" if name else f"{count} unreadable")
    if unread:
        parts.append(f"{unread} more")
    return ", ".join(parts)


def describe_taken(client):
    """Say how many messages a killed worker has left."""
    taken = client.hlen("unacked")
    if taken:
        print(
            f"{taken} taken and unfinished: a worker that was killed had these messages. They go"
            " back into the queue after the visibility timeout, an hour unless you set it."
        )


def describe_messages(app, client, number):
    """Say which messages wait and what this worker does with them; wait if it drops some."""
    counts, unread = count_waiting(app, client)
    if not counts:
        return
    sentences = [f"Waiting in the queue: {list_waiting(counts, unread)}"]
    unreadable = counts.pop(None, 0)
    unknown = sorted(counts.keys() - app.tasks.keys())
    if len(counts) > len(unknown):
        sentences.append("this worker runs them")
    if unknown:
        sentences.append(f"this worker doesn't know {', '.join(unknown)} and throws those away")
    if unreadable:
        sentences.append("an unreadable message ends the worker; start it again")
    sentences.append(f"make chapter-{number}-purge drops them all")
    if unknown:
        sentences.append("press Ctrl-C within 5 seconds to keep them")
    print(f"{'; '.join(sentences)}.", flush=True)
    if unknown:
        time.sleep(5)


def read_task(message):
    """Return the name of the task that a message calls, or None if Celery didn't write it."""
    try:
        return str(json.loads(message)["headers"]["task"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def prepare(number, options=(), in_containers=False):
    """Check the code and the servers before workers start in the current folder; exit if needed.

    Returns the files that the worker has loaded, as loaded_files does, and the client whose
    connection marks this process as a worker while it is open, or None.
    """
    app = require_app()
    folder = str(Path.cwd())
    files = loaded_files(folder)
    if not app:
        return files, None
    client = connect(app, "broker_url")
    connect(app, "result_backend")
    if client:
        node = ""
        if not in_containers:
            node = find_node(options)
        mark = Mark(folder, node, files)
        if not check_workers(app, client, mark, number):
            describe_taken(client)
        describe_messages(app, client, number)
    return files, client
