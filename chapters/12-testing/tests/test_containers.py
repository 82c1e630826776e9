"""The app in containers, by pytest-celery: one for Redis, one for a worker, which is killed.

TEST_IMAGE names an image of the worker's Python and packages.
"""

import gc
import os
from pathlib import Path

import pytest
from pytest_celery import (
    DEFAULT_WORKER_VOLUME,
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryWorkerContainer,
    RedisTestBackend,
)
from pytest_docker_tools import container, fxtr

IMAGE = os.environ.get("TEST_IMAGE", "")
APP = Path(__file__).parent.parent
ENTER = "tasks.ledger.enter_request"
pytestmark = pytest.mark.skipif(
    not IMAGE, reason="needs Docker, and an image that TEST_IMAGE names"
)


class WorkerContainer(CeleryWorkerContainer):
    """What pytest-celery should start: our worker, on a copy of our files."""

    @classmethod
    def command(cls, *args, **options):
        return ["celery", "-A", "tasks", "worker", "--loglevel=info"]

    @classmethod
    def initial_content(cls, **options):
        files = {str(path.relative_to(APP)): path.read_bytes() for path in APP.rglob("*.py")}
        files["celeryconfig.py"] += b'\nbroker_transport_options = {"visibility_timeout": 1}\n'
        return files


default_worker_container = container(
    image=IMAGE,
    command=fxtr("default_worker_command"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
    working_dir="/tmp",
    wrapper_class=WorkerContainer,
)


@pytest.fixture
def default_worker_container_cls():
    return WorkerContainer


@pytest.fixture
def default_redis_broker_ports():
    """Publish the port of Redis to this machine alone."""
    return {"6379/tcp": ("127.0.0.1",)}


@pytest.fixture
def celery_broker_cluster(celery_redis_broker):
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(default_redis_broker):
    """Keep the results in the broker's Redis."""
    return CeleryBackendCluster(RedisTestBackend(default_redis_broker))


@pytest.fixture
def celery_setup_app(celery_setup_app, default_redis_broker, monkeypatch):
    """Return the test's client, with the container's URL in place of the memory's."""
    [port] = default_redis_broker.ports["6379/tcp"]
    for name in "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND":
        monkeypatch.setenv(name, f"redis://127.0.0.1:{port}/0")
    yield celery_setup_app
    gc.collect()  # a result that is deleted after its Redis has gone looks for it, for 20 seconds


def test_a_killed_worker_loses_nothing(celery_setup):
    app, worker = celery_setup.app, celery_setup.worker
    assert app.send_task(ENTER, ("pay", 2000), queue="ledger").get(timeout=20) == 2000.0
    held = app.send_task(ENTER, ("rent", -500), queue="ledger", countdown=3)
    worker.assert_log_exists(f"{ENTER}[{held.id}] received")
    worker.kill()
    worker.restart()
    assert held.get(timeout=20) == 1500.0
