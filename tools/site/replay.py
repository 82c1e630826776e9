"""Replays: for each event of a recording, the calls in each box, a note, and a line."""

import json
import re
from collections import defaultdict
from html import escape

from course.chapters import ROOT
from course.sentences import join_line, sentence

DIRECTIVE = re.compile(r"<!-- replay: ([a-z ]+): (.+) -->")
NOTES = {
    "wait": "The prompt begins to listen for the answer to {call}.",
    "send": "{call} waits in queue '{queue}', which is a list in Redis.",
    "send again": "The task sends {call} again, for later: a retry is a new message.",
    "send body": "All results are there, so the worker, not the prompt, sends the chord's body.",
    "back": "The process is dead. The worker noticed, and puts {call} back into the queue.",
    "take": "The worker takes {call}. It isn't running yet, and Redis keeps a copy.",
    "take again": "The worker takes {call}, and holds it until its time has come.",
    "ack": "The worker acknowledges {call} before it starts, so Redis drops its copy.",
    "ack start": "A process starts {call}. For {seconds:.2g} s, the call is nowhere in Redis.",
    "ack late": "The result of {call} is there, so Redis can drop its copy of the call.",
    "store STARTED": "A process starts {call}, of which Redis has no copy any more.",
    "store STARTED late": "A process starts {call}. Redis keeps its copy until it has finished.",
    "store SUCCESS": "The process has finished {call}. Redis keeps the result for {kept} s.",
    "store part": "The result of {call} is there. Next, the process adds it to the chord.",
    "store RETRY": "The state is RETRY, and the process is free for other calls.",
    "store FAILURE": "The process is dead. The worker noticed: {call} has failed, and is gone.",
    "join": "{number} of {size} results have joined the chord, and the process is free.",
    "join last": "{number} of {size} results have joined. The process has one more thing to do.",
    "arrive STARTED": "The prompt learns that {call} has been started.",
    "arrive RETRY": "The prompt learns that {call} will be tried again.",
    "arrive FAILURE": "The prompt has an exception for an answer.",
    "arrive SUCCESS": "The prompt has its answer.",
}
# The boxes that a call leaves and enters. It is in two while the worker has it and Redis a copy.
MOVES = {
    "wait": ("", "prompt"),
    "send": ("", "queue"),
    "send body": ("process", "queue"),
    "back": ("unacked process", "queue"),
    "take": ("queue", "unacked taken"),
    "ack": ("unacked", ""),
    "ack start": ("unacked taken", "process"),
    "store": ("process results", "results"),
    "store STARTED": ("taken results", "process results"),
    "store STARTED late": ("taken results", "process results"),
    "store part": ("results", "results"),
    "join": ("process", ""),
    "join last": ("", ""),
    "arrive": ("", ""),
}
# Whose the boxes are, and their titles.
OWNERS = {
    "Your prompt": {"prompt": "calls and answers"},
    "Redis": {"queue": "queue", "unacked": "unacked (copies)", "results": "results"},
    "Worker": {"taken": "taken", "process": "process"},
}


class Recording:
    """A recording's events; boxes has the ids of the calls in each box, after one of them."""

    def __init__(self, name):
        [path] = ROOT.glob(f"tests/test_*/{name}.json")
        self.events = json.loads(path.read_text())
        # Without STARTED, an acknowledgement tells of a start, because it comes early then.
        self.is_tracked = any(event.get("state") == "STARTED" for event in self.events)
        self.is_chord = any(event["what"] == "join" for event in self.events)
        self.boxes = defaultdict(list)
        self.most = {}  # calls that were in a box at a time
        self.answers = {}  # by the pair of a box and an id
        self.calls = {}
        for event in self.events:
            if "call" in event:
                call = re.sub(r"^[\w.]+\.", "", event["call"])
                self.calls[event["id"]] = re.sub(r"\[.+\]", "[…]", call)

    def find_stored(self, number):
        """Return the next result of the call of the event of this number, or nothing."""
        for event in self.events[number:]:
            if event["what"] == "store" and event["id"] == self.events[number]["id"]:
                return event
        return {}

    def name_step(self, event, stored):
        """Return the key in NOTES of what an event means here."""
        match event:
            case {"what": "send" | "take", "until": _}:
                return f"{event['what']} again"
            case {"what": "send", "sender": "worker"}:
                return "send body"
            case {"what": "ack"} if not stored:
                return "ack late"
            case {"what": "ack"} if not self.is_tracked:
                return "ack start"
            case {"what": "store", "state": "STARTED"} if event["id"] in self.boxes["unacked"]:
                return "store STARTED late"
            case {"what": "store", "group": _} if self.is_chord:
                return "store part"
            case {"what": "join", "number": number, "size": size} if number == size:
                return "join last"
            case {"what": "store" | "arrive"}:
                return f"{event['what']} {event['state']}"
        return event["what"]

    def move(self, step, event, stored):
        """Take the call of an event out of its boxes, and put it into others."""
        leave, enter = MOVES.get(step, MOVES[event["what"]])
        for box, ids in self.boxes.items():
            if box.startswith(tuple(leave.split())):
                ids[:] = [id for id in ids if id != event["id"] and step != "send body"]
        worker = event.get("worker", "")
        names = {"queue": event.get("queue"), "taken": worker}
        names["process"] = f"{stored.get('process')} {worker}"
        for kind in enter.split():
            self.boxes[f"{kind} {names.get(kind, '')}".strip()].append(event["id"])

    def explain_kill(self):
        """Return what a kill of the worker would lose: what it has, and Redis has no copy of."""
        held = {"queue": set(), "unacked": set(), "taken": set(), "process": set()}
        for box, ids in self.boxes.items():
            held.setdefault(box.split()[0], set()).update(ids)
        safe = held["queue"] | held["unacked"]
        risky = held["taken"] | held["process"]
        lost = [self.calls[id] for id in self.calls if id in risky - safe]
        if not safe and not risky:
            return ""
        return f"A kill of the worker would now lose {' and '.join(lost) or 'nothing'}."

    def list_items(self, box):
        """Return what a box shows: the ids of calls, and their texts, with the answers it has."""
        items = [[id, self.calls[id] + self.answers.get((box, id), "")] for id in self.boxes[box]]
        self.most[box] = max(len(items), self.most.get(box, 1))
        return items

    def play(self):
        """Yield what the player shows after each event."""
        for number, event in enumerate(self.events):
            stored = self.find_stored(number)
            step = self.name_step(event, stored)
            self.move(step, event, stored)
            if "state" in event:
                box = {"store": "results", "arrive": "prompt"}.get(event["what"])
                answer = {"SUCCESS": event["value"]}.get(event["state"], event["state"])
                self.answers[box, event["id"]] = f": {answer}"
            known = {"call": self.calls[event["id"]], "seconds": stored.get("t", 0) - event["t"]}
            yield {
                "line": join_line(event["t"], *sentence(event, event.get("worker", "worker"))),
                "t": event["t"],
                "note": NOTES[step].format_map(event | known),
                "kill": self.explain_kill(),
                "boxes": {box: self.list_items(box) for box in self.boxes},
            }

    def draw(self):
        """Return the HTML of the boxes that a call was in, in columns, and without a call."""
        columns = ""
        for owner, kinds in OWNERS.items():
            columns += f"<div><b>{owner}</b>"
            for kind, title in kinds.items():
                for box in sorted(self.boxes):
                    if box.startswith(kind):
                        name = title + box.removeprefix(kind)
                        place = f'data-box="{box}" style="--most: {self.most[box]}"'
                        columns += f"<section>{escape(name)}<ul {place}></ul></section>"
            columns += "</div>"
        return f'{columns}<p class="kill"></p>'


def draw(names, caption):
    """Return the HTML of a player that shows recordings side by side."""
    frames = []
    lanes = ""
    for name in names:
        recording = Recording(name)
        frames += [frame | {"name": name} for frame in recording.play()]
        lanes += f'<div class="lane" data-name="{name}">{recording.draw()}</div>'
    if len(names) > 1:
        for frame in frames:
            frame["note"] = f"{frame['name'].capitalize()}: {frame['note']}"
    frames.sort(key=lambda frame: frame["t"])
    lines = escape("\n".join(frame["line"] for frame in frames))
    data = json.dumps(frames, ensure_ascii=False).replace("<", "\\u003c")
    return f"""<figure class="replay"><figcaption>{escape(caption)}</figcaption>
<div class="lanes">{lanes}</div><p role="status"></p>
<div class="controls"><button>Play</button><button value="-1">Back</button>
<button value="1">Step</button><input type="range" max="{len(frames) - 1}" aria-label="Step"></div>
<pre>{lines}</pre><script type="application/json">{data}</script></figure>"""
