"""The services of each workers.yml share the queues out. `make test-docker` starts them."""

import re

import pytest
import yaml
from support.carried import read_settings, read_tasks
from support.compose_files import Service

from course.chapters import CHAPTERS, PREVIOUS, ROOT, number_of


def read_workers(chapter):
    """Return the services of a chapter's workers.yml that are workers, by their names."""
    content = yaml.safe_load((ROOT / "chapters" / chapter / "workers.yml").read_text())
    workers = {}
    for name, given in content["services"].items():
        variables = given["environment"]
        if "ARGS" in variables and "PROGRAM" not in variables:
            options = variables["ARGS"].replace("${ARGS:-}", "").strip()
            workers[name] = Service(name, given | {"command": f"celery worker {options}"})
    return workers


def read_other_programs(chapter):
    """Return the variables of a chapter's services that run another program, such as beat."""
    content = yaml.safe_load((ROOT / "chapters" / chapter / "workers.yml").read_text())
    programs = {}
    for name, given in content["services"].items():
        if "PROGRAM" in given["environment"]:
            programs[name] = given["environment"]
    return programs


def has_queues(chapter):
    """Return whether a chapter has queues, and a workers.yml."""
    folder = ROOT / "chapters" / chapter
    return (folder / "workers.yml").exists() and "task_queues" in read_settings(chapter)


WITH_QUEUES = [chapter for chapter in CHAPTERS if number_of(chapter) > 1 and has_queues(chapter)]
each_chapter = pytest.mark.parametrize("chapter", WITH_QUEUES)


@each_chapter
def test_each_queue_has_one_service(chapter):
    queues = read_settings(chapter)["task_queues"]
    for queue in queues:
        names = []
        for name, worker in read_workers(chapter).items():
            if queue in worker.queues(queues):
                names.append(name)
        assert len(names) == 1, (
            f"One service of {chapter}/workers.yml should consume from {queue}, but these do:"
            f" {', '.join(names) or 'none'}."
        )


@each_chapter
def test_the_ledger_has_one_process(chapter):
    found = read_workers(chapter)["ledger"].option("-c")
    assert found == "1", f"The ledger of {chapter}/workers.yml should have -c 1, not {found}."


@each_chapter
def test_who_asks_the_bank_has_its_address(chapter):
    queues = read_settings(chapter)["task_queues"]
    queue = "celery"
    if "rates" in queues:
        queue = "rates"
    for name, worker in read_workers(chapter).items():
        if queue in worker.queues(queues):
            assert "http://bank:8099" in worker.variables(), (
                f"{name} of {chapter}/workers.yml should have the bank's address in BANK_URL, but"
                f" its environment is {worker.variables()}."
            )


@each_chapter
def test_a_stop_waits_for_the_longest_task(chapter):
    limits = [options["time_limit"] or 0 for options in read_tasks(chapter).values()]
    for name, worker in read_workers(chapter).items():
        seconds = worker.stop_grace_period()
        assert seconds > max(limits), (
            f"{name} of {chapter}/workers.yml should have more than {max(limits)} s for a stop, but"
            f" it has {seconds}."
        )


def pool_options(worker):
    """Return the options of a worker that say nothing of queues."""
    return re.sub(r"^celery worker|-[QX] \S+", "", worker.command).strip()


@each_chapter
def test_pools_are_those_of_the_lesson_or_of_the_chapter_before(chapter):
    lesson = (ROOT / "chapters" / chapter / "README.md").read_text()
    before = {}
    if PREVIOUS[chapter] in WITH_QUEUES:
        before = read_workers(PREVIOUS[chapter])
    for name, worker in read_workers(chapter).items():
        options = pool_options(worker)
        carried = name in before and pool_options(before[name]) == options
        # With its queues, because -c 12 is in the lesson's -P threads -c 12 too.
        listed = worker.command.removeprefix("celery worker ") in lesson
        assert carried or listed, (
            f"{name} of {chapter}/workers.yml should have the pool of the chapter before, or of the"
            f" lesson, but it has {options}."
        )


@each_chapter
def test_beat_has_no_options_of_a_worker(chapter):
    for name, variables in read_other_programs(chapter).items():
        assert not variables["ARGS"], (
            f"{name} of {chapter}/workers.yml should have no ARGS, because those of a worker stop"
            f" {variables['PROGRAM']}, but it has {variables['ARGS']}."
        )
