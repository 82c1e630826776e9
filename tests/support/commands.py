"""Commands that are run once in a folder, often that of an app under test."""

import subprocess

from course.environment import PROGRAMS, environment


def run_celery(app_under_test, *words):
    """Run `celery -A tasks` with these words; return its exit status and its output on one line."""
    words = ["-A", "tasks", *words]
    done = run_in(app_under_test.folder, "celery", *words, **app_under_test.env)
    output = " ".join((done.stdout + done.stderr).split())
    return done.returncode, output


def run_python(app_under_test, *words):
    """Run Python with these words; return what it prints."""
    return "".join(start_python(app_under_test, *words).communicate())


def start_python(app_under_test, *words):
    """Start Python with these words, and return the process."""
    variables = app_under_test.env | {"PYTHONPATH": str(app_under_test.folder)}
    return start_in(app_under_test.folder, "python", *words, **variables)


def run_in(folder, program, *words, **variables):
    """Run one of the stack's programs in a folder, by default without a server."""
    process = start_in(folder, program, *words, **variables)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_in(folder, program, *words, **variables):
    """Start one of the stack's programs in a folder, by default without a server."""
    return subprocess.Popen(
        [PROGRAMS / program, *words],
        cwd=folder,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
