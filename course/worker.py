"""Become the worker of a chapter, once it is safe; or start workers in containers."""

import os
import sys

from course.chapters import find_folder
from course.containers import brings_its_own, docker_problem, start_own, start_workers
from course.environment import APP, PROGRAMS, URLS
from course.preflight import prepare
from course.server import start_server
from course.watcher import Watcher


def enter_folder(folder):
    """Work in a chapter's folder as if celery were typed there.

    A chapter may have modules of the same names as those at the top of the checkout.
    """
    os.chdir(folder)
    sys.path[0] = str(PROGRAMS)


def run_worker(number, *options):
    """Start Redis if none answers, and become the chapter's worker, with options of celery."""
    folder = find_folder(number)
    watcher = Watcher(folder)
    start_server()
    enter_folder(folder)
    words = ["-A", APP, "worker", "--loglevel=info", *options]
    sys.argv = [str(PROGRAMS / "celery"), *words]
    # While the client lives, its connection marks this process as a worker.
    files, client = prepare(number, options)
    watcher.watch(files)
    print("celery", *words, flush=True)
    from celery.__main__ import main

    main()
    del client


def run_containers(number):
    """Start Redis and the chapter's workers in containers, and exit."""
    folder = find_folder(number)
    problem = docker_problem()
    if problem:
        sys.exit(problem)
    if brings_its_own(number):
        start_own(folder)
    os.environ["REDIS"] = "docker"
    # Containers use the server beside them.
    for name in URLS:
        os.environ.pop(name, None)
    start_server()
    enter_folder(folder)
    _, client = prepare(number, in_containers=True)
    start_workers(number)
    del client
