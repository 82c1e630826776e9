"""Show, live, what travels through Redis between client, broker, worker and result backend: a line each.

It is read from Redis' own MONITOR, without what only keeps Celery going. MONITOR costs a server up to half its speed:
it is for learning, not for production.
"""

import ast
import json
import os
import re
import sys
import time
from collections import Counter

import redis

from course.environment import URLS, redis_port

LINE = re.compile(r"([\d.]+) \[(\d+) \S+\] (.*)", re.DOTALL)  # seconds, database, words
WORD = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL
)  # without a step back: words may have 10 MB
RESULT, CHORD = "celery-task-meta-", "celery-taskset-meta-"
WIDTH = 60  # characters of an argument or a result that are shown
UNREADABLE = (ValueError, TypeError, LookupError, RecursionError)


def cut(text):
    """Return a text on one line, cut where it is long."""
    text = " ".join(str(text)[: 9 * WIDTH].split())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def read(text):
    """Return a message's headers, its delivery tag, and the call that it makes with the beginning of its id."""
    try:
        message = json.loads(text)
        message = message[0] if isinstance(message, list) else message
        headers, tag = dict(message["headers"]), str(message["properties"]["delivery_tag"])
    except UNREADABLE:
        headers, tag = {}, None
    if not headers.get("task"):
        return headers, tag, f"an unreadable message ({cut(text)})"
    keywords = headers.get("kwargsrepr")
    keywords = f" {keywords}" if keywords not in (None, "{}") else ""
    arguments = f"{headers.get('argsrepr') or '(…)'}{keywords}"
    return headers, tag, f"{cut(headers['task'])}{cut(arguments)} {str(headers.get('id'))[:8]}"


def result(text, at=None):
    """Return the state and the value that a stored result has."""
    try:
        found = json.loads(text)
        state, value = (found[at], found[at + 1]) if at else (found["status"], found["result"])
        if isinstance(value, dict) and "exc_type" in value:
            value = f"{value['exc_type']}: {' '.join(map(str, value['exc_message']))}"
        return f"{state} {cut(value)}"
    except UNREADABLE:
        return f"something unreadable ({cut(text)})"


class Watch:
    """Turns commands into sentences; remembers which messages are taken or on their way back, and a chord's results."""

    def __init__(self):
        self.taken, self.joined, self.returning, self.waited = {}, Counter(), set(), set()

    def sentence(self, words):
        """Return the line that a command deserves, or None."""
        match [words[0].upper(), *words[1:]]:
            case ["LPUSH" | "RPUSH", queue, text, *_] if not queue.endswith(".pidbox"):
                headers, tag, name = read(text)
                queue = queue.partition("\x06")[0]  # a queue has a list for each priority
                if tag in self.returning:
                    self.returning.remove(tag)
                    return f"worker → broker   {name} goes back into queue '{queue}'"
                sender = (
                    "worker" if headers.get("parent_id") or headers.get("retries") else "client"
                )
                held = f" until {headers['eta']}" if headers.get("eta") else ""
                return f"{sender} → broker   {name} waits in queue '{queue}'{held}"
            case ["HSET", "unacked", tag, text]:
                self.taken[tag] = name = read(text)[2]
                return f"broker → worker   {name} is taken"
            case ["HGET", "unacked", tag]:
                # Celery reads a taken message in order to put it back: it deletes it next, and then pushes it.
                self.returning.add(tag)
            case ["HDEL", "unacked", tag]:
                name = self.taken.pop(tag, None)
                return (
                    name
                    and tag not in self.returning
                    and f"worker → broker   {name} is acknowledged"
                )
            case ["SUBSCRIBE", key] if key.startswith(RESULT) and key not in self.waited:
                self.waited.add(key)
                return f"client … backend  waits for {key[len(RESULT) :][:8]}"
            case ["SETEX", key, _, text] | ["SET", key, text, *_] if key.startswith(RESULT):
                seconds = words[2:3] if words[0].upper() == "SETEX" else words[4:]
                kept = f"kept for {seconds[0]} s" if seconds else "kept for ever"
                return f"worker → backend  {result(text)} for {key[len(RESULT) :][:8]}, {kept}"
            case ["ZADD", key, _, text] if key.startswith(CHORD) and key.endswith(".j"):
                self.joined[key] += 1
                chord = f"the chord {key[len(CHORD) :][:8]}, number {self.joined[key]}"
                return f"worker → backend  {result(text, 2)} joins {chord}"


def watch(url):
    """Print what travels through a database, for ever; goes on after a restart of the server."""
    # With less than a megabyte at a time, redis-py reads a message of 10 MB for several seconds.
    options = {"encoding_errors": "replace", "decode_responses": True, "socket_read_size": 2**20}
    client = redis.Redis.from_url(
        url, socket_timeout=None, **options
    )  # redis 8 waits 5 seconds otherwise
    database = client.connection_pool.connection_kwargs.get("db") or 0
    monitor, begin, lost = Watch(), None, False
    while True:
        connection = client.connection_pool.make_connection()
        try:
            connection.send_command("MONITOR")
            connection.read_response()
            print(
                "Redis is back." if lost else f"What travels through {url}; Ctrl-C ends this.",
                flush=True,
            )
            lost = False
            while True:
                line = LINE.match(connection.read_response())
                if not line or int(line[2]) != database:
                    continue
                # A word is quoted as in C, which is how Python writes bytes.
                words = [ast.literal_eval("b" + word) for word in WORD.findall(line[3])]
                if sentence := monitor.sentence([word.decode(errors="replace") for word in words]):
                    begin = begin or float(line[1])
                    shown = "".join(
                        each if each.isprintable() else "?" for each in sentence[: 9 * WIDTH]
                    )
                    print(f"{float(line[1]) - begin:8.3f}  {shown}", flush=True)
        except redis.ConnectionError as error:
            if not lost:
                print(
                    f"No Redis answers at {url} ({error}): waiting; make redis starts one.",
                    flush=True,
                )
            lost = True
            time.sleep(0.5)
        finally:
            connection.disconnect()


def main(url=""):
    url = url or os.environ.get(URLS[0]) or f"redis://127.0.0.1:{redis_port()}/0"
    try:
        watch(url)
    except redis.RedisError as error:
        sys.exit(f"Redis refuses ({error}): set {URLS[0]} to redis://:PASSWORD@HOST:PORT/0.")
    except KeyboardInterrupt:
        sys.exit(130)
