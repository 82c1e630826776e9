"""What the fixtures of celery.contrib.pytest do for our app, in memory and with Redis.

test_12_testing.py runs these tests with the chapter's tests/conftest.py.
"""

import os

import pytest
from celery.exceptions import TimeoutError as CeleryTimeout

from tasks import add_request, enter_request

# Where our app finds the URL of Redis; in memory, it is in the environment as well.
URL_IN = os.environ.get("URL_IN", "environment")


@pytest.fixture(scope="session")
def celery_config():
    """Let it look for a message in memory more often than once a second."""
    return {"broker_transport_options": {"polling_interval": 0.01}}


def test_its_app_is_another(celery_worker, celery_app):
    assert celery_worker.app is celery_app
    assert celery_app is not add_request.app
    assert not celery_app.conf.task_acks_late


@pytest.mark.skipif(URL_IN == "settings", reason="elsewhere")
def test_it_runs_what_is_in_its_queue(celery_worker):
    assert add_request.delay(4, 4).get(timeout=10) == 8
    with pytest.raises(CeleryTimeout):
        enter_request.delay("pay", 1).get(timeout=1)


@pytest.mark.skipif(URL_IN != "settings", reason="elsewhere")
def test_it_does_not_know_the_url_in_our_settings(celery_worker):
    with pytest.raises(CeleryTimeout):
        add_request.delay(4, 4).get(timeout=2)
