"""Look around before a worker starts, and say in one line each what it would meet.

usage: preflight.py, in the chapter's folder; ends with 1 where the worker should not start.
Celery is imported only where something is found: this runs before every worker.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = Path.cwd()
VARIABLES = {"broker": "CELERY_BROKER_URL", "backend": "CELERY_RESULT_BACKEND"}
SECONDS = 3  # that a server has to answer in
LOOKED_AT = 1000  # messages, of those that wait
URL = re.compile(r"""^\s*(broker|backend|result_backend)(?:_url)?\s*=\s*["']([^"']+)["']""")
MODULE = re.compile(
    r"""^(?:from|import) ((?:tasks|libs|celeryconfig)\b[\w.]*)(?: import (\w+))?"""
    r"""|(?:include=\[|config_from_object\()["']([\w.]+)["']"""
)


class Refused(Exception):
    """The server answered with an error."""


class Redis:
    """A connection to the server that a redis:// URL names.

    Raises OSError where nothing answers, ValueError where the URL is none or the answer not Redis',
    Refused where the server answers with an error.
    """

    def __init__(self, url):
        parts = urlsplit(url)
        self.database = parts.path.strip("/") or "0"
        address = parts.hostname or "localhost", parts.port or 6379
        self.stream = socket.create_connection(address, timeout=SECONDS).makefile("rwb")
        if parts.password:
            self("AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password))
        self("SELECT", self.database)

    def __call__(self, *words):
        """Send a command and return the reply: bytes, or a list of them."""
        self.stream.write(b"*%d\r\n" % len(words))
        for word in map(str.encode, words):
            self.stream.write(b"$%d\r\n%s\r\n" % (len(word), word))
        self.stream.flush()
        return self.reply()

    def reply(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:].strip()
        if kind == b"-":
            raise Refused(rest.decode(errors="replace"))
        if kind == b"$":
            return self.stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind not in (b"+", b":"):
            raise ValueError("what answers there is not Redis")
        return rest


def say(sentence):
    print(sentence, flush=True)


def look_at_code():
    """Name the files that cannot be imported; return the URLs in the code, as {kind: (url, where)}."""
    urls = {}
    for path in [*FOLDER.glob("*.py"), *FOLDER.glob("tasks/*.py"), *FOLDER.glob("libs/*.py")]:
        name = path.relative_to(FOLDER)
        try:
            source = path.read_text()
            compile(source, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            say(f"{name} is not valid Python ({error}): the worker ends with this error.")
            continue
        for number, line in enumerate(source.splitlines(), 1):
            for module, member, named in MODULE.findall(line):
                wanted = named or (f"{module}.{member}" if module == "libs" else module)
                file = FOLDER.joinpath(*wanted.split("."))
                if not file.is_dir() and not file.with_suffix(".py").is_file():
                    say(f"{name}, line {number}: there is no module {wanted} in {FOLDER}.")
            for name_of_setting, url in URL.findall(line):
                kind = "broker" if name_of_setting == "broker" else "backend"
                urls[kind] = url, f"{name}, line {number}"
    return urls


def connect(url, where):
    """Return a connection to the server of this URL, or None where it is none that is looked at here.

    Ends this program where the environment names a server that cannot serve. Where the code does, the worker
    says the same, at length: it may.
    """
    scheme = urlsplit(url).scheme
    if scheme != "redis":
        say(f"{where}: {scheme}:// is left to Celery; the course uses redis://.")
        return None
    set_both = f"set {VARIABLES['broker']} and {VARIABLES['backend']} to"
    place = (
        urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
    )  # without a password
    try:
        redis = Redis(url)
        redis("SETRANGE", "course-preflight", "0", "")  # a write that changes nothing
        return redis
    except Refused as error:
        if re.match("NOAUTH|WRONGPASS|ERR .*(password|AUTH)", str(error)):
            sys.exit(f"{where}: {place} wants a password: {set_both} redis://:PASSWORD@HOST:PORT/0.")
        sys.exit(f"{where}: {place} refuses writes ({error}): {set_both} another server's URL.")
    except (OSError, ValueError) as error:
        sentence = f"{where}: no Redis answers at {place} ({error})"
        if where not in VARIABLES.values():
            say(f"{sentence}.")
            return None
        sys.exit(f"{sentence}: start it, or {set_both} a server's URL, or unset both.")


def find_app():
    """Return the chapter's app, or None where it cannot be imported: the worker will tell."""
    sys.path.insert(0, str(FOLDER))
    try:
        from celery.app.utils import find_app

        app = find_app("tasks")
        app.loader.import_default_modules()
    except Exception:  # noqa: BLE001  whatever the chapter's code raises
        return None
    return app


def folder_of(process):
    """Return the folder that a process of this machine works in, or None."""
    try:
        return Path(f"/proc/{process}/cwd").readlink()
    except OSError:
        pass  # no Linux, or somebody else's process
    if not shutil.which("lsof"):
        return None
    done = subprocess.run(
        ["lsof", "-a", "-d", "cwd", "-p", str(process), "-F", "n"],
        capture_output=True,
        text=True,
        check=False,
    )
    return next((Path(line[1:]) for line in done.stdout.splitlines() if line.startswith("n/")), None)


def look_for_workers(redis):
    """End this program where a worker of another chapter is up; return whether any worker may be."""
    clients = redis("CLIENT", "LIST").decode(errors="replace").splitlines()
    # A worker listens for remote control, by a pattern.
    mine = [line for line in clients if f" db={redis.database} " in line and " psub=0 " not in line]
    app = find_app() if mine else None
    if not app:
        return bool(mine)
    inspect = app.control.inspect(timeout=1, limit=len(mine))
    own = {name for name in app.tasks if not name.startswith("celery.")}
    stats = None
    for node, tasks in (inspect.registered() or {}).items():
        stats = stats or inspect.stats() or {}
        process = stats.get(node, {}).get("pid")
        local = node.partition("@")[2] == socket.gethostname()
        folder = folder_of(process) if local and process else None
        if own == {task.split()[0] for task in tasks} and (folder is None or folder.name == FOLDER.name):
            continue
        where = f"process {process} in {folder}" if folder else f"knows {', '.join(tasks)}"
        sys.exit(
            f"A worker of other code is up on this server: {node} ({where}). Stop it with Ctrl-C in its terminal"
            f"{f' or kill {process}' if folder else ''}, or take another server with REDIS_PORT=6390:"
            " the two would take each other's messages and throw them away."
        )
    return True


def look_at_messages(redis, worker_is_up):
    """Tell what waits, and what this worker will do with it."""
    taken = int(redis("HLEN", "unacked"))
    if taken and not worker_is_up:
        say(
            f"{taken} taken and unfinished: messages of a worker that was killed. Redis hands them out again once"
            " the visibility timeout is over, an hour after they were taken."
        )
    number = int(redis("LLEN", "celery"))
    app = find_app() if number else None
    if not app:
        return
    counts = Counter()
    for at in range(min(number, LOOKED_AT)):
        counts[task_of(redis("LINDEX", "celery", str(-1 - at)))] += 1
    parts = [f"{count} of {name}" if name else f"{count} unreadable" for name, count in counts.items()]
    if number > LOOKED_AT:
        parts.append("and more")
    fates = ["this worker runs them"] if counts.keys() & app.tasks.keys() else []
    unknown = sorted(name for name in counts if name and name not in app.tasks)
    if unknown:
        fates.append(f"this worker throws away what it does not know ({', '.join(unknown)})")
    if None in counts:
        fates.append("it ends at an unreadable one, and goes on with the next when you start it again")
    purge = f"make chapter-{FOLDER.name.partition('-')[0]}-purge drops them all"
    wait = "; Ctrl-C within 5 seconds keeps them" if unknown else ""
    say(f"Waiting in the queue: {', '.join(parts)}; {', '.join(fates)}; {purge}{wait}.")
    if unknown:
        time.sleep(5)


def task_of(message):
    """Return the name of the task that a message calls, or None where it is no message of Celery's."""
    try:
        return str(json.loads(message)["headers"]["task"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def main():
    in_code = look_at_code()
    named = {kind: (os.environ.get(name), name) for kind, name in VARIABLES.items()}
    named = {kind: pair if pair[0] else in_code.get(kind) for kind, pair in named.items()}
    # The time-out of a connection does not bound the search for its address.
    bound = threading.Timer(SECONDS + 1, give_up, [named])
    bound.daemon = True
    bound.start()
    connections = [connect(*named[kind]) for kind in VARIABLES if named[kind]]
    bound.cancel()
    broker = connections[0] if named["broker"] else None
    if broker:
        look_at_messages(broker, look_for_workers(broker))


def give_up(named):
    say(
        f"No answer within {SECONDS + 1} seconds from {' or '.join(where for _, where in filter(None, named.values()))}."
    )
    os._exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, Refused) as error:
        say(f"Not looked at further: {error}.")  # a server that serves, and does not let us look
