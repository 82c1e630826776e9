"""Chapter 11's section on Django: the project in test_11_django_project, with a worker and a server of its own."""

import json
import shutil
import subprocess

import pytest
from support.assertions import wait_until_ready
from support.nodes import TESTS, AppUnderTest
from test_11_web import Site

from course.environment import PROGRAMS, STACK, free_port
from course.waiting import wait_until

pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="Django isn't in the worker's image: make test"
)
# What the project's own prompt is asked, in a process of its own: it prints what it found, as JSON.
ASKED = """
import json
from celery import signals
from django.db import transaction
from django.test import RequestFactory
from project import celery_app
celery_app.loader.import_default_modules()
from sums.models import Sum
from sums.tasks import add_up

sent, found = [], {}
signals.before_task_publish.connect(lambda headers, **_: sent.append(headers["id"]), weak=False)

with transaction.atomic():
    early = add_up.delay(str(Sum.objects.create(numbers=[1, 2]).id))
    early.get(timeout=10, propagate=False)
found["before the commit"] = early.state, type(early.result).__name__

sent.clear()
try:
    with transaction.atomic():
        kept = Sum.objects.create(numbers=[1, 2])
        transaction.on_commit(lambda: add_up.delay(str(kept.id)))
        raise LookupError
except LookupError:
    found["after a rollback"] = len(sent)

found["has delay_on_commit"] = hasattr(add_up, "delay_on_commit")
if found["has delay_on_commit"]:
    with transaction.atomic():
        add_up.delay_on_commit(str(Sum.objects.create(numbers=[1, 2]).id))
        found["in the transaction"] = len(sent)
    [id] = sent
    found["after the commit"] = celery_app.AsyncResult(id).get(timeout=10)

from sums.views import send
inside = []
signals.before_task_publish.connect(
    lambda **_: inside.append(transaction.get_connection().in_atomic_block), weak=False
)
send(RequestFactory().post("/sums", b"[1, 2]", content_type="application/json"))
found["sent inside a transaction"] = inside
found["result_expires"] = str(celery_app.conf.result_expires)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def project(nodes, tmp_path_factory):
    """A copy of the project, whose database has its tables, with a worker that isn't waited for."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "db.sqlite3*")
    folder = shutil.copytree(
        TESTS / "test_11_django_project",
        tmp_path_factory.mktemp("django") / "project",
        ignore=ignored,
    )
    made = AppUnderTest(nodes, folder, count=0)
    run(made, "manage.py", "migrate", "--run-syncdb")
    alone = ["--without-mingle", "--without-gossip"]
    made.workers.append(
        made.start("celery", "-A", "project", "worker", "--loglevel=info", "-c", "2", *alone)
    )
    yield made
    made.close()


def run(app_under_test, *words):
    """Run Python in the project's folder; return what it printed."""
    command, at = (
        [PROGRAMS / "python", *words],
        {"cwd": app_under_test.folder, "env": app_under_test.env},
    )
    done = subprocess.run(command, **at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"python {words[0]} should succeed. It said: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prompt(project):
    """What the project's prompt found."""
    wait_until_ready(project.workers[0])
    return json.loads(run(project, "-c", ASKED))


def test_the_same_in_django(project):
    port = free_port()
    server = project.start("python", "-u", "manage.py", "runserver", "--noreload", str(port))
    wait_until(lambda: "Quit the server" in server.logs() or server.status == "exited", 20)
    site = Site(port)
    assert "sums.tasks.add_up" in wait_until_ready(project.workers[0]).logs(), (
        "The worker should list sums.tasks.add_up."
    )
    path = site.send([1, 2.5])
    wait_until(lambda: site.ask(path)[2] != {"state": "PENDING"}, 10)
    site.tells(path, {"state": "SUCCESS", "result": 3.5}, "when Django's worker has done it")
    status, _, _ = site.ask("/sums/11111111-2222-4333-8444-555555555555")
    assert status == 404, f"Django should answer 404 for an unknown id, it answered {status}."


def test_the_view_sends_after_the_commit(prompt):
    found = prompt["sent inside a transaction"]
    assert found == [False], (
        f"The view should send one message, outside of a transaction; inside: {found}."
    )


def test_settings_that_begin_with_celery(prompt):
    found = prompt["result_expires"]
    assert found == "3600", (
        f"CELERY_RESULT_EXPIRES should be the app's result_expires, 3600, which is {found}."
    )


def test_a_message_before_the_commit(prompt):
    found = prompt["before the commit"]
    assert found == ["FAILURE", "DoesNotExist"], (
        f"A task that runs before the commit should find no row, and raise DoesNotExist: {found}."
    )


def test_on_commit_sends_nothing_after_a_rollback(prompt):
    found = prompt["after a rollback"]
    assert found == 0, f"After a rollback nothing should be sent, {found} messages were."


def test_delay_on_commit(prompt):
    found = prompt["has delay_on_commit"]
    assert found == (STACK == "latest"), (
        f"delay_on_commit should be in Celery 5.7, and not in 5.1: {found}."
    )
    if found:
        then = prompt["in the transaction"], prompt["after the commit"]
        assert then == (0, 3), (
            f"delay_on_commit should send after the commit alone: {then} should be (0, 3)."
        )
