"""Become the worker of a chapter, once it is known to do no harm."""

import os
import sys

from course.chapters import find_folder
from course.containers import CHAPTERS_WITH_COMPOSE, docker_problem
from course.containers import up as up_containers
from course.environment import APP, PROGRAMS, URLS
from course.preflight import look
from course.server import start


def main(number, *options):
    folder, up = find_folder(number), options == ("up",)
    if up:
        if failure := docker_problem():
            sys.exit(failure)
        if folder.name in CHAPTERS_WITH_COMPOSE:  # which bring a Redis of their own
            up_containers(number)
        os.environ["REDIS"] = "docker"
        for name in URLS:  # containers use the server beside them
            os.environ.pop(name, None)
    print(start(), flush=True)
    os.chdir(folder)
    # As where celery itself was typed: a chapter may have modules of the same names as ours.
    sys.path[0] = str(PROGRAMS)
    words = ["-A", APP, "worker", "--loglevel=info", *options]
    sys.argv = [str(PROGRAMS / "celery"), *words]
    mark = look(number)
    if up:
        up_containers(number)
    print("celery", *words, flush=True)
    from celery.__main__ import main

    main()
    del mark
