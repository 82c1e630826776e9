"""Show, live, what travels through Redis between client, broker, worker and result backend.

It is read from MONITOR, which can halve a server's speed: it is for learning, not for production.
"""

import argparse
import json
import os
import signal
import sys
import time

import redis

from course.environment import URLS, port_url
from course.events import Reader, parse_command
from course.sentences import join_line, sentence

PAUSE = 3  # seconds without an event, after which the clock starts again
LONG_PAUSE = 60  # the same, while a task is unfinished
PATIENCE = 0.3  # seconds that a line is held back until its group is known
IN_FULL = 2  # members of a group that are shown in full
FINAL_STATES = ("SUCCESS", "FAILURE", "REVOKED")
DIM = 2
COLOURS = (36, 33, 35, 32, 34, 31)
COUNTED = {
    "send": "sent",
    "take": "taken",
    "ack": "acknowledged",
    "store": "results stored",
    "join": "joined the chord",
    "arrive": "results arrived",
    "back": "went back",
}


def completes_chord(event):
    """Return whether an event is the last result that joins a chord."""
    return event["what"] == "join" and event["number"] == event.get("size")


class JsonPrinter:
    """Prints each event as a line of JSON, with seconds since the first."""

    def __init__(self):
        self.begin = None

    def show(self, event):
        if self.begin is None:
            self.begin = event["t"]
        event["t"] = round(event["t"] - self.begin, 3)
        print(json.dumps(event), flush=True)

    def flush(self):
        """Do nothing: no line is held back."""


class Printer:
    """Prints events as lines for people: the first members of a group in full, the rest counted."""

    def __init__(self):
        self.coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.begin = None
        self.last = 0.0
        self.workers = set()
        self.unfinished = set()  # ids of tasks
        self.colours = {}  # by task id
        self.waits = {}  # events that are held back, by task id
        self.members = {}  # ids of the members that are shown in full, by group
        self.held = []  # events of other members

    def show(self, event):
        """Print an event, or hold it back."""
        if event["what"] == "wait":
            self.waits[event["id"]] = event
            return
        wait = self.waits.pop(event["id"], None)
        if self.ends_group(event):
            self.print_held()
        if self.is_counted(event):
            self.held.append(event)
            return
        if wait:
            self.print_event(wait)
        self.print_event(event)

    def ends_group(self, event):
        """Return whether an event isn't one of the group whose events are held back."""
        if completes_chord(event) or not self.held:
            return True
        return self.held[0]["group"] != event.get("group")

    def is_counted(self, event):
        """Return whether an event is only counted, as one of a group's later members."""
        group = event.get("group")
        if not group or completes_chord(event):
            return False
        members = self.members.setdefault(group, [])
        if event["id"] not in members and len(members) < IN_FULL:
            members.append(event["id"])
        return event["id"] not in members

    def flush(self):
        """Print what is held back."""
        for wait in self.waits.values():
            self.print_event(wait)
        self.waits = {}
        self.print_held()

    def print_held(self):
        """Print the events that are held back: those of one member in full, else their counts."""
        held = self.held
        self.held = []
        ids = {event["id"] for event in held}
        if len(ids) == 1:
            for event in held:
                self.print_event(event)
        elif held:
            counts = []
            for what, text in COUNTED.items():
                number = sum(event["what"] == what for event in held)
                if number:
                    counts.append(f"{number} {text}")
            # Members that are shown in full may have had a line since.
            seconds = max(held[-1]["t"], self.last)
            self.print_line(seconds, "", f"{len(ids)} more of the group: {', '.join(counts)}")
        for event in held:
            self.note_state(event)

    def print_event(self, event):
        """Print an event in full."""
        if event.get("worker"):
            self.workers.add(event["worker"])
        route, text = sentence(event, self.name_worker(event))
        self.print_line(event["t"], route, text, event["id"])
        self.note_state(event)

    def name_worker(self, event):
        """Return the name of an event's worker if there are several, without what they share."""
        name = event.get("worker")
        if not name or len(self.workers) < 2:
            return "worker"
        short_names = {worker.partition("@")[0] for worker in self.workers}
        if len(short_names) == len(self.workers):
            return name.partition("@")[0]
        return name

    def note_state(self, event):
        """Remember whether the event's task is unfinished."""
        if event.get("state") in FINAL_STATES:
            self.unfinished.discard(event["id"])
        elif event["what"] in ("send", "take", "back"):
            self.unfinished.add(event["id"])

    def print_line(self, seconds, route, text, task_id=""):
        """Print a line with its time, after a blank line and from zero if there was a pause."""
        pause = LONG_PAUSE if self.unfinished else PAUSE
        if self.begin is None:
            self.begin = seconds
        elif seconds - self.last > pause:
            print()
            self.begin = seconds
        self.last = seconds
        if self.coloured:
            text = f"\033[{self.choose_colour(task_id)}m{text}\033[0m"
        print(join_line(max(0, seconds - self.begin), route, text), flush=True)

    def choose_colour(self, task_id):
        """Return the number of a task's colour; neighbours differ."""
        if not task_id:
            return DIM
        if task_id not in self.colours:
            self.colours[task_id] = COLOURS[len(self.colours) % len(COLOURS)]
        return self.colours[task_id]


def read_events(connection, database, reader, printer):
    """Print the events of a connection that monitors, until it fails."""
    while True:
        if not connection.can_read(timeout=PATIENCE):
            printer.flush()
            continue
        command = parse_command(connection.read_response())
        if not command or command.database != database:
            continue
        event = reader.event(command)
        if event:
            printer.show(event)


def watch(url, printer):
    """Print what travels through a database, forever; wait while the server is away."""
    # With less than a megabyte at a time, redis-py takes seconds to read a message of 10 MB.
    options = {"encoding_errors": "replace", "decode_responses": True, "socket_read_size": 2**20}
    client = redis.Redis.from_url(url, socket_timeout=None, **options)
    database = client.connection_pool.connection_kwargs.get("db") or 0
    reader = Reader()
    greeting = f"What travels through {url}; Ctrl-C ends this."
    while True:
        connection = client.connection_pool.make_connection()
        try:
            connection.send_command("MONITOR")
            connection.read_response()
            if greeting:
                print(greeting, file=sys.stderr, flush=True)
            greeting = ""
            read_events(connection, database, reader, printer)
        except redis.ConnectionError as error:
            if greeting != "Redis is back.":
                problem = f"No Redis answers at {url} ({error})"
                print(f"{problem}: waiting; make redis starts one.", file=sys.stderr, flush=True)
            greeting = "Redis is back."
            time.sleep(0.5)
        finally:
            connection.disconnect()


def main(*words):
    """Watch the database of a URL, or else the learner's; with --json, print events as JSON."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="make messages", description=__doc__)
    parser.add_argument("url", nargs="?", help="redis://HOST:PORT/DATABASE")
    parser.add_argument("--json", action="store_true", help="print one event a line, as JSON")
    arguments = parser.parse_args(words)
    usual = os.environ.get(URLS[0]) or port_url()
    printer = JsonPrinter() if arguments.json else Printer()
    try:
        watch(arguments.url or usual, printer)
    except redis.RedisError as error:
        sys.exit(f"Redis refuses ({error}): set {URLS[0]} to redis://:PASSWORD@HOST:PORT/0.")
    except KeyboardInterrupt:
        sys.exit(130)
