"""Chapter 7: what several workers share, and what each has to itself. What becomes of a killed one is in chapter 6's tests."""

import time

import pytest
from celery import group
from support.assertions import assert_result, wait_until_ready

from course.chapters import ROOT, display_path
from course.environment import PROGRAMS
from course.waiting import wait_until


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
    assert found == list(range(12)), (
        f"The group should give all its results in order, it gave {found}."
    )
    shares = [each.logs().count("nap of 0.5 s") for each in celery_setup.worker_cluster]
    assert all(shares), f"Both workers should run some of the group's tasks, they ran {shares}."


@pytest.mark.isolated(args=["-X", "ledger", "-n", "typed@%h"])
def test_make_starts_two_workers_beside_another(request, celery_setup, app, app_under_test, number):
    """The look before a start accepts them, as they are of one chapter, though each takes other messages."""
    if request.config.option.docker:
        pytest.skip("make starts a worker on this machine: make test")
    make = [PROGRAMS / "python", "-m", "course", "worker", number]
    for options in ["-Q", "ledger", "-c", "1"], ["-X", "ledger", "-n", "second@%h", "-c", "1"]:
        started = app_under_test.nodes.worker(
            f"make{options[0]}-{app_under_test.database}",
            [*make, *options],
            ROOT,
            app_under_test.variables,
        )
        app_under_test.workers.append(started)
    for started in app_under_test.workers:
        wait_until_ready(started)
    found = app.control.inspect(timeout=10, limit=3).active_queues()
    taken = sorted(queue["name"] for queues in found.values() for queue in queues)
    assert taken == ["celery", "celery", "ledger"], (
        f"Three workers should take these queues: {taken}."
    )


@pytest.mark.isolated(args=["-Q", "leger"])
def test_a_worker_with_a_misspelt_queue_ends(app_under_test):
    [worker] = app_under_test.workers
    wait_until(lambda: worker.status == "exited", 10)
    assert worker.status == "exited" and "leger" in worker.logs(), (
        f"A worker of {display_path(app_under_test.folder)} with -Q leger should end and name the queue.\n{worker.logs()}"
    )


@pytest.mark.isolated(slow_tasks=True, args=["-X", "ledger"])
def test_a_rate_limit_is_each_workers_own(celery_setup, app, app_under_test):
    wait_until_ready(app_under_test.add_worker(["-X", "celery", "-Q", "ledger", "-n", "second@%h"]))
    nap = app.tasks["slow.nap"]
    told = app.control.rate_limit("slow.nap", "1/s", reply=True, timeout=10, limit=2)
    assert len(told) == 2, f"Two workers should confirm the new rate limit, these did: {told}"
    begin = time.monotonic()
    results = [
        nap.apply_async((0,), queue=queue) for queue in ("celery", "ledger") for _ in range(3)
    ]
    for result in results:
        assert_result("slow.nap", result, None)
    seconds = time.monotonic() - begin
    assert 1.5 < seconds < 4, (
        f"Two workers should run three tasks each in two seconds at 1/s, and not six in five; it took {seconds:.1f}."
    )
