"""Chapter 13's page in a browser: `make test-browser`."""

import sqlite3
import time
from contextlib import closing

import pytest
from support.assertions import WARM_STOP, wait_until_ready
from support.browsers import find_browser, record_strangers
from support.page_server import needs_page_server, start_page_server

from course.waiting import wait_until

WHERE = "make test-browser looks at the page in a browser"
sync_api = pytest.importorskip("playwright.sync_api", reason=WHERE)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WHERE)
pytestmark = [
    pytest.mark.skipif("'browser' not in config.option.keyword", reason=WHERE),
    needs_page_server,
]


@pytest.fixture(scope="module")
def slow(folder):
    """The lesson's change: a number takes as many seconds as it is."""
    path = folder / "libs" / "math.py"
    text = path.read_text()
    line = "        result += number\n"
    path.write_text("import time\n" + text.replace(line, "        time.sleep(number)\n" + line))
    return folder


@pytest.fixture(scope="module")
def site(slow, shared):
    """The page's server as a learner starts it, beside a worker."""
    return start_page_server(shared)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            yield playwright.chromium.launch(executable_path=find_browser())
        except sync_api.Error as error:
            reason = str(error).splitlines()[0]
            pytest.skip(f"no browser could be started ({reason}): {WHERE}")


@pytest.fixture(params=["390 light", "390 dark", "1400 light", "1400 dark"])
def page(request, browser, site):
    """A page as wide as a phone's and a desktop's, light and dark.

    Fail if it requests anything from another server or raises an error.
    """
    width, scheme = request.param.split()
    size = {"width": int(width), "height": 900}
    page = browser.new_page(viewport=size, color_scheme=scheme, base_url=site.url)
    page.set_default_timeout(15_000)
    strangers = record_strangers(page, site.url)
    errors = []

    def note_error(error):
        errors.append(str(error))

    page.on("pageerror", note_error)
    page.goto("/")
    yield page
    page.close()
    assert not strangers, (
        f"The page should load nothing from other servers, but it loads {strangers}."
    )
    assert not errors, f"The page should raise no error, but it raised {errors}."


def send(page, numbers):
    """Type numbers, with the keyboard alone, and press Enter."""
    if page.evaluate("document.activeElement.id") != "numbers":
        page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.id")
    assert focused == "numbers", (
        f"The tab key should stop at the field first, but it stops at {focused!r}."
    )
    page.keyboard.press("Control+a")
    page.keyboard.type(numbers)
    page.keyboard.press("Enter")


def assert_says(page, sentence):
    """Fail unless the page says this, where a screen reader announces it."""
    try:
        page.get_by_role("status").filter(has_text=sentence).wait_for()
    except sync_api.TimeoutError:
        found = page.get_by_role("status").text_content()
        raise AssertionError(f"The page should say {sentence!r}, but it says {found!r}.") from None


def assert_sound(page):
    """Fail unless axe finds nothing, and nothing is wider than the window."""
    found = axe.Axe().run(page)
    assert not found.violations_count, (
        f"axe should find nothing wrong in the page, but it found {found.violations_count}"
        f" violation(s).\n{found.generate_report()}"
    )
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window, (
        f"The page should be no wider than its window, {window} pixels, but it is {wide}."
    )


def assert_goes_wrong(page, numbers, sentence):
    """Send numbers; fail unless the page says this and shows no progress bar."""
    send(page, numbers)
    assert_says(page, sentence)
    assert page.get_by_role("progressbar").is_hidden(), (
        f"The page should show no progress bar beside {sentence!r}, but it does."
    )
    assert_sound(page)


def progress_values(page):
    """Return the values of the progress bar until the page says the sum, without repeats."""
    values = [0]
    ended = False
    deadline = time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        # Read the sentence first: the bar is at its end when the page says the sum.
        ended = page.get_by_role("status").text_content().startswith("The sum")
        bar = page.get_by_role("progressbar", include_hidden=True)
        value = bar.evaluate("bar => bar.value / bar.max")
        if value != values[-1]:
            values.append(value)
    return values


def test_a_sum_in_a_browser(page):
    assert_sound(page)
    send(page, "0.6 0.6 0.6")
    values = progress_values(page)
    assert_says(page, "The sum is 1.8.")
    assert values == sorted(values) and len(values) > 2 and values[-1] == 1, (
        f"The progress bar should move to its end, but its values are {values}."
    )
    assert_sound(page)
    address = page.url
    assert_goes_wrong(page, "3 four", "four: Input should be a valid number")
    assert_goes_wrong(page, "-1", "The sum failed.")
    page.goto("about:blank")
    page.goto(address)
    assert_says(page, "The sum is 1.8.")
    page.goto("/#nothing")
    assert_says(page, "There is no such sum.")


@pytest.mark.parametrize("page", ["390 dark", "1400 light"], indirect=True)
def test_a_worker_that_is_stopped_in_a_browser(page, shared):
    """The sum waits, also when the page is loaded again, until the worker is started."""
    [worker] = shared.workers
    wait_until_ready(worker)
    worker.kill("SIGTERM")
    exited = wait_until(lambda: worker.status == "exited", WARM_STOP)
    assert exited, "The worker should exit after SIGTERM, but it still runs."
    send(page, "0 2")
    assert_says(page, "Waiting for a worker.")
    page.reload()
    time.sleep(0.7)
    assert_says(page, "Waiting for a worker.")
    assert_sound(page)
    worker.start()
    assert_says(page, "The sum is 2.")


def test_a_sum_that_nobody_took_in_a_browser(page, shared):
    send(page, "0")
    assert_says(page, "The sum is 0.")
    id = page.url.partition("#")[2]
    shared.backend.client.delete(f"celery-task-meta-{id}")
    with closing(sqlite3.connect(shared.folder / "sums.db")) as db, db:
        db.execute("UPDATE sums SET asked = asked - 3600 WHERE id = ?", (id,))
    page.reload()
    assert_says(page, "This sum has expired.")


@pytest.mark.parametrize("page", ["390 light"], indirect=True)
def test_redis_is_down_in_a_browser(page, site):
    """The page says so, and goes on once Redis is back."""

    def answer_503(route):
        route.fulfill(status=503, body='{"detail": "It is down."}')

    page.route("**/sums/**", answer_503)
    send(page, "0.5 0.5")
    assert_says(page, "It is down.")
    page.unroute("**/sums/**")
    assert_says(page, "The sum is 1.")
