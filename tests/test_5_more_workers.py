"""Chapter 5: workers that share a group, and what becomes of it when one of them ends."""

import time

import pytest
from celery import group
from course import expect, wait_until

CHAPTER = "5-canvas"


@pytest.mark.own_worker(count=2, probe=True, settings={"worker_prefetch_multiplier": 1})
def test_two_workers_share_a_group(celery_setup, app):
    nap = app.tasks["probe.nap"]
    found = group(nap.s(0.2, number) for number in range(8)).delay().get(timeout=15)
    expect(found == list(range(8)), f"A group on two workers should keep its order, it gave {found}.")
    workers = celery_setup.worker_cluster
    wait_until(lambda: sum(each.logs().count("succeeded") for each in workers) == 8, 3)
    shares = [each.logs().count("Task probe.nap[") // 2 for each in workers]
    expect(all(shares), f"Both workers should run some of the group's tasks, they ran {shares}.")


def start_naps(app):
    """Start a group of 12 naps of half a second on two workers; return its result in the middle of the second four.

    A worker that ends in the instant in which it takes a message loses it, so not while messages are taken.
    """
    nap = app.tasks["probe.nap"]
    result = group(nap.s(0.5, number) for number in range(12)).delay()
    wait_until(lambda: result.completed_count() >= 4, 30)
    time.sleep(0.2)
    return result


def expect_all_naps(result):
    found = result.get(timeout=60)
    expect(found == list(range(12)), f"The group should give all its results, it gave {found}.")


@pytest.mark.own_worker(count=2, probe=True)
def test_worker_that_is_stopped_gives_back_what_it_holds(celery_setup, app):
    result = start_naps(app)
    celery_setup.worker.kill("SIGTERM")
    # No message waits for the visibility timeout, which is an hour.
    expect_all_naps(result)


@pytest.mark.own_worker(count=2, probe=True, settings={"broker_transport_options": {"visibility_timeout": 3}})
def test_messages_of_a_killed_worker_come_back(celery_setup, app, place, redis):
    result = start_naps(app)
    celery_setup.worker.kill()
    killed = time.monotonic()
    wait_until(lambda: result.completed_count() > 7 and redis.llen("celery") == 0, 20)
    time.sleep(max(0, killed + 3.1 - time.monotonic()))
    left = redis.hlen("unacked")
    expect(0 < left <= 8, f"What a killed worker held should wait in Redis: up to 8 messages, not {left}.")
    # A worker looks for such messages when it starts, and then every 100 seconds.
    place.add_worker(["-n", "another@%h"])
    expect_all_naps(result)
