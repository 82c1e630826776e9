"""Chapter 13's section on Django: the project in test_13_django_project, which a worker serves."""

import json
import shutil
import subprocess

import pytest
from support.assertions import wait_until_ready
from support.names import ALONE
from support.nodes import TESTS, AppUnderTest
from support.page_server import PageServer

from course.environment import PINNED, PROGRAMS, free_port
from course.waiting import wait_until

pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="Django isn't in the worker's image: make test"
)
# Runs in the project, in another process, and prints what it found as JSON.
PROBE = """
import json
from functools import partial
from celery import signals
from django.db import transaction
from django.test import RequestFactory
from project import celery_app
celery_app.loader.import_default_modules()
from sums.models import Sum
from sums.tasks import add_up

sent = []
sent_in_transaction = []
found = {}

@signals.before_task_publish.connect
def note(headers, **_):
    sent.append(headers["id"])
    sent_in_transaction.append(transaction.get_connection().in_atomic_block)

with transaction.atomic():
    early = add_up.delay(str(Sum.objects.create(numbers=[1, 2]).id))
    early.get(timeout=10, propagate=False)
found["before the commit"] = early.state, type(early.result).__name__

sent.clear()
try:
    with transaction.atomic():
        kept = Sum.objects.create(numbers=[1, 2])
        transaction.on_commit(partial(add_up.delay, str(kept.id)))
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
sent_in_transaction.clear()
send(RequestFactory().post("/sums", b"[1, 2]", content_type="application/json"))
found["sent inside a transaction"] = sent_in_transaction
found["result_expires"] = str(celery_app.conf.result_expires)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def project(nodes, tmp_path_factory):
    """A copy of the project, with its tables and a worker, which may not be ready yet."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "db.sqlite3*")
    folder = shutil.copytree(
        TESTS / "test_13_django_project",
        tmp_path_factory.mktemp("django") / "project",
        ignore=ignored,
    )
    made = AppUnderTest(nodes, folder, count=0)
    run_python(made, "manage.py", "migrate", "--run-syncdb")
    worker = made.start("celery", "-A", "project", "worker", "--loglevel=info", "-c", "2", *ALONE)
    made.workers.append(worker)
    yield made
    made.close()


def run_python(app_under_test, *words):
    """Run Python in the project's folder; return what it printed."""
    done = subprocess.run(
        [PROGRAMS / "python", *words],
        cwd=app_under_test.folder,
        env=app_under_test.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"python {words[0]} should exit with 0, but it exited with {done.returncode}: {done.stderr}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def probe(project):
    """What PROBE found."""
    wait_until_ready(project.workers[0])
    return json.loads(run_python(project, "-c", PROBE))


def test_the_same_in_django(project):
    port = free_port()
    server = project.start("python", "-u", "manage.py", "runserver", "--noreload", str(port))
    wait_until(lambda: "Quit the server" in server.logs() or server.status == "exited", 20)
    site = PageServer(port)
    logs = wait_until_ready(project.workers[0]).logs()
    assert "sums.tasks.add_up" in logs, (
        f"The worker should list sums.tasks.add_up, but it doesn't.\n{logs}"
    )
    path = site.send([1, 2.5])
    wait_until(lambda: site.state(path) != {"state": "PENDING"}, 10)
    site.assert_state(path, {"state": "SUCCESS", "result": 3.5}, "when Django's worker has done it")
    status, _, _ = site.ask("/sums/11111111-2222-4333-8444-555555555555")
    assert status == 404, f"Django should answer 404 for an unknown id, but it answered {status}."


def test_the_view_sends_after_the_commit(probe):
    found = probe["sent inside a transaction"]
    assert found == [False], (
        "The view should send one message, after the transaction, but the list of whether each was"
        f" sent in a transaction is {found}."
    )


def test_settings_that_begin_with_celery(probe):
    found = probe["result_expires"]
    assert found == "3600", (
        f"CELERY_RESULT_EXPIRES should set the app's result_expires to 3600, but it is {found}."
    )


def test_a_message_before_the_commit(probe):
    found = probe["before the commit"]
    assert found == ["FAILURE", "DoesNotExist"], (
        "A task that runs before the commit should find no row and fail with DoesNotExist, but its"
        f" state and exception are {found}."
    )


def test_on_commit_sends_nothing_after_a_rollback(probe):
    found = probe["after a rollback"]
    assert found == 0, f"After a rollback no message should be sent, but {found} were."


def test_delay_on_commit(probe):
    found = probe["has delay_on_commit"]
    if PINNED:
        assert not found, "Celery 5.1 should have no delay_on_commit, but it does."
        return
    assert found, "Celery 5.7 should have delay_on_commit, but it doesn't."
    messages = probe["in the transaction"]
    assert messages == 0, (
        f"delay_on_commit should send no message before the commit, but it sent {messages}."
    )
    result = probe["after the commit"]
    assert result == 3, f"delay_on_commit should send the task, but its result is {result}, not 3."
