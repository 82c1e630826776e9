"""Commands that are run once in a folder, often that of an app under test."""

import subprocess

from course.environment import PROGRAMS, environment


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
    variables = app_under_test.env | variables
    return run_in(app_under_test.folder, program, *words, **variables)


def run_in(folder, program, *words, **variables):
    """Run one of the stack's programs in a folder, by default without a server."""
    return subprocess.run(
        [PROGRAMS / program, *words],
        cwd=folder,
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )
