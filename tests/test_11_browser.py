"""Chapter 11's page in a browser: `make test-browser`."""

import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from support.assertions import wait_until_ready
from test_11_a_hundred import serve

from course.waiting import wait_until

WHERE = "make test-browser looks at the page in a browser"
sync_api = pytest.importorskip("playwright.sync_api", reason=WHERE)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WHERE)
pytestmark = pytest.mark.skipif("'browser' not in config.option.keyword", reason=WHERE)
CHROME_ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", CHROME_ON_A_MAC]


@pytest.fixture(scope="module")
def slow(folder):
    """The lesson's change: a number takes as many seconds as it is."""
    path = folder / "libs" / "math.py"
    text = path.read_text()
    line = "        result += number\n"
    path.write_text("import time\n" + text.replace(line, "        time.sleep(number)\n" + line))
    return folder


@pytest.fixture(scope="module")
def site(request, slow, shared):
    """The page's server as a learner starts it, beside a worker."""
    if request.config.option.docker:
        pytest.skip("the page's server runs on this machine: make test-browser")
    return serve(shared)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            yield playwright.chromium.launch(executable_path=installed)
        except sync_api.Error as error:
            pytest.skip(f"no browser could be started ({str(error).splitlines()[0]}): {WHERE}")


@pytest.fixture(params=["390 light", "390 dark", "1400 light", "1400 dark"])
def page(request, browser, site):
    """A page in a phone's and a desktop's width, light and dark, which asks no stranger and raises no error."""
    width, scheme = request.param.split()
    size = {"width": int(width), "height": 900}
    page, wrong = browser.new_page(viewport=size, color_scheme=scheme, base_url=site.url), []
    page.set_default_timeout(15_000)
    page.on(
        "request", lambda sent: None if sent.url.startswith(site.url) else wrong.append(sent.url)
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto("/")
    yield page
    page.close()
    assert not wrong, f"The page should ask no stranger and raise no error: {wrong}"


def send(page, numbers):
    """Type numbers, with the keyboard alone, and press Enter."""
    if page.evaluate("document.activeElement.id") != "numbers":
        page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.id")
    assert focused == "numbers", (
        f"The first stop of the tab key should be the field, it is {focused!r}."
    )
    page.keyboard.press("Control+a")
    page.keyboard.type(numbers)
    page.keyboard.press("Enter")


def says(page, sentence):
    """Wait until the page says this, where a screen reader tells of it."""
    try:
        page.get_by_role("status").filter(has_text=sentence).wait_for()
    except sync_api.TimeoutError:
        found = page.get_by_role("status").text_content()
        raise AssertionError(f"The page should say {sentence!r}, it says {found!r}.") from None


def is_sound(page):
    """Fail unless axe finds nothing, and nothing is wider than the window."""
    found = axe.Axe().run(page)
    assert not found.violations_count, found.generate_report()
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window, f"The page should be no wider than its window, {window}; it is {wide}."


def goes_wrong(page, numbers, sentence):
    """Send numbers, and fail unless the page says this and shows no bar."""
    send(page, numbers)
    says(page, sentence)
    assert page.get_by_role("progressbar").is_hidden(), (
        f"The page should show no progress beside {sentence!r}."
    )
    is_sound(page)


def test_a_sum_in_a_browser(page):
    is_sound(page)
    send(page, "0.6 0.6 0.6")
    seen, ended, late = [0], False, time.monotonic() + 20
    while not ended and time.monotonic() < late:
        # In this order: the bar is at its end when the page says the sum.
        ended = page.get_by_role("status").text_content().startswith("The sum")
        value = page.get_by_role("progressbar", include_hidden=True).evaluate(
            "bar => bar.value / bar.max"
        )
        seen += [value] if value != seen[-1] else []
    says(page, "The sum is 1.8.")
    assert seen == sorted(seen) and len(seen) > 2 and seen[-1] == 1, (
        f"The bar should move to its end, it went {seen}."
    )
    is_sound(page)
    address = page.url
    goes_wrong(page, "3 four", "four: Input should be a valid number")
    goes_wrong(page, "-1", "The sum failed.")
    page.goto("about:blank")
    page.goto(address)
    says(page, "The sum is 1.8.")
    page.goto("/#nothing")
    says(page, "There is no such sum.")


@pytest.mark.parametrize("page", ["390 dark", "1400 light"], indirect=True)
def test_a_worker_that_is_stopped_in_a_browser(page, shared):
    """Stop it, see what waits, start it, and see the sum, also after the page has been loaded again."""
    [worker] = shared.workers
    wait_until_ready(worker)
    worker.kill("SIGTERM")
    assert wait_until(lambda: worker.status == "exited", 20), "The worker should stop."
    send(page, "0 2")
    says(page, "Waiting for a worker.")
    page.reload()
    time.sleep(0.7)
    says(page, "Waiting for a worker.")
    is_sound(page)
    worker.start()
    says(page, "The sum is 2.")


def test_a_sum_that_nobody_took_in_a_browser(page, shared):
    send(page, "0")
    says(page, "The sum is 0.")
    id = page.url.partition("#")[2]
    shared.backend.client.delete(f"celery-task-meta-{id}")
    with closing(sqlite3.connect(shared.folder / "sums.db")) as db, db:
        db.execute("UPDATE sums SET asked = asked - 3600 WHERE id = ?", (id,))
    page.reload()
    says(page, "This sum has expired.")


@pytest.mark.parametrize("page", ["390 light"], indirect=True)
def test_redis_is_down_in_a_browser(page, site):
    """The page says so, and goes on once Redis is back."""
    page.route(
        "**/sums/**", lambda route: route.fulfill(status=503, body='{"detail": "It is down."}')
    )
    send(page, "0.5 0.5")
    says(page, "It is down.")
    page.unroute("**/sums/**")
    says(page, "The sum is 1.")
