"""Malformed messages between good ones, and calls with unusual values. What ends Celery is shown as well."""

import base64
import json
import pickle
import re

import pytest
from checkout import ROUNDS
from course import expect, expect_gives, expect_raises, wait_until

CHAPTER = "5-canvas"
MALFORMED = min(10_000, 1000 * len(ROUNDS))
ADD = "tasks.math.add_request"


def message(body="[[1, 2], {}, {}]", **changes):
    """A message as Celery sends it; `headers__task="x"` changes its header `task`."""
    encoded = base64.b64encode(body if isinstance(body, bytes) else body.encode()).decode()
    whole = {
        "body": encoded,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": ADD, "id": "an-id", "root_id": "an-id", "argsrepr": "", "kwargsrepr": ""},
        "properties": {
            "correlation_id": "an-id",
            "delivery_tag": "a-tag",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "body_encoding": "base64",
        },
    }  # fmt: skip
    for path, value in changes.items():
        *way, last = path.split("__")
        inner = whole
        for step in way:
            inner = inner[step]
        inner[last.replace("_type", "-type") if not way else last] = value
    return json.dumps(whole)


SURVIVED = {
    "no headers": message(headers={}),
    "unknown task": message(headers__task="tasks.nothing"),
    "task is null": message(headers__task=None),
    "body is not JSON": message("nonsense"),
    "body is not UTF-8": message(b"\xff\xfe["),
    "arguments are a number": message("[5, {}, {}]"),
    "arguments are null": message("[null, null, null]"),
    "too many arguments": message("[[1, 2, 3], {}, {}]"),
    "keywords are a list": message("[[1, 2], [], {}]"),
    "pickle": message(pickle.dumps(((1, 2), {}, {})), content_type="application/x-python-serialize"),
    "YAML": message("- [1, 2]", content_type="application/x-yaml"),
    "unknown content": message(content_type="application/nothing"),
    "wrong date": message(headers__eta="tomorrow"),
    "deep": message("[" * 100_000),
    "10 MB": message(json.dumps([["x" * 10_000_000, "y"], {}, {}])),
    "10 MB of nonsense": message("x" * 10_000_000),
}
# These end the worker, and are gone with it.
ENDS = {
    "not JSON": "nonsense",
    "empty": "",
    "pickle, bare": pickle.dumps((1, 2)),
    "a number": "42",
    "null": "null",
    "no properties": message(properties=None),
    "body is not base64": re.sub('(?<="body": ")[^"]*', "abcde", message()),
}
# These end every worker that takes them, as they go back into the queue.
COMES_BACK = {
    "body is a number": message("5"),
    "body is null": message("null"),
    "body is too short": message("[]"),
    "id is a list": message(headers__id=[7]),
    "task is a list": message(headers__task=["x"]),
    "expires is a list": message(headers__expires=[]),
    "time limit is text": message(headers__timelimit="x"),
}


def test_good_messages_between_malformed_are_answered(worker, app, redis):
    small = [text for name, text in SURVIVED.items() if "10 MB" not in name and name != "deep"]
    good = []
    for number in range(MALFORMED):
        redis.lpush("celery", small[number % len(small)])
        if number % 500 == 0:
            good.append(app.tasks[ADD].delay(number, 1))
    for number, result in enumerate(good):
        found = result.get(timeout=240)
        expect(found == number * 500 + 1, f"Between malformed messages {number * 500} + 1 gave {found!r}.")
    expect(worker.container.status == "running", "The worker should be up.")


@pytest.mark.parametrize("kind", SURVIVED)
def test_worker_survives(worker, app, redis, kind):
    redis.lpush("celery", SURVIVED[kind])
    expect_gives(f"A task behind a message ({kind})", app.tasks[ADD].delay(4, 4), 8)
    expect(worker.container.status == "running", f"The worker should survive this message: {kind}.")


def expect_ends(worker, kind):
    ended = wait_until(lambda: worker.container.status == "exited", 20)
    expect(ended, f"Celery is known to end at this message ({kind}), and did not: the lesson can say so.")


@pytest.mark.own_worker()
@pytest.mark.parametrize("kind", ENDS)
def test_worker_ends_and_the_next_goes_on(worker, app, place, redis, kind):
    redis.lpush("celery", ENDS[kind])
    result = app.tasks[ADD].delay(4, 4)
    expect_ends(worker, kind)
    place.add_worker()
    expect_gives("The task behind it", result, 8)


@pytest.mark.own_worker()
@pytest.mark.parametrize("kind", COMES_BACK)
def test_worker_ends_and_so_does_the_next_until_it_is_purged(worker, app, place, redis, kind):
    redis.lpush("celery", COMES_BACK[kind])
    app.tasks[ADD].delay(4, 4)
    expect_ends(worker, kind)
    expect(redis.llen("celery") == 2, "Both messages should be in the queue again.")
    if kind == "body is too short":  # once is enough to show what the next one does
        second = place.add_worker()
        expect(wait_until(lambda: second.status == "exited", 20), "The next worker should end as well.")
    app.control.purge()
    place.add_worker()
    expect_gives("A task after the purge", app.tasks[ADD].delay(4, 4), 8)


@pytest.mark.parametrize(
    "name, arguments, wanted",
    [
        ("add", (10**30, 1), 10**30 + 1),
        ("mul", (10**15, 10**15), 10**30),
        ("add", ("a", "b"), "ab"),
        ("mul", ("ab", 2), "abab"),
        ("add", (0.1, 0.2), 0.1 + 0.2),
        ("divide", (1, 3), 1 / 3),
        ("sub", (True, 1), 0),
        ("add", (1e308, 1e308), float("inf")),
        ("xsum", (list(range(10_000)),), sum(range(10_000))),
        ("xsum", ([],), 0),
    ],
)
def test_right_value(celery_setup, app, name, arguments, wanted):
    expect_gives(
        f"{name}{arguments!r}"[:60], app.tasks[f"tasks.math.{name}_request"].delay(*arguments), wanted
    )


def test_nan(celery_setup, app):
    found = app.tasks[ADD].delay(float("nan"), 1).get(timeout=10)
    expect(found != found, f"NaN + 1 should be NaN, it is {found!r}.")  # noqa: PLR0124  only NaN differs from itself


@pytest.mark.parametrize(
    "name, arguments, error",
    [
        ("add", (4, "4"), TypeError),
        ("add", (None, 1), TypeError),
        ("sub", ("a", "b"), TypeError),
        ("mul", ([], {}), TypeError),
        ("divide", (1, 0), ZeroDivisionError),
        ("divide", (1.0, 0.0), ZeroDivisionError),
        ("divide", (10**400, 1), OverflowError),
        ("xsum", (5,), TypeError),
        ("xsum", (["a"],), TypeError),
    ],
)
def test_right_exception(celery_setup, app, name, arguments, error):
    with expect_raises(error, f"{name}{arguments!r} should raise {error.__name__}"[:200]):
        app.tasks[f"tasks.math.{name}_request"].delay(*arguments).get(timeout=10)
