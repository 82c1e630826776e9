"""The replays in a browser: where calls are and what notes say is worked out here once more."""

import json
import re

import pytest
from conftest import LESSONS

from course.chapters import ROOT

# A phrase of a note, in which boxes the call is then, and in which it isn't.
PHRASES = {
    "begins to listen": ("prompt", "queue unacked taken process results"),
    "waits in queue": ("queue", "unacked taken process"),
    "is a new message": ("queue process", "unacked"),
    "worker, not the prompt, sends": ("queue prompt", "process"),
    "process is dead": ("", "process"),
    "back into the queue": ("queue", "unacked taken"),
    "The worker takes": ("unacked taken", "queue"),
    "isn't running yet, and Redis keeps a copy": ("unacked taken", "process"),
    "acknowledges .+ before it starts, so Redis drops": ("taken", "unacked process queue"),
    "process starts": ("process", "taken"),
    "nowhere in Redis": ("process", "queue unacked"),
    "is there, so Redis can drop its copy": ("results", "unacked process"),
    "has no copy any more": ("process", "queue unacked"),
    "keeps its copy until it has finished": ("process unacked", "queue"),
    "process has finished": ("results", "process"),
    "keeps the result": ("results", ""),
    "The result of .* is there": ("results", ""),
    "Next, the process adds it": ("results process", ""),
    "RETRY, and the process is free": ("taken results", "process"),
    "has failed, and is gone": ("results", "queue unacked taken process"),
    "joined the chord, and the process is free": ("results", "process"),
    "results have joined": ("results", ""),
    "one more thing to do": ("process", ""),
    "learns that .+ started": ("prompt process results", "taken"),
    "learns that .+ tried again": ("prompt taken unacked results", "process"),
    "has (its|an exception for an) answer": ("prompt results", "queue taken"),
}
# What each event changes outside of the worker: the box that the call enters, and that it leaves.
CHANGES = {
    "wait": ("prompt", ""),
    "send": ("queue", ""),
    "take": ("unacked", "queue"),
    "back": ("queue", "unacked"),
    "ack": ("", "unacked"),
    "store": ("results", ""),
}
READ_ITEMS = """items => items.map(item =>
    [item.dataset.call, item.parentNode.dataset.box.split(' ')[0], item.textContent])"""


def read_events(names):
    """Return the events of recordings in the order of their times."""
    events = []
    for name in names:
        [path] = ROOT.glob(f"tests/test_*/{name}.json")
        recorded = json.loads(path.read_text())
        assert recorded == sorted(recorded, key=lambda event: event["t"]), f"{path.name}: its order"
        events += recorded
    return sorted(events, key=lambda event: event["t"])


def find_boxes(history):
    """Return the boxes outside of the worker in which a call is after its events."""
    boxes = set()
    for event in history:
        enter, leave = CHANGES.get(event["what"], ("", ""))
        boxes = (boxes | {enter}) - {leave, ""}
    return boxes


def assert_note(note, event, later, shown):
    """Fail unless each phrase of a note is known, and true of the boxes and the event."""
    for clause in re.split(r"(?<=[.]) ", note):
        found = [claim for phrase, claim in PHRASES.items() if re.search(phrase, clause)]
        assert found, f"PHRASES should say when this is true: {clause}"
        for inside, outside in found:
            assert set(inside.split()) <= shown.keys(), f"False, as it is in {shown}: {note}"
            assert not set(outside.split()) & shown.keys(), f"False, as it is in {shown}: {note}"
    numbers = {str(event.get(key)) for key in ("kept", "number", "size")}
    numbers |= {f"{other['t'] - event['t']:.2g}" for other in later if other["what"] == "store"}
    for number in re.findall(r"(\d\S*) (?:s\b|of|results)", note):
        assert number in numbers, f"{event} has no {number}: {note}"


def assert_kill(lane, shown):
    """Fail unless a lane says which of its calls only the worker has."""
    sentence = lane.locator(".kill").text_content()
    for id in lane.locator("li").evaluate_all("items => items.map(item => item.dataset.call)"):
        boxes = shown[id]
        in_redis = boxes.keys() & {"queue", "unacked"}
        for box in boxes.keys() & {"taken", "process"}:
            assert (boxes[box] not in sentence) == bool(in_redis), f"False, as {boxes}: {sentence}"


@pytest.mark.parametrize("page", ["390 light"], indirect=True)
@pytest.mark.parametrize("name", ["README.html", *LESSONS])
def test_replays_are_true_and_work_by_keys(page, name):
    page.emulate_media(reduced_motion="reduce")
    page.goto(name)
    for player in page.locator(".replay").all():
        lanes = player.locator(".lane").all()
        events = read_events(lane.get_attribute("data-name") for lane in lanes)
        player.get_by_role("slider").focus()
        for number, event in enumerate(events, start=1):
            shown = {other["id"]: {} for other in events}
            for id, box, text in player.locator("li").evaluate_all(READ_ITEMS):
                shown[id][box] = text
            history = [other for other in events[:number] if other["id"] == event["id"]]
            later = [other for other in events[number:] if other["id"] == event["id"]]
            boxes = shown[event["id"]]
            outside = boxes.keys() - {"taken", "process"}
            assert outside == find_boxes(history), f"{outside} shouldn't be, after {history}."
            if event["what"] == "arrive" and event["state"] == "SUCCESS":
                assert boxes["prompt"].endswith(f": {event['value']}"), f"{event}: {boxes}"
            assert_note(player.get_by_role("status").text_content(), event, later, boxes)
            crowded = player.locator("[data-box^=process] li:nth-child(2)").all_text_contents()
            assert not crowded, f"A process runs one call at a time, but also runs {crowded}."
            for lane in lanes:
                assert_kill(lane, shown)
            last = player.locator("pre").text_content().splitlines()[-1]
            assert f"{event['t']:.3f} " in last, f"The last line should be of {event}: {last}"
            page.keyboard.press("ArrowRight")


@pytest.mark.parametrize("page", ["1400 light"], indirect=True)
def test_a_replay_plays_and_shows_when_a_kill_loses_the_call(page):
    page.goto("README.html")
    slider = page.get_by_role("slider")
    page.get_by_role("button", name="Step").click()
    assert slider.input_value() == "1", "A click on Step should lead to the second event."
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.replay input').value === '3'")
    page.get_by_role("button", name="Pause").click()
    for sentence in ("For 10 s, the call is nowhere in Redis", "would now lose add(4, 4)."):
        page.get_by_text(sentence).wait_for()
