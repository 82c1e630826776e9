"""Chapter 11: Flower, its metrics and its pages; `make test-browser` opens these in a browser."""

import importlib
import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil
import pytest
from celery.exceptions import TaskRevokedError
from support.assertions import (
    assert_raises,
    assert_result,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)
from support.browsers import find_browser, record_strangers
from support.commands import run_celery
from support.names import ALONE, XSUM

from course.chapters import ROOT
from course.environment import PINNED, STACK, free_port
from course.waiting import wait_until

pytestmark = pytest.mark.skipif("config.option.docker", reason="Flower is a process: make test")
NO_BROWSER = "needs Playwright and a browser: make test-browser"


@contextmanager
def flower(app_under_test, **variables):
    """Run `make chapter-11-flower` on a free port with these variables; end it with Ctrl-C.

    Yield its address and its node. Fail unless it starts within 40 seconds.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    app_under_test.variables |= {"DIR": str(app_under_test.folder), "STACK": STACK, **variables}
    make = ["/usr/bin/env", "make", "-o", "setup-web", "-C", str(ROOT)]
    node = app_under_test.start(*make, "chapter-11-flower", f"ARGS=--port={port}")

    def is_healthy():
        status, _ = fetch_page(f"{address}/healthcheck")
        return status == 200

    try:
        wait_until(lambda: node.status == "exited" or is_healthy(), 40)
        assert node.status == "running", f"Flower should start, but it exited.\n{node.logs()}"
        yield address, node
    finally:
        os.killpg(node.process.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: node.status == "exited", 10)


def fetch_page(address):
    """Return the status and the text of a page, or 0 and "" if nothing answers."""
    try:
        with urlopen(address, timeout=5) as response:
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


def test_celery_flower_fails_on_celery_5_1_alone(app_under_test):
    status, output = run_celery(app_under_test, "flower", "--help")
    if PINNED:
        assert status != 0, f"`celery flower` should fail on Celery 5.1, but it printed: {output}"
    else:
        assert status == 0, (
            f"`celery flower` should exit with 0 on Celery 5.7, but it exited with {status}:"
            f" {output[-200:]}"
        )


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
        worker.assert_log_exists("Events of group {task} enabled by remote", timeout=20)
        after = xsum_request.delay([3, 4, 5])
        counted = wait_until(lambda: count_events(address, XSUM, "task-succeeded") == 1, 10)
        assert counted, (
            "Flower should count one event task-succeeded, but its metrics are"
            f" {fetch_metrics(address)}."
        )
        assert_tasks_known(address, before, after)
        assert_metrics(address)
        make = psutil.Process(node.process.pid)
        processes = [make, *make.children(recursive=True)]
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

        assert wait_until(lambda: '"1"]' in reply(), 20), (
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


def assert_flower_in_a_browser(browser, expect, app, app_under_test, refusal=None, **options):
    """Look at a worker and its tasks in Flower, and terminate one.

    With a refusal, a text, fail unless Flower shows it and leaves the task alone; without one,
    fail unless the task is revoked. `variables` are Flower's, `credentials` the browser's.
    """
    [name] = app.control.inspect(timeout=10, limit=1).ping()
    with flower(app_under_test, **options.get("variables", {})) as (address, _):
        size = {"width": 1100, "height": 390}
        tab = browser.new_page(viewport=size, http_credentials=options.get("credentials"))
        strangers = record_strangers(tab, address)
        tab.on("dialog", lambda dialog: dialog.accept())
        wait_until(lambda: "flower_worker_online{" in fetch_page(f"{address}/metrics")[1], 20)
        pages = FlowerPages(tab, expect, address)
        pages.assert_worker_listed(name)

        assert_task_returns(app, XSUM, ([0, 1],), 1)
        failing = find_task(app, "tasks.math.divide_request").delay(1, 0)
        running = find_task(app, XSUM).delay([1, 2, 300])
        waiting = find_task(app, XSUM).delay([4, 5])
        wait_until(lambda: running.state == "PROGRESS", 5)
        tab.goto(f"{address}/tasks")
        pages.assert_state(failing, "FAILURE")
        pages.assert_state(running, "STARTED")
        pages.assert_state(waiting, "RECEIVED")
        pages.take_picture()
        pages.assert_search(running, failing)
        pages.assert_can_be_revoked(waiting)
        pages.terminate(running)
        if refusal:
            pages.assert_shown(refusal)
            assert not running.ready(), "Flower should leave the task alone, but it revoked it."
        else:
            pages.assert_shown(re.compile("Revoked ."))
            sentence = "get() of a task that Flower terminated should raise TaskRevokedError"
            with assert_raises(TaskRevokedError, sentence):
                fetch(running)
        assert not strangers, (
            f"Flower's pages should load nothing from other servers, but they load {strangers}."
        )


@pytest.mark.isolated(count=0, copy=True)
def test_flower_in_a_browser(browser, expect, slow_worker, app, app_under_test):
    """On Celery 5.7's Flower, whoever hasn't logged in may not terminate a task."""
    refusal = "FLOWER_UNAUTHENTICATED_API"
    if PINNED:
        refusal = None
    assert_flower_in_a_browser(browser, expect, app, app_under_test, refusal)


@pytest.mark.isolated(count=0, copy=True)
def test_flower_in_a_browser_with_an_open_api(browser, expect, slow_worker, app, app_under_test):
    variables = {"FLOWER_UNAUTHENTICATED_API": "true"}
    assert_flower_in_a_browser(browser, expect, app, app_under_test, variables=variables)


@pytest.mark.isolated(count=0, copy=True)
def test_flower_in_a_browser_with_a_password(browser, expect, slow_worker, app, app_under_test):
    """On Celery 5.1's Flower, the buttons don't work with a password."""
    refusal = None
    if PINNED:
        refusal = "auth is enabled"
    assert_flower_in_a_browser(
        browser,
        expect,
        app,
        app_under_test,
        refusal,
        variables={"FLOWER_BASIC_AUTH": "me:secret"},
        credentials={"username": "me", "password": "secret"},
    )
