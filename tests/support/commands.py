"""Commands that are run once in the folder of an app under test."""

import subprocess

from course.environment import PROGRAMS


def run_celery(app_under_test, *words):
    """Run `celery -A tasks` with these words; return its exit status and its output on one line."""
    done = run(app_under_test, "celery", "-A", "tasks", *words)
    output = " ".join((done.stdout + done.stderr).split())
    return done.returncode, output


def run_python(app_under_test, *words):
    """Run Python with these words; return what it prints."""
    done = run(app_under_test, "python", *words, PYTHONPATH=str(app_under_test.folder))
    return done.stdout + done.stderr


def run(app_under_test, program, *words, **variables):
    """Run one of the stack's programs with these words and variables; return what it did."""
    return subprocess.run(
        [PROGRAMS / program, *words],
        cwd=app_under_test.folder,
        env=app_under_test.env | variables,
        capture_output=True,
        text=True,
        check=False,
    )
