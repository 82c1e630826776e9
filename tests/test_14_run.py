"""Chapter 14's exercise where a Docker engine answers: the learner's containers run."""

import os
import shutil

import pytest
from support.checkout import needs_docker
from support.compose_runs import Run

from course.chapters import ROOT, find_chapter, find_folder
from course.containers import docker_problem

CHAPTER = ROOT / "chapters" / find_chapter(14)
PATIENCE = 1200  # seconds: an image may have to be built, from packages that are downloaded


@pytest.mark.patient(PATIENCE)
@pytest.mark.step(
    "where Docker runs, all services get healthy, the page adds up, and the ledger is kept",
    "the-whole-app-in-one-file",
)
def test_the_containers_run(number, tmp_path):
    """docker compose up -d --build, docker compose ps, and docker compose logs SERVICE. The check
    uses a copy of your folder, with passwords and ports of its own."""
    if not os.environ.get("DIR"):
        pytest.skip("test_14_containers.py runs the course's own")
    if docker_problem():
        pytest.skip("no Docker engine answers")
    check(find_folder(number), tmp_path)


def check(folder, place):
    """Run the app of a folder, and fail with a sentence if something doesn't work."""
    with Run(folder, place) as run:
        run.assert_starts()
        run.assert_image_has_no_password()
        run.assert_healthy()
        run.assert_page_adds()
        for worker in run.app.workers():
            if "ledger" in worker.queues(["celery", "ledger", "rates"]):
                run.assert_ledger_is_kept(worker.name)


@needs_docker
def test_the_check_runs_what_is_right_and_refuses_what_is_wrong(tmp_path):
    """The wrong one is an image without libs, which its files don't show."""
    ignored = shutil.ignore_patterns("__pycache__", "secrets", "*.db*")
    folder = shutil.copytree(CHAPTER, tmp_path / "attempt", ignore=ignored)
    check(folder, tmp_path)
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("COPY libs /app/libs\n", ""))
    with pytest.raises(AssertionError, match=r"should be healthy.*No module named 'libs'"):
        check(folder, tmp_path)
