"""The site in a browser. `make site-test` builds the site and runs this."""

import re
import shutil
import subprocess
import sys
from functools import cache
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

from course.chapters import CHAPTERS, ROOT

PAGES = ROOT / ".course/site-pages"
# Answered from the folder, without a network.
SITE = "http://localhost/"
NAMES = [
    str(path.relative_to(PAGES))
    for path in sorted(PAGES.rglob("*.html"))
    if path.name != "index.html"
]
LESSONS = [f"chapters/{chapter}/README.html" for chapter in CHAPTERS]
CHROME_ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", CHROME_ON_A_MAC]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        # Where there is none of these, Playwright's own, or its sentence on how to install it.
        installed = next(filter(None, map(shutil.which, BROWSERS)), None)
        yield playwright.chromium.launch(executable_path=installed)


@pytest.fixture(params=["390 light", "390 dark", "1400 light", "1400 dark"])
def page(request, browser):
    """A page in a phone's and a desktop's width, light and dark, which tells of errors and of strangers."""
    width, scheme = request.param.split()
    size = {"width": int(width), "height": 900}
    page, wrong = browser.new_page(viewport=size, color_scheme=scheme, base_url=SITE), []

    def answer(route):
        url = urlsplit(route.request.url)
        if not url.geturl().startswith(SITE):
            wrong.append(url.geturl())
        route.fulfill(path=PAGES / url.path[1:])

    page.route("**", answer)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert not wrong


@cache
def parsed(path):
    return BeautifulSoup(path.read_text(), "html.parser")


@pytest.mark.parametrize("name", NAMES)
def test_page_is_sound(page, name):
    page.goto(name)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    # No block and no table scrolls sideways, and no button covers what a block shows.
    wrong = """all => all.filter(pre => pre.scrollWidth > pre.clientWidth || pre.getBoundingClientRect().top <
        pre.parentNode.querySelector(':scope > button')?.getBoundingClientRect().bottom).map(pre => pre.textContent)"""
    assert page.locator(".highlight pre, .table-wrapper").evaluate_all(wrong) == []
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    for picture in page.locator(".diagram").all():
        assert (
            picture.locator("svg > title").text_content()
            and picture.locator("svg > desc").text_content()
        )


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for tag in parsed(PAGES / name).select("[src], link[href], a[href]"):
        link = tag.get("href") or tag["src"]
        place, anchor = urldefrag(urljoin(name, link.partition("?")[0]))
        if not re.match(r"\w+:", link):
            assert (PAGES / place).is_file(), f"{link} leads nowhere"
            assert not anchor or parsed(PAGES / place).find(id=anchor), f"{link} has no such place"


def test_copy_button_copies_what_is_typed(page):
    page.goto(LESSONS[0])
    block = page.locator(".highlight-pycon").first
    block.locator("button.copybtn").click()
    typed = re.findall(r"^(?:>>>|\.\.\.) (.*)", block.text_content(), re.MULTILINE)
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == typed


def test_a_block_says_where_it_belongs():
    """Each label is its block's caption; a traceback is one, whoever shows it."""
    for page in map(parsed, (PAGES / name for name in LESSONS)):
        assert not page.select("p:has(> strong:only-child) + [class^=highlight]")
        for box in page.select(".terminal"):
            assert box.select_one(".code-block-caption").text and box.select_one("pre")
            assert box.select(".gt, .gr") or "\nTraceback (" not in box.text


def test_keyboard_comes_to_the_lesson_soon(page):
    page.goto(LESSONS[0])
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('article') != null"), (
        "Four stops should be enough."
    )


@pytest.mark.parametrize("word, found", [("chord", True), ("changed", True), ("sybil", False)])
def test_search_finds_what_is_for_learners(page, word, found):
    page.goto(f"search.html?q={word}")
    page.get_by_text(re.compile("Search finished|did not match")).wait_for()
    links = page.locator("#search-results li a").evaluate_all(
        "all => all.map(each => each.pathname)"
    )
    assert bool(links) == found
    assert all(
        re.search(r"/README\.html|^/docs/|^/chapters/[^/]+\.html", link) for link in links
    ), links


def test_previous_and_next_lead_through_lessons():
    ring = ["README.html", *LESSONS]
    for name in NAMES:
        at = ring.index(name) if name in ring else None
        for way, button in ((-1, "prev"), (1, "next")):
            link = parsed(PAGES / name).select_one(f".{button}-page")
            there = link and urljoin(name, "" if link["href"] == "#" else link["href"])
            inside = at is not None and 0 <= at + way < len(ring)
            assert there == (ring[at + way] if inside else None)


def test_what_is_missing_fails_the_build(tmp_path):
    top = tmp_path / "top"
    shutil.copytree(ROOT, top, ignore=shutil.ignore_patterns(".venv*", ".course", "my"))
    with (top / "chapters/1-first-steps/README.md").open("a") as lesson:
        lesson.write("\n[a](none.md) ![a](none.png) [a](/CONTRIBUTING.md#none)\n")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-c",
        "tools/site",
        ".",
        tmp_path / "pages",
    ]
    built = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert built.returncode == 1
    assert all(name in built.stderr for name in ("'none.md'", "none.png", "'none'")), built.stderr
