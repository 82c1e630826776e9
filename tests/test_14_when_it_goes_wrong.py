"""chapters/when-it-goes-wrong.md: what newcomers search for is what Celery says.

The tests in tests/resilience make the rest happen.
"""

import os
import sys
import uuid

import pytest
from celery import Celery
from celery.app import trace
from support.assertions import describe
from support.checkout import docker, needs_docker
from support.names import ALONE
from support.nodes import AppUnderTest

from course.chapters import ROOT
from course.environment import PINNED, free_port
from course.waiting import wait_until

PAGE = ROOT / "chapters" / "when-it-goes-wrong.md"
RABBITMQ = "amqp://guest:**@127.0.0.1:5672//"
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the words are Linux' own")


@pytest.fixture(scope="module", autouse=True)
def only_celery():
    if "DIR" in os.environ:
        pytest.skip("these tests are about Celery, and not about an attempt")


@pytest.fixture(scope="module")
def folder():
    return ROOT / "tests" / "test_14_app"


def own_app(**settings):
    """Return an app that no other test sees."""
    app = Celery("own", set_as_current=False)
    app.conf.update(settings)
    return app


def assert_listed(message):
    """Fail unless a heading of the page quotes this."""
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("### ")]
    assert any(message in heading for heading in headings), (
        f"A heading of {PAGE.name} should quote {message!r}."
    )


def assert_says(function, message):
    """Fail unless a call raises an exception with this text, which a heading of the page quotes."""
    try:
        found = function()
    except Exception as error:  # noqa: BLE001  the test is about any
        found = describe(error)
    assert message in str(found), f"Celery should say {message!r}, but it says {found!r}."
    assert_listed(message)


def test_no_result_backend(monkeypatch):
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    result = own_app().AsyncResult("id")
    message = "'DisabledBackend' object has no attribute '_get_task_meta_for'"
    assert_says(lambda: result.state, message)
    assert_says(lambda: result.result, message)
    assert_says(result.ready, message)


@pytest.mark.parametrize("settings", [{}, {"broker_ur": "redis://127.0.0.1:6379/0"}])
def test_no_broker(settings, monkeypatch):
    """An app without a broker, or with a misspelt one, is an app for RabbitMQ."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    found = own_app(**settings).connection().as_uri()
    wanted = RABBITMQ.replace("127.0.0.1", "localhost")
    assert found == wanted, f"Without a broker, the address should be {wanted}, but it is {found}."


@pytest.mark.skipif(
    "config.option.docker", reason="the image of the workers lacks what this app imports"
)
def test_a_worker_of_an_app_without_a_broker(nodes, folder):
    """A free port takes the place of RabbitMQ's, where a RabbitMQ may listen."""
    port = free_port()
    url = f"amqp://guest:guest@127.0.0.1:{port}//"
    app_under_test = AppUnderTest(nodes, folder, args=ALONE, env={"CELERY_BROKER_URL": url})
    try:
        [worker] = app_under_test.workers
        message = f"Cannot connect to {RABBITMQ}"
        said = message.replace("5672", str(port))
        assert wait_until(lambda: said in worker.logs(), worker.ready_timeout), (
            f"The worker should say {said!r}, but it says {worker.logs()}."
        )
        assert_listed(message)
    finally:
        app_under_test.close()


def test_prefork_without_fork():
    """On Windows, a process of the pool lacks what the worker has prepared, as this one does."""
    message = "worker task registry is empty"
    if PINNED:
        message = "not enough values to unpack (expected 3, got 0)"
    assert_says(lambda: trace.fast_trace_task("two.add", "id", {}, "", "", ""), message)


@only_on_linux
def test_the_name_of_no_service():
    """Which words it is depends on the network."""
    app = own_app(broker_url="redis://redis.invalid:6379/0")
    app.conf.broker_transport_options = {"max_retries": 0}
    try:
        app.connection().default_channel.client.ping()
    except Exception as error:  # noqa: BLE001  the test is about any
        found = describe(error)
    else:
        found = "nothing"
    messages = ["Temporary failure in name resolution", "Name or service not known"]
    assert any(message in found for message in messages), (
        f"Celery should say one of {messages}, but it says {found!r}."
    )
    for message in messages:
        assert_listed(message)


ASK = """
from celery import Celery
connection = Celery(broker="redis://{host}:6379/0").connection()
connection.transport_options = {{"max_retries": 0}}
try:
    connection.default_channel.client.ping()
except Exception as error:
    print(error)
"""


@needs_docker
@pytest.mark.parametrize(
    "host, message",
    [("localhost", "Cannot assign requested address"), ("127.0.0.1", "Connection refused")],
)
def test_the_wrong_host_in_a_container(host, message):
    from support.containers import IMAGE

    name = f"course-{uuid.uuid4().hex[:12]}"
    said = docker("run", "--rm", "--name", name, IMAGE, "python", "-c", ASK.format(host=host))
    assert message in said, f"With {host}, a container should say {message!r}, but it says {said}."
    assert_listed(message)
