"""Celery's command line, run once in the folder of an app under test."""

import subprocess

from course.environment import PROGRAMS


def run_celery(app_under_test, *words):
    """Run `celery -A tasks` with these words; return its exit status and its output on one line."""
    done = subprocess.run(
        [PROGRAMS / "celery", "-A", "tasks", *words],
        cwd=app_under_test.folder,
        env=app_under_test.env,
        capture_output=True,
        text=True,
        check=False,
    )
    output = " ".join((done.stdout + done.stderr).split())
    return done.returncode, output
