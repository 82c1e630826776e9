"""Become Python's prompt in a chapter's folder, and say first what calls will meet."""

import os
import sys
import time

from course.chapters import ROOT, display_path, find_folder
from course.environment import URLS, port_url, redis_port
from course.loaded import changed_files, newest_change
from course.preflight import (
    ServerProblem,
    ask_workers,
    count_listeners,
    find_app,
    find_marked,
    in_database,
    open_server,
    own_tasks,
)
from course.program import become, enter_folder
from course.server import HOST, ask, find_embedded_ports


def run_shell(number, *options):
    """Become Python in the chapter's folder, with options of python."""
    folder = find_folder(number)
    enter_folder(folder)
    if not options:
        report(number, folder)
        # A learner's own file comes first.
        if not os.environ.get("PYTHONSTARTUP"):
            os.environ["PYTHONSTARTUP"] = str(ROOT / "course" / "prompt.py")
            os.environ["COURSE_TOP"] = str(ROOT)
    become("python", options)


def report(number, folder):
    """Print a line about the folder, its server and workers, and one about each problem."""
    start = f"make chapter-{number}-worker, typed in another terminal,"
    url = os.environ.get(URLS[0])
    if url:
        server = f"{URLS[0]} {url}"
    else:
        server = f"Redis at {HOST}:{redis_port()}"
    workers = []
    problems = []
    if not url and ask(redis_port(), "PING") is None:
        server = f"no Redis at {HOST}:{redis_port()}"
        problems.append(describe_missing_server(start))
    else:
        workers, problems = look_at_server(url or port_url(), folder, start)
    parts = [f"Chapter {number}", display_path(folder), server]
    parts.append(", ".join(workers) or "no worker")
    print(" · ".join(parts), *problems, sep="\n", file=sys.stderr, flush=True)


def describe_missing_server(start):
    """Return a sentence about a port without a server: where this folder's server is, or starts."""
    ports = find_embedded_ports()
    if ports:
        export = f"type export REDIS_PORT={ports[0]} and start the shell again"
        return f"Calls will fail, as this folder's Redis is at {HOST}:{ports[0]}: {export}."
    return f"Calls will fail, as no Redis answers: {start} starts one with a worker."


def look_at_server(url, folder, start):
    """Return the names of the workers on a server, and sentences about what is wrong with them."""
    try:
        client = open_server(url, "broker_url")
    except ServerProblem as problem:
        return [], [str(problem)]
    if not client:
        return ["workers unknown"], []
    clients = in_database(client, client.client_list())
    # A process that starts containers has no node, and ends soon.
    marks = [mark for mark in find_marked(clients) if mark.node]
    workers = []
    problems = []
    for mark in marks:
        workers.append(f"worker {mark.node}")
        problems.append(check_mark(mark, folder))
    if count_listeners(clients) > len(marks):
        others, other_problems = look_at_others(clients, marks, folder)
        workers += others
        problems += other_problems
    if not workers:
        problems.append(f"Calls will wait, as no worker is up: {start} starts one.")
    return workers, [problem for problem in problems if problem]


def check_mark(mark, folder):
    """Return a sentence about a worker that runs other code than a folder's, or None."""
    if mark.folder != str(folder):
        place = display_path(mark.folder)
        return (
            f"The worker {mark.node} runs the code of {place}, not of this folder: press Ctrl-C in"
            " its terminal, and start this folder's worker."
        )
    changed = changed_files(folder, mark.files)
    if changed:
        return (
            f"The worker {mark.node} still runs the code from before {', '.join(changed)} changed:"
            " press Ctrl-C in its terminal, and start it again."
        )
    return None


def look_at_others(clients, marks, folder):
    """Return names and problems of the workers that were not started with make, by asking them."""
    app = find_app()
    if not app:
        return [], []
    marked = {mark.node for mark in marks}
    since = oldest_listener(clients)
    workers = []
    problems = []
    for node, tasks in ask_workers(app, count_listeners(clients)).items():
        if node in marked:
            continue
        workers.append(f"worker {node}")
        if tasks != own_tasks(app):
            known = ", ".join(sorted(tasks)) or "no tasks"
            problems.append(f"The worker {node} runs other code than this folder's: {known}.")
        elif since < newest_change(folder):
            problems.append(
                f"The worker {node} started before this folder's code was saved last: if it is"
                " this code's worker, press Ctrl-C in its terminal, and start it again."
            )
    return workers, problems


def oldest_listener(clients):
    """Return when the first of the listening clients connected, in seconds of the epoch."""
    ages = [int(entry["age"]) for entry in clients if entry["psub"] != "0"]
    return time.time() - max(ages)
