"""Chapter 5: two workers share a group, and one of them is stopped. What becomes of a killed one is in chapter 6's tests."""

import time

import pytest
from celery import group
from course import wait_until


@pytest.mark.isolated(count=2, slow_tasks=True)
def test_worker_that_is_stopped_gives_back_what_it_holds(celery_setup, app):
    nap = app.tasks["slow.nap"]
    result = group(nap.s(0.5, number) for number in range(12)).delay()
    # In the middle of a nap: a worker that ends in the instant in which it takes a message loses it.
    wait_until(lambda: result.completed_count() >= 4, 30)
    time.sleep(0.2)
    celery_setup.worker.kill("SIGTERM")
    # No message waits for the visibility timeout, which is an hour.
    found = result.get(timeout=60)
    assert found == list(range(12)), f"The group should give all its results in order, but it gave {found}."
    shares = [each.logs().count("nap of 0.5 s") for each in celery_setup.worker_cluster]
    assert all(shares), f"Both workers should run some of the group's tasks, but they ran {shares}."
