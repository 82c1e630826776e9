"""Chapter 11: Flower, its metrics and its pages; `make test-browser` opens these in a browser."""

import base64
import importlib
import json
import os
import re
import shutil
import signal
import stat
from contextlib import contextmanager
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from celery.exceptions import TaskRevokedError
from support.assertions import (
    WARM_STOP,
    ask_workers,
    assert_raises,
    assert_result,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)
from support.browsers import find_browser, record_strangers
from support.names import ADD, ALONE, XSUM

from course.chapters import ROOT
from course.environment import PINNED, STACK, free_port
from course.flower import require_password
from course.waiting import wait_until

pytestmark = pytest.mark.skipif("config.option.docker", reason="Flower is a process: make test")
NO_BROWSER = "needs Playwright and a browser: make test-browser"


LOGIN = {"username": "me", "password": "secret"}


@contextmanager
def flower(app_under_test, *command, **variables):
    """Run Flower on a free port with these variables; end it with Ctrl-C.

    The command is `make chapter-11-flower`, with the name and the password of LOGIN, unless another
    is given. Yield its address and its node. Fail unless it starts within 90 seconds.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    if command:
        words = [*command, f"--port={port}"]
    else:
        variables = {"FLOWER_BASIC_AUTH": "me:secret", **variables}
        make = ["/usr/bin/env", "make", "-o", "setup-web", "-C", str(ROOT)]
        words = [*make, "chapter-11-flower", f"ARGS=--port={port}"]
    app_under_test.variables |= {"DIR": str(app_under_test.folder), "STACK": STACK, **variables}
    node = app_under_test.start(*words)

    def is_healthy():
        status, _ = fetch_page(f"{address}/healthcheck")
        return status == 200

    try:
        wait_until(lambda: node.status == "exited" or is_healthy(), 90)
        assert node.status == "running", f"Flower should start, but it exited.\n{node.logs()}"
        yield address, node
    finally:
        os.killpg(node.process.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: node.status == "exited", 30)


def fetch_page(address, login=LOGIN, **options):
    """Return the status and the text of a page, or 0 and "" if nothing answers.

    Without a login, send none. The options are those of urllib's Request.
    """
    request = Request(address, **options)
    if login:
        text = f"{login['username']}:{login['password']}"
        request.add_header("Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")
    try:
        with urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except URLError:
        return 0, ""


def fetch_metrics(address):
    """Return Flower's metrics by name, each a list of (labels, value)."""
    parser = pytest.importorskip("prometheus_client.parser")
    _, text = fetch_page(f"{address}/metrics")
    metrics = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.setdefault(sample.name, []).append((sample.labels, sample.value))
    return metrics


def count_events(address, task, event):
    """Return how many events of this type Flower has counted for a task."""
    count = 0
    for labels, value in fetch_metrics(address).get("flower_events_total", []):
        if labels["task"] == task and labels["type"] == event:
            count += value
    return count


def assert_tasks_known(address, before, after):
    """Fail unless Flower knows the task that was sent after its start, and not the one before."""
    status, _ = fetch_page(f"{address}/task/{before.id}")
    assert status == 404, (
        f"Flower should answer 404 for a task that ran before its start, but it answered {status}."
    )
    status, _ = fetch_page(f"{address}/task/{after.id}")
    assert status == 200, (
        f"Flower should answer 200 for a task that it has seen, but it answered {status}."
    )


def assert_metrics(address):
    """Fail unless Flower's metrics show a worker and runtimes, and nothing about queues."""
    metrics = fetch_metrics(address)
    online = [value for _, value in metrics["flower_worker_online"]]
    assert online == [1.0], f"One worker should be online, but flower_worker_online is {online}."
    assert "flower_task_runtime_seconds_bucket" in metrics, (
        f"Flower should have the metric flower_task_runtime_seconds_bucket: {sorted(metrics)}"
    )
    about_queues = [name for name in metrics if "queue" in name]
    assert not about_queues, (
        f"No metric of Flower should be about a queue, but these are: {about_queues}."
    )


def assert_on_loopback(processes):
    """Fail unless all ports that these processes listen on are on loopback."""
    addresses = set()
    for process in processes:
        for connection in process.net_connections():
            if connection.status == "LISTEN":
                addresses.add(connection.laddr.ip)
    assert addresses == {"127.0.0.1"}, (
        f"Flower should listen on loopback alone, but it listens on {addresses}."
    )


@pytest.mark.isolated(args=ALONE)
def test_flower(celery_setup, app, app_under_test):
    """It turns events on by itself, listens on loopback alone, and knows what it has seen since."""
    xsum_request = find_task(app, XSUM)
    before = xsum_request.delay([3, 4, 5])
    assert_result("xsum_request", before, 12)
    with flower(app_under_test) as (address, node):
        worker = celery_setup.worker
        worker.assert_log_exists("Events of group {task} enabled by remote", timeout=60)
        after = xsum_request.delay([3, 4, 5])
        counted = wait_until(lambda: count_events(address, XSUM, "task-succeeded") == 1)
        assert counted, (
            "Flower should count one event task-succeeded, but its metrics are"
            f" {fetch_metrics(address)}."
        )
        assert_tasks_known(address, before, after)
        assert_metrics(address)
        processes = find_processes(node)
        assert_on_loopback(processes)
    left = [process for process in processes if process.is_running()]
    assert node.status == "exited" and not left, (
        f"Ctrl-C should end Flower, but make is {node.status} and these processes run: {left}."
    )


def test_flower_listens_everywhere_by_default():
    address = importlib.import_module("flower.options").options.address
    assert address == "", (
        "Flower's option --address should be empty by default, which means everywhere, but it is"
        f" {address!r}."
    )


def start_with_password(monkeypatch, capsys, *options):
    """Prepare a start of Flower; return its FLOWER_BASIC_AUTH, and what a learner sees."""
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "")
    require_password(["python", "-m", "flower", *options])
    return os.environ["FLOWER_BASIC_AUTH"], capsys.readouterr().out


def test_a_password_is_made_and_shown_once(monkeypatch, capsys, tmp_path):
    file = tmp_path / "kept" / "flower_login"
    monkeypatch.setattr("course.flower.FILE", file)
    login, shown = start_with_password(monkeypatch, capsys)
    password = login.removeprefix("flower:")
    assert len(password) >= 16 and password in shown, (
        f"The first start should make a password and show it, but it shows {shown!r}."
    )
    mode = stat.filemode(file.stat().st_mode)
    assert mode == "-rw-------", f"Only the learner should read the password, but it is {mode}."
    again, shown = start_with_password(monkeypatch, capsys)
    assert again == login and password not in shown and str(file) in shown, (
        f"The next start should take the same password and name its file, but it shows {shown!r}."
    )


@pytest.mark.parametrize("option", ["--basic-auth=me:secret", "--basic_auth=a:b", "--auth=me@x.y"])
def test_another_way_in_is_left_alone(monkeypatch, capsys, option):
    login, _ = start_with_password(monkeypatch, capsys, option)
    assert not login, f"With {option}, no password should be made, but {login} was."


# What a page of another origin can send from the learner's browser.
FOREIGN = "http://evil.example"
DANGEROUS = [
    "/api/task/apply/tasks.math.add_request",
    "/api/task/async-apply/tasks.math.add_request",
    "/api/task/send-task/tasks.math.add_request",
    "/api/task/revoke/some-id?terminate=true",
    "/api/worker/shutdown/{worker}",
]


def status_of(address, worker, path, **headers):
    """Return the status of Flower's answer to a dangerous request."""
    url = address + path.format(worker=worker)
    status, _ = fetch_page(url, method="POST", data=b'{"args": [4, 4]}', headers=headers)
    return status


def statuses(address, worker, **headers):
    """Return the statuses of Flower's answers to dangerous requests, each once."""
    return {status_of(address, worker, path, **headers) for path in DANGEROUS}


def wait_until_known(address, worker):
    """Wait until Flower knows a worker."""
    known = wait_until(lambda: f'worker="{worker}"' in fetch_page(f"{address}/metrics")[1], 60)
    assert known, f"Flower should know {worker} within a minute."


def find_processes(node):
    """Return the processes of a node: make, and what it has started."""
    make = psutil.Process(node.process.pid)
    return [make, *make.children(recursive=True)]


@pytest.mark.isolated(args=["-E", *ALONE])
def test_a_page_of_another_origin_is_refused(celery_setup, app, app_under_test):
    """A browser that has logged in sends the password along. Flower 1.2 takes no orders at all."""
    [worker] = ask_workers(app, "ping")
    refusal = 403
    if PINNED:
        refusal = 405
    with flower(app_under_test) as (address, node):
        wait_until_known(address, worker)
        status, _ = fetch_page(address, login=None)
        assert status == 401, f"Flower should ask for a password, but its status is {status}."
        for origin in (FOREIGN, "null"):
            found = statuses(address, worker, Origin=origin)
            assert found == {refusal}, (
                f"Flower should answer {refusal} to a page of {origin}, but it answered {found}."
            )
        revoke = f"{address}/api/task/revoke/some-id"
        status, _ = fetch_page(revoke, method="POST", data=b"", headers={"Origin": address})
        wanted = 200
        if PINNED:
            wanted = 405
        assert status == wanted, f"Flower's own page should get {wanted}, but it gets {status}."
        words = [" ".join(process.cmdline()) for process in find_processes(node)]
        assert "secret" not in str(words), (
            f"The password should not be in the words of a command, but they are {words}."
        )
    assert_task_returns(app, ADD, (4, 4), 8)
    logs = celery_setup.worker.logs()
    assert logs.count("asked: 4 + 4") == 1, (
        f"No foreign page should start a task, but the worker logs:\n{logs}"
    )


BY_HAND = ["python", "-m", "flower", "-A", "tasks", "flower", "--address=127.0.0.1"]


@pytest.mark.isolated(args=["-E", *ALONE])
def test_without_a_password_flower_is_open(celery_setup, app, app_under_test):
    """Flower 1.2 takes orders from any page, and 2.2 with a variable; each shows its pages."""
    [worker] = ask_workers(app, "ping")

    def takes(path):
        return status_of(address, worker, path, Origin=FOREIGN) == 200

    if not PINNED:
        with flower(app_under_test, *BY_HAND) as (address, _):
            found = statuses(address, worker, Origin=FOREIGN)
            assert found == {401}, f"Flower 2.2 should answer 401, but it answered {found}."
    with flower(app_under_test, *BY_HAND, FLOWER_UNAUTHENTICATED_API="true") as (address, _):
        status, _ = fetch_page(address, login=None)
        assert status == 200, f"Flower should show its pages, but its status is {status}."
        # It takes a while to know the worker, which the last request stops.
        for path in DANGEROUS:
            assert wait_until(lambda path=path: takes(path), 60), (
                f"Flower should take the order {path} from a foreign page, but it doesn't."
            )
    ended = wait_until(lambda: celery_setup.worker.container.status == "exited", WARM_STOP)
    assert ended, "A foreign page should be able to stop the worker."


@pytest.mark.isolated(args=["-E", *ALONE])
def test_prometheus_scrapes_flower(celery_setup, app, app_under_test, tmp_path):
    prometheus = shutil.which("prometheus")
    if not prometheus:
        pytest.skip("needs Debian's package prometheus")
    port = free_port()
    settings = tmp_path / "prometheus.yml"
    with flower(app_under_test) as (address, _):
        target = address.removeprefix("http://")
        job = {"job_name": "flower", "static_configs": [{"targets": [target]}]}
        content = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        settings.write_text(json.dumps(content))
        files = [f"--config.file={settings}", f"--storage.tsdb.path={tmp_path}"]
        node = app_under_test.start(prometheus, f"--web.listen-address=127.0.0.1:{port}", *files)
        query = f"http://127.0.0.1:{port}/api/v1/query?query=flower_worker_online"

        def reply():
            _, text = fetch_page(query)
            return text

        assert wait_until(lambda: '"1"]' in reply(), 60), (
            f"Prometheus should scrape flower_worker_online as 1, but it replies {reply()!r}.\n"
            + node.logs()
        )


@pytest.fixture
def expect():
    """Playwright's assertions."""
    return pytest.importorskip("playwright.sync_api", reason=NO_BROWSER).expect


@pytest.fixture
def browser(expect):
    """An installed browser, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    path = find_browser()
    if not path:
        pytest.skip(NO_BROWSER)
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=path)


@pytest.fixture
def slow_worker(app, app_under_test):
    """A worker with one process, on a copy where a number takes as many seconds as its value."""
    path = app_under_test.folder / "libs/math.py"
    slow = re.sub(
        r"^( +)(result \+= .*)$",
        r'\1__import__("time").sleep(number)\n\1\2',
        path.read_text(),
        flags=re.MULTILINE,
    )
    assert "sleep(number)" in slow, (
        "libs/math.py should add in a loop, with `result += `, but it has no such line."
    )
    path.write_text(slow)
    return wait_until_ready(app_under_test.add_worker(["-E", "-c", "1", *ALONE]))


class FlowerPages:
    """Flower's pages in a tab of a browser."""

    def __init__(self, tab, expect, address):
        self.tab = tab
        self.expect = expect
        self.address = address

    def row(self, result):
        return self.tab.get_by_role("row").filter(has_text=result.id)

    def assert_worker_listed(self, name):
        self.tab.goto(self.address)
        self.expect(self.tab.get_by_role("link", name=name)).to_be_visible()

    def assert_state(self, result, state):
        self.expect(self.row(result)).to_contain_text(state)

    def take_picture(self):
        """Save a screenshot to the file that the variable PICTURE names, for the lesson."""
        picture = os.environ.get("PICTURE")
        if picture:
            self.tab.screenshot(path=ROOT / picture)

    def assert_search(self, found, other):
        """Search for a task by its id; fail unless its row is left and the other's isn't."""
        self.tab.get_by_role("searchbox").fill(found.id)
        self.expect(self.row(other)).to_have_count(0)
        self.expect(self.row(found)).to_be_visible()

    def assert_can_be_revoked(self, result):
        self.tab.goto(f"{self.address}/task/{result.id}")
        self.expect(self.tab.get_by_role("button", name="Revoke")).to_be_visible()

    def terminate(self, result):
        self.tab.goto(f"{self.address}/task/{result.id}")
        self.tab.get_by_role("button", name="Terminate").click()

    def assert_shown(self, text):
        self.expect(self.tab.get_by_text(text).first).to_be_visible()


@pytest.mark.isolated(count=0, copy=True)
def test_flower_in_a_browser(browser, expect, slow_worker, app, app_under_test):
    """Its pages show a worker and tasks. With a password, the buttons of Flower 1.2 don't work."""
    [name] = ask_workers(app, "ping")
    with flower(app_under_test) as (address, _):
        size = {"width": 1100, "height": 390}
        tab = browser.new_page(viewport=size, http_credentials=LOGIN)
        strangers = record_strangers(tab, address)
        tab.on("dialog", lambda dialog: dialog.accept())
        wait_until_known(address, name)
        pages = FlowerPages(tab, expect, address)
        pages.assert_worker_listed(name)

        assert_task_returns(app, XSUM, ([0, 1],), 1)
        failing = find_task(app, "tasks.math.divide_request").delay(1, 0)
        running = find_task(app, XSUM).delay([1, 2, 300])
        waiting = find_task(app, XSUM).delay([4, 5])
        wait_until(lambda: running.state == "PROGRESS")
        tab.goto(f"{address}/tasks")
        pages.assert_state(failing, "FAILURE")
        pages.assert_state(running, "STARTED")
        pages.assert_state(waiting, "RECEIVED")
        pages.take_picture()
        pages.assert_search(running, failing)
        pages.assert_can_be_revoked(waiting)
        pages.terminate(running)
        if PINNED:
            pages.assert_shown("auth is enabled")
            assert not running.ready(), "Flower should leave the task alone, but it revoked it."
        else:
            pages.assert_shown(re.compile("Revoked ."))
            sentence = "get() of a task that Flower terminated should raise TaskRevokedError"
            with assert_raises(TaskRevokedError, sentence):
                fetch(running)
        assert not strangers, (
            f"Flower's pages should load nothing from other servers, but they load {strangers}."
        )
