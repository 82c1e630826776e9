"""Chapter 13's section on Django: the project in test_13_django_project, which a worker serves."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest
from support.assertions import wait_until_ready
from support.names import ALONE
from support.nodes import TESTS, AppUnderTest
from support.page_server import BAD_BODIES, OwnRedis, PageServer, assert_refused

from course.environment import PINNED, PROGRAMS, free_port
from course.waiting import wait_until

pytestmark = pytest.mark.skipif(
    "config.option.docker", reason="Django isn't in the worker's image: make test"
)
PROBE = TESTS / "test_13_django" / "probe.py"
UNKNOWN = "/sums/11111111-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def project(nodes, tmp_path_factory):
    """A copy of the project, with its tables and a worker, which may not be ready yet."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "db.sqlite3*")
    folder = shutil.copytree(
        TESTS / "test_13_django_project",
        tmp_path_factory.mktemp("django") / "project",
        ignore=ignored,
    )
    made = AppUnderTest(nodes, folder, count=0, server=True)
    run_python(made, "manage.py", "migrate", "--run-syncdb")
    worker = made.start("celery", "-A", "project", "worker", "--loglevel=info", "-c", "2", *ALONE)
    made.workers.append(worker)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(project):
    """The project's web server."""
    port = free_port()
    server = project.start("python", "-u", "manage.py", "runserver", "--noreload", str(port))
    wait_until(lambda: "Quit the server" in server.logs() or server.status == "exited", 60)
    return PageServer(port)


def run_python(app_under_test, *words):
    """Run Python in the project's folder; return what it printed."""
    done = subprocess.run(
        [PROGRAMS / "python", *words],
        cwd=app_under_test.folder,
        env=app_under_test.env | {"PYTHONPATH": str(app_under_test.folder)},
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
    """What the probe found."""
    wait_until_ready(project.workers[0])
    return json.loads(run_python(project, str(PROBE)))


def query(project, statement):
    """Run a statement on the project's database, and return the first row if there is one."""
    with closing(sqlite3.connect(project.folder / "db.sqlite3")) as db:
        row = db.execute(statement).fetchone()
        db.commit()
    return row


def count_records(project):
    return query(project, "SELECT count(*) FROM sums_sum")[0]


def finished_sum(project, site):
    """Send a sum, wait for its result, and return its path."""
    logs = wait_until_ready(project.workers[0]).logs()
    assert "sums.tasks.add_up" in logs, (
        f"The worker should list sums.tasks.add_up, but it doesn't.\n{logs}"
    )
    path = site.send([1, 2.5])
    wait_until(lambda: site.state(path) != {"state": "PENDING"}, 60)
    site.assert_state(path, {"state": "SUCCESS", "result": 3.5}, "when Django's worker has done it")
    return path


def test_the_same_in_django(project, site):
    finished_sum(project, site)
    for path in UNKNOWN, "/sums/nothing":
        assert_refused(f"GET {path}, an unknown id,", site.ask(path), 404)


@pytest.mark.parametrize("body", BAD_BODIES)
def test_django_refuses_what_is_no_list_of_numbers(project, site, body):
    before = count_records(project)
    what = f"POST /sums with {body[:20].decode()}"
    assert_refused(what, site.ask("/sums", body), 422)
    added = count_records(project) - before
    assert added == 0, f"{what} should keep no record, but it kept {added}."


def test_django_refuses_a_long_body(site):
    answer = site.ask("/sums", [1] * 50_000)
    assert_refused("POST /sums with 150 KB", answer, 413)


def test_django_says_that_a_sum_has_expired(project, site):
    path = finished_sum(project, site)
    project.backend.client.delete(f"celery-task-meta-{path.removeprefix('/sums/')}")
    site.assert_state(path, {"state": "PENDING"}, "when its result is gone")
    query(project, "UPDATE sums_sum SET asked = datetime(asked, '-61 minutes')")
    assert_refused("GET of a sum that was sent an hour ago", site.ask(path), 410)


def test_django_ends_its_records(project, site):
    path = site.send([1, 2])
    query(project, "UPDATE sums_sum SET asked = datetime(asked, '-25 hours')")
    site.send([1, 2])
    assert_refused("GET of a sum that was sent a day ago", site.ask(path), 404)
    count = count_records(project)
    assert count == 1, f"Records should end after a day, but {count} are left of one."


@pytest.mark.parametrize(
    "origin", ["http://example.com", "http://127.0.0.1:1", "null", "{own}.example.com"]
)
def test_django_refuses_a_foreign_page(project, site, origin):
    origin = origin.format(own=site.url)
    before = count_records(project)
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    answer = site.ask("/sums", [1, 2], headers=headers)
    assert_refused(f"POST /sums with the Origin {origin}", answer, 403)
    added = count_records(project) - before
    assert added == 0, f"A page at {origin} should start no sum, but it started {added}."


def test_django_takes_its_own_page(site):
    answer = site.ask("/sums", [1, 2], headers={"Origin": site.url})
    assert answer.status == 202, (
        f"POST /sums with Django's own Origin should answer 202, but it answered {answer}."
    )


def test_the_view_sends_after_the_commit(probe):
    found = probe["sent by the view"]
    wanted = [[probe["id of the view"], False, True]]
    assert found == wanted, (
        "The view should send one message after the transaction, with the id that it answers and"
        f" a time at which it expires, but (id, in the transaction, expires) is {found}."
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


def test_apply_async_on_commit(probe):
    """Celery has it from 5.4 on; unlike delay_on_commit, it takes the id."""
    found = [probe.get(key) for key in ("sent in the transaction", "chosen id", "result")]
    wanted = [0, True, 3]
    if PINNED:
        wanted = [None, None, None]
    assert found == wanted, (
        "apply_async_on_commit should send nothing before the commit, and then a task with the"
        f" chosen id that returns 3 ({wanted}), but it did {found}."
    )


def test_redis_is_down_in_django(project, site):
    path = finished_sum(project, site)
    redis = OwnRedis(project.broker)
    redis.stop()
    for _ in range(2):
        answer = site.ask("/sums", [1, 2], 3, "while Redis is down")
        assert_refused("POST /sums while Redis is down", answer, 503)
        answer = site.ask(path, None, 3, "while Redis is down")
        assert_refused("GET of a sum while Redis is down", answer, 503)
    redis.start()
    site.send([1, 2])
    redis.freeze()
    answer = site.ask("/sums", [1, 2], when="while Redis doesn't answer")
    assert_refused("POST /sums while Redis doesn't answer", answer, 503)
    answer = site.ask(path, when="while Redis doesn't answer")
    assert_refused("GET of a sum while Redis doesn't answer", answer, 503)
    project.broker.kill("SIGCONT")
