"""The site in a browser, and its differences beside git's. `make site-test` builds the site and runs this."""

import re
import shutil
import subprocess
import sys
from functools import cache
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from build import BEFORE, CHAPTERS, PAGES, ROOT
from playwright.sync_api import sync_playwright

# Answered from the folder, without a network.
SITE = "http://localhost/"
NAMES = [str(path.relative_to(PAGES)) for path in sorted(PAGES.rglob("*.html")) if path.name != "index.html"]
CHROME_ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", CHROME_ON_A_MAC]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        # Where there is none of these, Playwright's own, or its sentence on how to install it.
        installed = next(filter(None, map(shutil.which, BROWSERS)), None)
        yield playwright.chromium.launch(executable_path=installed)


@pytest.fixture(params=["390 light", "390 dark", "1280 light", "1280 dark"])
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
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
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
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    for picture in page.locator(".diagram:visible").all():
        assert picture.locator("svg > title").text_content() and picture.locator("svg > desc").text_content()


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for tag in parsed(PAGES / name).select("[src], link[href], a[href]"):
        link = tag.get("href") or tag["src"]
        place, anchor = urldefrag(urljoin(name, link.partition("?")[0]))
        if not re.match(r"\w+:", link):
            assert (PAGES / place).is_file(), f"{link} leads nowhere"
            assert not anchor or parsed(PAGES / place).find(id=anchor), f"{link} has no such place"


@pytest.mark.parametrize("chapter", BEFORE)
def test_unified_view_is_gits_difference(chapter):
    trees = [f"HEAD:chapters/{BEFORE[chapter]}", f"HEAD:chapters/{chapter}"]
    command = ["git", "diff", "-M", "--no-color", *trees, "--", ".", ":!README.md"]
    lines = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    blocks = parsed(PAGES / f"chapters/{chapter}/difference.html").select(".highlight-diff pre")
    shown = [line for block in blocks for line in block.text.splitlines()]
    assert shown == [line for line in lines if re.match(r"[ @+-](?!\+\+ |-- )", line)]


def test_side_by_side_where_there_is_room(page):
    page.goto(f"chapters/{CHAPTERS[-1]}/difference.html")
    assert page.locator(".diff").first.is_visible() == (page.viewport_size["width"] > 1000)
    page.evaluate("document.querySelector('#split').click()")
    assert not page.locator(".diff").first.is_visible()


def test_copy_button_copies_what_is_typed(page):
    page.goto(f"chapters/{CHAPTERS[0]}/README.html")
    block = page.locator(".highlight-pycon").first
    block.locator("button.copybtn").click()
    typed = re.findall(r"^(?:>>>|\.\.\.) (.*)", block.text_content(), re.MULTILINE)
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == typed


def test_search_finds_a_lesson(page):
    page.goto("search.html?q=chord")
    page.locator("#search-results li a", has_text="Canvas").first.click()
    assert "chord" in page.locator("article").text_content()


@pytest.mark.parametrize("chapter", BEFORE)
def test_previous_and_next(chapter):
    for here, there, button in ((BEFORE[chapter], chapter, "next"), (chapter, BEFORE[chapter], "prev")):
        page = parsed(PAGES / f"chapters/{here}/README.html")
        assert f"/{there}/" in page.select_one(f".{button}-page")["href"]


@pytest.mark.parametrize("broken", ["", "[a](none.md)", "![a](none.png)", "[a](../../NOTES.md#none)"])
def test_build(tmp_path, broken):
    """What is missing fails the build; a directive vanishes, and what is folded may be code."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "chapters/1-one").mkdir(parents=True)
    lesson = "# 1. One\n\n<!-- not\nseen -->\n<details><summary>Answer</summary>\n\n"
    lesson += f"```html\n<!-- seen -->\n```\n\n</details>\n\n{broken}\n"
    for name, text in (("README", "# A"), ("NOTES", "# B"), ("chapters/1-one/README", lesson)):
        (tmp_path / f"{name}.md").write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    command = [sys.executable, tmp_path / "tools/site/build.py"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    page = tmp_path / ".course/site-pages/chapters/1-one/README.html"
    if broken:
        assert built.returncode == 1 and "Traceback" not in built.stderr and not page.exists()
        assert "none" in built.stderr
    else:
        assert [block.text for block in parsed(page).select("details pre")] == ["<!-- seen -->\n"]
        assert "not\nseen" not in str(parsed(page).article)
