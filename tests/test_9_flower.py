"""Chapter 9: Flower, its metrics and its pages. `make test-browser` looks at these in a browser."""

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
from conftest import ALONE
from support.assertions import (
    assert_raises,
    assert_result,
    assert_task_returns,
    fetch,
    find_task,
    wait_until_ready,
)
from test_9_monitoring import NAME, OLD, processes, statuses

from course.chapters import ROOT
from course.environment import STACK, free_port
from course.waiting import wait_until

pytestmark = processes


def test_flower_is_not_celerys_command_on_the_old_stack(app_under_test):
    status, said = statuses(app_under_test, "flower", "--help")
    assert (status != 0) == OLD, (
        f"`celery flower` should fail on Celery 5.1 alone: {status}, {said[-200:]}"
    )


@contextmanager
def flower(app_under_test, **variables):
    """Run `make chapter-9-flower` on a free port; give its address; end it with Ctrl-C."""
    port = free_port()
    app_under_test.variables |= {"DIR": str(app_under_test.folder), "STACK": STACK, **variables}
    node = app_under_test.start(
        "/usr/bin/env",
        "make",
        "-o",
        "setup-web",
        "-C",
        str(ROOT),
        "chapter-9-flower",
        f"ARGS=--port={port}",
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: node.status == "exited" or page(f"{address}/healthcheck")[0] == 200, 40)
        assert node.status == "running", f"Flower should start, and said: {node.logs()}"
        yield address, node
    finally:
        os.killpg(node.process.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: node.status == "exited", 10)


def page(address):
    """Return the status and the text of a page, 0 where nothing answers."""
    try:
        with urlopen(address, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except URLError:
        return 0, ""


def metrics(address):
    """Return Flower's metrics: by their names, a list of (labels, value)."""
    parser = pytest.importorskip("prometheus_client.parser")
    _, text = page(f"{address}/metrics")
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def events(address, name, kind):
    """Return how many events of this type Flower has counted for a task."""
    samples = metrics(address).get("flower_events_total", [])
    return sum(
        value for labels, value in samples if (labels["task"], labels["type"]) == (name, kind)
    )


@pytest.mark.isolated(args=ALONE)
def test_flower(celery_setup, app, app_under_test):
    """It turns events on by itself, listens on loopback alone, and knows what it has seen since then."""
    before = find_task(app, NAME).delay([3, 4, 5])
    assert_result("xsum_request", before, 12)
    with flower(app_under_test) as (address, node):
        worker = celery_setup.worker
        worker.assert_log_exists("Events of group {task} enabled by remote", timeout=20)
        result = find_task(app, NAME).delay([3, 4, 5])
        assert wait_until(lambda: events(address, NAME, "task-succeeded") == 1, 10), (
            f"Flower should have counted one event task-succeeded: {metrics(address)}"
        )
        found = [page(f"{address}/task/{each.id}")[0] for each in (before, result)]
        assert found == [404, 200], (
            f"Flower should know the second task alone, its pages are {found}."
        )
        named = metrics(address)
        assert [value for _, value in named["flower_worker_online"]] == [1.0], (
            "A worker should be online."
        )
        assert "flower_task_runtime_seconds_bucket" in named, (
            f"There is no runtime in {sorted(named)}."
        )
        assert not any("queue" in name for name in named), "No metric tells what waits in a queue."
        children = psutil.Process(node.process.pid).children(recursive=True)
        ours = [each for each in (psutil.Process(node.process.pid), *children)]
        ips = {
            each.laddr.ip
            for one in ours
            for each in one.net_connections()
            if each.status == "LISTEN"
        }
        assert ips == {"127.0.0.1"}, f"Flower should listen on loopback alone, it listens on {ips}."
    assert node.status == "exited" and not any(each.is_running() for each in ours), (
        "Ctrl-C should end it all."
    )


def test_flower_listens_everywhere_by_default():
    options = importlib.import_module("flower.options").options
    assert options.address == "", (
        f"Flower's own address should be none in particular, it is {options.address}."
    )


@pytest.mark.isolated(args=["-E", *ALONE])
def test_prometheus_scrapes_flower(celery_setup, app, app_under_test, tmp_path):
    """Debian's prometheus, where it is installed."""
    prometheus = shutil.which("prometheus") or pytest.skip("it needs Debian's package prometheus")
    port, settings = free_port(), tmp_path / "prometheus.yml"
    with flower(app_under_test) as (address, _):
        job = {
            "job_name": "flower",
            "static_configs": [{"targets": [address.removeprefix("http://")]}],
        }
        settings.write_text(
            json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]})
        )
        files = [f"--config.file={settings}", f"--storage.tsdb.path={tmp_path}"]
        node = app_under_test.start(prometheus, f"--web.listen-address=127.0.0.1:{port}", *files)
        query = f"http://127.0.0.1:{port}/api/v1/query?query=flower_worker_online"
        assert wait_until(lambda: '"1"]' in page(query)[1], 20), (
            f"It should be 1: {page(query)}, {node.logs()}"
        )


@pytest.fixture
def browser():
    """A browser that is installed, driven by Playwright; both are there for `make test-browser`."""
    reason = "it needs Playwright and a browser: make test-browser"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ["chromium", "chromium-browser", "google-chrome"]
    installed = next(filter(None, map(shutil.which, names)), None) or pytest.skip(reason)
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=installed), playwright.expect


@pytest.mark.isolated(count=0, copy=True)
@pytest.mark.parametrize("how", ["with a password", "by default", "if it may"])
def test_flower_in_a_browser(browser, app, app_under_test, how):
    """A worker is listed, a task is found by its id, and one that runs is revoked, if Flower may."""
    browser, expect = browser
    math = app_under_test.folder / "libs/math.py"
    slow = re.sub(
        r"^( +)(result \+= .*)$",
        r'\1__import__("time").sleep(number)\n\1\2',
        math.read_text(),
        flags=re.MULTILINE,
    )
    assert "sleep(number)" in slow, "libs/math.py should add in a loop, with `result += `."
    math.write_text(slow)
    wait_until_ready(app_under_test.add_worker(["-E", "-c", "1", *ALONE]))
    [name] = app.control.inspect(timeout=10, limit=1).ping()
    variables = {
        "by default": {},
        "if it may": {"FLOWER_UNAUTHENTICATED_API": "true"},
        "with a password": {"FLOWER_BASIC_AUTH": "me:secret"},
    }[how]
    with flower(app_under_test, **variables) as (address, _):
        user = (
            {"http_credentials": {"username": "me", "password": "secret"}}
            if "password" in how
            else {}
        )
        tab, strangers = browser.new_page(viewport={"width": 1100, "height": 390}, **user), []
        tab.on(
            "request",
            lambda request: request.url.startswith(address) or strangers.append(request.url),
        )
        tab.on("dialog", lambda dialog: dialog.accept())
        wait_until(lambda: "flower_worker_online{" in page(f"{address}/metrics")[1], 20)
        tab.goto(address)
        expect(tab.get_by_role("link", name=name)).to_be_visible()
        assert_task_returns(app, NAME, ([0, 1],), 1)
        failing = find_task(app, "tasks.math.divide_request").delay(1, 0)
        runs, waits = find_task(app, NAME).delay([1, 2, 300]), find_task(app, NAME).delay([4, 5])
        wait_until(lambda: runs.state == "PROGRESS", 5)

        def row(result):
            return tab.get_by_role("row").filter(has_text=result.id)

        tab.goto(f"{address}/tasks")
        for result, state in ((failing, "FAILURE"), (runs, "STARTED"), (waits, "RECEIVED")):
            expect(row(result)).to_contain_text(state)
        if picture := os.environ.get("PICTURE"):
            tab.screenshot(path=ROOT / picture)
        tab.get_by_role("searchbox").fill(runs.id)
        expect(row(failing)).to_have_count(0)
        expect(row(runs)).to_be_visible()
        tab.goto(f"{address}/task/{waits.id}")
        expect(tab.get_by_role("button", name="Revoke")).to_be_visible()
        tab.goto(f"{address}/task/{runs.id}")
        tab.get_by_role("button", name="Terminate").click()
        if "password" in how if OLD else how == "by default":
            expect(
                tab.get_by_text("auth is enabled" if OLD else "FLOWER_UNAUTHENTICATED_API").first
            ).to_be_visible()
            assert not runs.ready(), f"Flower should not revoke a task {how}."
        else:
            expect(tab.get_by_text(re.compile("Revoked .")).first).to_be_visible()
            with assert_raises(
                TaskRevokedError,
                f"A task that Flower terminates ({how}) should raise TaskRevokedError",
            ):
                fetch(runs)
        assert not strangers, f"Flower's pages should load nothing from elsewhere: {strangers}"
