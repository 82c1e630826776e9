"""Chapter 14's exercise refuses a compose.yml that can't work, and accepts other right ways."""

import shutil

import pytest
from support.compose_files import (
    App,
    assert_dollars,
    assert_files_are_kept,
    assert_flower_can_start,
    assert_image_has_no_password,
    assert_no_ping_for_others,
    assert_redis_is_asked_with_its_password,
    assert_worker_is_asked_alone,
)

from course.chapters import ROOT, find_chapter
from course.environment import PINNED

CHAPTER = ROOT / "chapters" / find_chapter(14)
QUEUES = ["celery", "ledger", "rates"]
PING = "celery -A tasks inspect ping --destination celery@$$HOSTNAME --timeout 5"
OPEN_PAGE = (
    "python -c \"import urllib.request as r; r.urlopen('http://127.0.0.1:8000', timeout=5)\""
)
ASK_REDIS = "REDISCLI_AUTH=$$(cat /run/secrets/redis_password) redis-cli ping | grep PONG"
COPY_ALL = ("COPY *.py page.html /app/", "COPY . /app")
# What is wrong: the file, its right text, the wrong one, and words of the sentence that refuses it.
FAULTS = {
    "a single dollar": ("compose.yml", "$$HOSTNAME", "$HOSTNAME", "single $"),
    "no volume for the ledger": (
        "compose.yml",
        'volumes: ["ledger:/data"]',
        "labels: {}",
        "ledger should have a volume at /data",
    ),
    "a folder of root's": (
        "Dockerfile",
        "RUN useradd celery && install -d -o celery /data",
        "RUN useradd celery",
        "runs as celery in /data, and can't write there",
    ),
    "a ping without the password": (
        "compose.yml",
        ASK_REDIS,
        "redis-cli ping",
        "should give redis-cli the password",
    ),
    "a ping for the page": ("compose.yml", OPEN_PAGE, PING, "web's health check should look at"),
    "a ping for beat": (
        "compose.yml",
        "find /data -mmin -10 -name 'celerybeat-schedule*' | grep .",
        PING,
        "beat's health check should look at",
    ),
    "the password in the image": (
        "Dockerfile",
        *COPY_ALL,
        "secrets/redis_password should stay out of the image",
    ),
    "a worker that any other speaks for": (
        "compose.yml",
        " --destination celery@$$HOSTNAME",
        "",
        "should ask this worker alone",
    ),
}
FLOWER = ("compose.yml", "python -m flower -A tasks flower", "celery -A tasks flower")
RIGHT = {
    "as in the chapter": ("compose.yml", "x-app", "x-app"),
    "a list": ("compose.yml", f"test: {ASK_REDIS}", f'test: ["CMD-SHELL", "{ASK_REDIS}"]'),
    "a long volume": (
        "compose.yml",
        '["ledger:/data"]',
        "[{type: volume, source: ledger, target: /data}]",
    ),
    "a folder by mkdir and chown": (
        "Dockerfile",
        "install -d -o celery /data",
        "mkdir /data \\\n    && chown celery:celery /data",
    ),
    "all that .dockerignore lets through": ("Dockerfile", *COPY_ALL),
    "a short list of what to ignore": (".dockerignore", None, "secrets\n.venv\n"),
}


def assert_app_works(folder):
    """Fail with a sentence if something would keep the app from working."""
    app = App(folder)
    assert_dollars(app)
    assert_files_are_kept(app, QUEUES)
    assert_no_ping_for_others(app)
    assert_worker_is_asked_alone(app)
    assert_redis_is_asked_with_its_password(app)
    assert_image_has_no_password(app)
    assert_flower_can_start(app)


def copy_with(place, file, old, new):
    """Return a copy of the chapter with another text in a file."""
    ignored = shutil.ignore_patterns("__pycache__", "secrets", "*.db*")
    folder = shutil.copytree(CHAPTER, place / "copy", ignore=ignored)
    text = (folder / file).read_text()
    if old is None:
        old = text
    assert old in text, f"{file} should have {old!r}."
    (folder / file).write_text(text.replace(old, new))
    return folder


def message_of(folder):
    """Return the sentence that refuses a folder, or ""."""
    try:
        assert_app_works(folder)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused(name, tmp_path):
    file, old, new, wanted = FAULTS[name]
    folder = copy_with(tmp_path, file, old, new)
    if name == "the password in the image":
        (folder / ".dockerignore").unlink()
    found = message_of(folder)
    assert wanted in found, f"{name} should be refused with {wanted!r}, but the check says: {found}"


def test_a_flower_that_celery_5_1_doesnt_know_is_refused(tmp_path):
    found = message_of(copy_with(tmp_path, *FLOWER))
    wanted = ""
    if PINNED:
        wanted = "flower should run `python -m flower -A tasks flower`"
    assert found.startswith(wanted) and bool(found) == PINNED, f"The check says: {found}"


@pytest.mark.parametrize("name", RIGHT)
def test_another_right_way_is_accepted(name, tmp_path):
    found = message_of(copy_with(tmp_path, *RIGHT[name]))
    assert not found, f"{name} should be accepted, but the check says: {found}"
