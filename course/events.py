"""Read commands of Redis, as MONITOR shows them, into events: a message waits, is acknowledged.

An event is a dict of plain JSON values. `what` is one of: wait (a client waits for a result), send,
take, back (a message goes back into its queue), ack, store, join (a result joins a chord), arrive
(a result reaches the client that waits for it). Commands that only keep Celery going give no event.
"""

import ast
import base64
import json
import re
from dataclasses import dataclass

from course.clients import Clients

LINE = re.compile(r"([\d.]+) \[(\d+) (\S+)\] (.*)", re.DOTALL)  # seconds, database, client, words
# The possessive quantifiers avoid backtracking: a word may have 10 MB.
WORD = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
RESULT_PREFIX = "celery-task-meta-"
CHORD_PREFIX = "celery-taskset-meta-"
PRIORITY_SEPARATOR = "\x06\x16"
SHOWN = 60  # characters of an argument, a result or a malformed message
BIG = 100_000  # characters of a body that isn't decoded
# Their events name the worker that took the task.
DONE_BY_WORKERS = ("take", "ack", "store", "join")
UNREADABLE = (ValueError, TypeError, LookupError, RecursionError)


@dataclass
class Command:
    """A command that a client of Redis sent."""

    time: float
    database: int
    client: str
    words: list[str]


@dataclass
class Message:
    """What a message says of the call that it makes; `call` alone if it can't be read."""

    call: str
    id: str = ""
    tag: str = ""
    group: str = ""
    sender: str = "client"
    until: str | None = None


def shorten(text):
    """Return a value as one line of at most SHOWN printable characters."""
    line = " ".join(str(text)[: 9 * SHOWN].split())
    if len(line) > SHOWN:
        line = line[: SHOWN - 1] + "…"
    return "".join(character if character.isprintable() else "?" for character in line)


def parse_command(line):
    """Return the Command in a line of MONITOR, or None if a script of Redis sent it."""
    match = LINE.match(line)
    if not match:
        return None
    time, database, client, quoted = match.groups()
    # MONITOR quotes a word as C does, which is how Python writes bytes.
    words = [ast.literal_eval("b" + word) for word in WORD.findall(quoted)]
    texts = [word.decode(errors="replace") for word in words]
    return Command(float(time), int(database), client, texts)


def read_arguments(message):
    """Return the arguments of a call as Python shows them, or what the sender gives for display."""
    headers = message["headers"]
    displayed = headers.get("argsrepr") or "(…)"
    if headers.get("kwargsrepr") not in (None, "", "{}"):
        displayed += f" {headers['kwargsrepr']}"
    try:
        if len(message["body"]) > BIG:
            return displayed
        positional, keywords, _ = json.loads(base64.b64decode(message["body"]))
        parts = [repr(value) for value in positional]
        parts += [f"{name}={value!r}" for name, value in keywords.items()]
    except (*UNREADABLE, AttributeError):
        return displayed
    return f"({', '.join(parts)})"


def read_message(text):
    """Return the Message in a queue's JSON text."""
    try:
        message = json.loads(text)
        if isinstance(message, list):  # as it is kept while it is taken
            message = message[0]
        headers = dict(message["headers"])
        tag = str(message["properties"]["delivery_tag"])
    except UNREADABLE:
        return Message(f"an unreadable message ({shorten(text)})")
    if not headers.get("task"):
        return Message(f"an unreadable message ({shorten(text)})", tag=tag)
    sender = "client"
    if headers.get("parent_id") or headers.get("retries"):
        sender = "worker"
    return Message(
        call=shorten(headers["task"]) + shorten(read_arguments(message)),
        id=shorten(headers.get("id")),
        tag=tag,
        group=str(headers.get("group") or ""),
        sender=sender,
        until=headers.get("eta") or None,
    )


def describe_value(value):
    """Return a result for display, or an exception as Type: message."""
    if isinstance(value, dict) and "exc_type" in value:
        message = " ".join(str(part) for part in value["exc_message"])
        return shorten(f"{value['exc_type']}: {message}")
    return shorten(value)


def read_result(text):
    """Return the state and value of a stored result's JSON text."""
    try:
        result = json.loads(text)
        return {"state": str(result["status"]), "value": describe_value(result["result"])}
    except UNREADABLE:
        return {"state": "something unreadable", "value": f"({shorten(text)})"}


def read_joined_result(text):
    """Return the task's id, state and value of a member's JSON text in a chord."""
    try:
        _, task_id, state, value = json.loads(text)
        return {"id": str(task_id), "state": str(state), "value": describe_value(value)}
    except UNREADABLE:
        return {"id": "", "state": "something unreadable", "value": f"({shorten(text)})"}


class Reader:
    """Turns commands into events; remembers what earlier commands have shown."""

    def __init__(self):
        self.clients = Clients()
        self.taken = {}  # Messages, by delivery tag
        self.returning = set()  # delivery tags
        self.workers = {}  # the name of the worker that took a task, by the task's id
        self.groups = {}  # by task id
        self.waiting = set()  # ids of tasks
        self.joined = {}  # how many results, by the chord's key
        self.sizes = {}  # by the chord's key
        self.processes = {}  # numbers, by client address

    def event(self, command):
        """Return the event that a command means, or None."""
        found = self.find_event(command)
        if found is None:
            return None
        event = {"t": command.time, **found}
        if event["what"] in DONE_BY_WORKERS:
            event["worker"] = self.workers.get(event["id"])
        event["group"] = self.groups.get(event["id"])
        # What isn't known is left out.
        return {name: value for name, value in event.items() if value is not None}

    def find_event(self, command):
        """Return the event without its time and group, or None."""
        name = command.words[0].upper()
        key = command.words[-1]
        if len(command.words) > 1:
            key = command.words[1]
        if key.startswith(RESULT_PREFIX):
            return self.find_result_event(command, name, key)
        if key.startswith(CHORD_PREFIX):
            return self.find_chord_event(command, name, key)
        if name == "PUBLISH" and key.endswith(("/worker.online", "/worker.heartbeat")):
            self.clients.hear(command.words[-1])
        return self.find_message_event(command, name, key)

    def find_message_event(self, command, name, key):
        match [name, key, *command.words[2:]]:
            case ["LPUSH" | "RPUSH", queue, text, *_] if not queue.endswith(".pidbox"):
                return self.send(command, queue.partition(PRIORITY_SEPARATOR)[0], text)
            case ["HSET", "unacked", tag, text]:
                return self.take(command, tag, read_message(text))
            case ["HGET", "unacked", tag]:
                # A taken message is read only to put it back: it is deleted next, then pushed.
                self.returning.add(tag)
            case ["HDEL", "unacked", tag]:
                return self.acknowledge(tag)
        return None

    def find_result_event(self, command, name, key):
        match [name, *command.words[2:]]:
            case ["SUBSCRIBE"]:
                return self.wait(key)
            case ["PUBLISH", text]:
                return self.arrive(key, text)
            case ["SETEX", kept, text] | ["SET", text, "EX", kept]:
                return self.store(command, key, text, int(kept))
            case ["SET", text]:
                return self.store(command, key, text, None)
        return None

    def find_chord_event(self, command, name, key):
        chord, _, part = key.rpartition(".")
        match [name, part, *command.words[2:]]:
            case ["SETEX", "s", _, size] | ["SET", "s", size, *_]:
                self.sizes[chord] = int(size)
            case ["ZADD", "j", _, text]:
                return self.join(command, chord, text)
        return None

    def send(self, command, queue, text):
        message = read_message(text)
        event = {"what": "send", "id": message.id, "call": message.call, "queue": queue}
        if message.tag in self.returning:
            self.returning.remove(message.tag)
            return event | {"what": "back", "sender": self.clients.find_kind(command.client)}
        # Celery 5.7 sends a chord's body in the group of its members.
        if message.group and not self.is_complete(message.group):
            self.groups[message.id] = message.group
        return event | {"sender": message.sender, "until": message.until}

    def take(self, command, tag, message):
        self.taken[tag] = message
        self.clients.workers.add(command.client)
        self.workers[message.id] = self.clients.find_name(command.client)
        return {"what": "take", "id": message.id, "call": message.call, "until": message.until}

    def acknowledge(self, tag):
        message = self.taken.pop(tag, None)
        if message is None or tag in self.returning:
            return None
        return {"what": "ack", "id": message.id, "call": message.call}

    def wait(self, key):
        task_id = key.removeprefix(RESULT_PREFIX)
        if task_id in self.waiting:
            return None
        self.waiting.add(task_id)
        return {"what": "wait", "id": task_id}

    def store(self, command, key, text, kept):
        event = {"what": "store", "id": key.removeprefix(RESULT_PREFIX), **read_result(text)}
        return event | {"kept": kept, "process": self.number_process(command.client)}

    def arrive(self, key, text):
        task_id = key.removeprefix(RESULT_PREFIX)
        if task_id not in self.waiting:
            return None
        return {"what": "arrive", "id": task_id, **read_result(text)}

    def join(self, command, chord, text):
        self.joined[chord] = self.joined.get(chord, 0) + 1
        event = {"what": "join", **read_joined_result(text)}
        event["chord"] = chord.removeprefix(CHORD_PREFIX)
        event["number"] = self.joined[chord]
        event["size"] = self.sizes.get(chord)
        event["process"] = self.number_process(command.client)
        return event

    def is_complete(self, group):
        """Return whether all results of a chord have joined it."""
        key = CHORD_PREFIX + group
        return key in self.sizes and self.joined.get(key) == self.sizes[key]

    def number_process(self, client):
        """Return the number of a worker's process: 1 is the first that stored a result."""
        return self.processes.setdefault(client, len(self.processes) + 1)
