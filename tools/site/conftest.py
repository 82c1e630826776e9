"""A browser for the tests of the site. It is answered from the built pages, without a network."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright
from support.browsers import find_browser

from course.chapters import CHAPTERS, ROOT

PAGES = ROOT / ".course/site-pages"
SITE = "http://localhost/"
LESSONS = [f"chapters/{chapter}/README.html" for chapter in CHAPTERS]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=find_browser())


@pytest.fixture(params=["390 light", "768 dark", "1400 light"])
def page(request, browser):
    """A page on a phone, a tablet and a desktop, without errors or requests elsewhere."""
    width, scheme = request.param.split()
    size = {"width": int(width), "height": 900}
    page = browser.new_page(viewport=size, color_scheme=scheme, base_url=SITE)
    problems = []

    def serve(route):
        url = route.request.url
        if not url.startswith(SITE):
            problems.append(f"request to {url}")
        route.fulfill(path=PAGES / urlsplit(url).path[1:])

    def note_error(message):
        if message.type == "error":
            problems.append(message.text)

    page.route("**", serve)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.on("console", note_error)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    assert not problems, f"The page should load without errors: {problems}"
