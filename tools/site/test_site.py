"""The site in a browser. `make site-test` builds the site and runs this."""

import re
import shutil
import subprocess
import sys
from functools import cache
from urllib.parse import urldefrag, urljoin

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import LESSONS, PAGES

from course.chapters import ROOT

PATHS = [path for path in sorted(PAGES.rglob("*.html")) if path.name != "index.html"]
NAMES = [str(path.relative_to(PAGES)) for path in PATHS]
# The blocks and tables that scroll sideways, and the blocks that their copy button covers.
FIND_FAULTS = """elements => elements.filter(element => {
    const button = element.parentNode.querySelector(':scope > button');
    const top = element.getBoundingClientRect().top;
    return element.scrollWidth > element.clientWidth
        || button && top < button.getBoundingClientRect().bottom;
}).map(element => element.textContent)"""


@cache
def parsed(path):
    return BeautifulSoup(path.read_text(), "html.parser")


@pytest.mark.parametrize("name", NAMES)
def test_page_is_sound(page, name):
    page.goto(name)
    page.evaluate("document.querySelectorAll('details').forEach(answer => answer.open = true)")
    titles = page.locator("h1").count()
    assert titles == 1, f"{name} should have one title, but it has {titles}."
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], (
        f"{name} should not scroll, but it is {width} wide."
    )
    faults = page.locator(".highlight pre, .table-wrapper").evaluate_all(FIND_FAULTS)
    assert faults == [], f"No block should scroll sideways or be covered by its button: {faults}"
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()
    for picture in page.locator(".diagram svg").all():
        for part in ("title", "desc"):
            text = picture.locator(f"> {part}").text_content()
            assert text, f"A diagram of {name} should have a {part}."


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for tag in parsed(PAGES / name).select("[src], link[href], a[href]"):
        link = tag.get("href") or tag["src"]
        place, anchor = urldefrag(urljoin(name, link.partition("?")[0]))
        if re.match(r"\w+:", link):
            continue
        assert (PAGES / place).is_file(), f"The link {link} should lead to a file."
        if anchor:
            assert parsed(PAGES / place).find(id=anchor), f"The link {link} should lead to an id."


def test_copy_button_copies_what_is_typed(page):
    page.goto(LESSONS[0])
    block = page.locator(".highlight-pycon").first
    block.locator("button.copybtn").click()
    typed = re.findall(r"^(?:>>>|\.\.\.) (.*)", block.text_content(), re.MULTILINE)
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied == typed, f"The button should copy {typed}, but it copied {copied}."


def test_a_block_says_where_it_belongs():
    """Each label is its block's caption, and each traceback has its colours."""
    for name in LESSONS:
        page = parsed(PAGES / name)
        labels = page.select("p:has(> strong:only-child) + [class^=highlight]")
        assert not labels, f"{name}: these labels should be captions: {labels}"
        for box in page.select(".terminal"):
            assert box.select_one(".code-block-caption").text, f"{name}: no caption: {box}"
            assert box.select_one("pre"), f"{name}: no block: {box}"
            if "\nTraceback (" in box.text:
                assert box.select(".gt, .gr"), f"{name}: a traceback without colours: {box}"


def test_keyboard_comes_to_the_lesson_soon(page):
    page.goto(LESSONS[0])
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('article') != null"), (
        "Four stops should be enough."
    )


def search(page, words):
    """Return the paths of the links that a search shows."""
    page.goto(f"search.html?q={words}")
    page.get_by_text(re.compile("Search finished|did not match")).wait_for()
    links = page.locator("#search-results li a")
    return links.evaluate_all("links => links.map(link => link.pathname)")


@pytest.mark.parametrize("word", ["chord", "changed"])
def test_search_finds_what_is_for_learners(page, word):
    found = search(page, word)
    assert found, f"A search for {word} should find a page."
    for path in found:
        for_learners = re.search(r"/README\.html|^/docs/|^/chapters/[^/]+\.html", path)
        assert for_learners, f"A search for {word} should find lessons alone, but it found {path}."


def test_search_finds_no_page_for_maintainers(page):
    assert "pyenv" in (ROOT / "tools/bench.md").read_text(), "Name a word of a maintainers' page."
    found = search(page, "pyenv")
    assert found == [], f"A search should pass over maintainers' pages, but it found {found}."


def find_neighbour(name, direction):
    """Return the page that a page's link to the previous or next one leads to, or None."""
    link = parsed(PAGES / name).select_one(f".{direction}-page")
    if link is None:
        return None
    path = "" if link["href"] == "#" else link["href"]
    return urljoin(name, path)


def test_previous_and_next_lead_through_lessons():
    pages = [None, "README.html", *LESSONS, None]
    for previous, name, following in zip(pages, pages[1:], pages[2:], strict=False):
        for direction, wanted in (("prev", previous), ("next", following)):
            found = find_neighbour(name, direction)
            assert found == wanted, f"{name}: {direction} should be {wanted}, but it is {found}."
    for name in set(NAMES) - set(pages):
        for direction in ("prev", "next"):
            assert find_neighbour(name, direction) is None, f"{name} should have no {direction}."


def test_what_is_missing_fails_the_build(tmp_path):
    top = tmp_path / "top"
    shutil.copytree(ROOT, top, ignore=shutil.ignore_patterns(".venv*", ".course", "my"))
    with (top / "chapters/1-first-steps/README.md").open("a") as lesson:
        lesson.write("\n[a](none.md) ![a](none.png) [a](/CONTRIBUTING.md#none)\n")
    command = f"{sys.executable} -m sphinx -q -W -c tools/site . {tmp_path / 'pages'}".split()
    built = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert built.returncode == 1, "A page with broken links should not be built."
    for name in ("'none.md'", "none.png", "'none'"):
        assert name in built.stderr, f"The build should name {name}, but it said {built.stderr}"
