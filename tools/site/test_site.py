"""The site in a browser. `make site-test` builds the site and runs this."""

import os
import re
import shutil
import struct
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
ON_ONE = pytest.mark.parametrize("page", ["1400 light"], indirect=True)
FIND_WIDE = """elements => elements.filter(element => element.scrollWidth > element.clientWidth)
    .map(element => element.textContent)"""
FIND_SMALL = """buttons => buttons.map(button => button.getBoundingClientRect())
    .filter(({ width, height }) => width && Math.min(width, height) < 24).length"""
# Where the first and the second row of each line that wraps begin.
FIND_ROWS = """lines => lines.map(line => {
    const range = document.createRange();
    range.selectNodeContents(line);
    const rows = new Map();
    for (const { x, bottom } of [...range.getClientRects()].reverse()) rows.set(bottom, x);
    return [...rows.values()].reverse();
}).filter(rows => rows.length > 1)"""


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
    wide = page.locator(".highlight pre, .table-wrapper").evaluate_all(FIND_WIDE)
    assert wide == [], f"No block should scroll sideways, but these do: {wide}"
    small = page.locator("article button").evaluate_all(FIND_SMALL)
    assert small == 0, f"Each button of {name} should be large enough to tap, but {small} aren't."
    if name == "book.html":
        return  # what is in it is checked on the lessons' pages, as axe takes minutes here
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


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_light(name):
    files = {name.replace("README", "index")}
    for tag in parsed(PAGES / name).select("[src], [rel=stylesheet]"):
        files.add(urljoin(name, (tag.get("href") or tag["src"]).partition("?")[0]))
    size = sum((PAGES / file).stat().st_size for file in files)
    assert size <= 300_000, f"{name} and what it loads should have 300 kB, not {size} bytes."


@ON_ONE
@pytest.mark.parametrize("name", LESSONS)
def test_what_is_copied_can_be_pasted(page, name, tmp_path):
    """A real prompt takes it, without Celery, so that it runs nothing that lasts or matters."""
    page.goto(name)
    page.evaluate("document.querySelectorAll('details').forEach(answer => answer.open = true)")
    pasted = "import time; time.sleep = print\n"
    for block in page.locator(".terminal:has(.highlight-pycon)").all():
        block.locator(".copy").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        text = block.locator("pre").text_content()
        typed = re.findall(r"^(?:>>>|\.\.\.) (.*)", text, re.MULTILINE)
        assert [line for line in copied.splitlines() if line] == typed, f"{copied} isn't {typed}."
        pasted += f"{copied}\n"
    prompt = [sys.executable, "-i", "-I"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    run = subprocess.run(prompt, input=pasted, check=False, **options)
    for error in ("SyntaxError", "IndentationError"):
        assert error not in run.stderr, f"The copied blocks of {name}: {run.stderr}"


@pytest.mark.parametrize("page", ["390 light"], indirect=True)
def test_a_line_that_wraps_is_indented(page):
    page.goto(LESSONS[0])
    lines = page.locator(".line").evaluate_all(FIND_ROWS)
    assert lines, "Some line should wrap on a phone."
    for first, second, *_ in lines:
        assert second > first, f"A second row should be indented, but it begins at {second}."


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


@ON_ONE
def test_keys(page):
    page.goto(LESSONS[1])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#furo-main-content"), "The first stop should lead to the lesson."
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{LESSONS[0]}")
    page.keyboard.press("End")
    page.wait_for_function("localStorage.read")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{LESSONS[1]}")
    page.locator(".sidebar-tree .read").wait_for()
    read = page.locator(".sidebar-tree .read").all_text_contents()
    assert len(read) == 1, f"Lesson 1 alone should have a tick, not {read}."
    page.keyboard.press("/")
    page.keyboard.type("chord")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=chord*")


@ON_ONE
def test_a_question_waits_for_a_choice(page):
    page.goto(LESSONS[0])
    answer = page.locator("details").first
    page.get_by_role("button", name="Yes").first.click()
    assert "You said: Yes" in answer.inner_text(), "The answer should show what was chosen."


def search(page, words):
    """Return the paths of the links that a search shows."""
    page.goto(f"search.html?q={words}")
    ended = re.compile("Search finished|did not match")
    page.locator(".search-summary", has_text=ended).wait_for()
    links = page.locator("#search-results li a")
    return links.evaluate_all("links => links.map(link => link.pathname + link.hash)")


@ON_ONE
@pytest.mark.parametrize("word", ["chord", "changed"])
def test_search_finds_what_is_for_learners(page, word):
    found = search(page, word)
    assert found, f"A search for {word} should find a page."
    for path in found:
        for_learners = re.search(r"/README\.html|^/docs/|^/chapters/[^/]+\.html", path)
        assert for_learners, f"A search for {word} should find lessons alone, but it found {path}."


@ON_ONE
@pytest.mark.parametrize("name", ["task_acks_late", "acks_late", "reject_on_worker"])
def test_search_finds_the_section_by_a_part_of_a_name(page, name):
    found = search(page, name)
    section = "/chapters/7-crashes/README.html#a-process-is-killed"
    assert section in found, f"A search for {name} should find {section}, not {found}."


@ON_ONE
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


def test_previous_and_next_lead_through_lessons_and_what_changed():
    changes = [name.replace("README", "difference") for name in LESSONS[1:]]
    for pages in ([None, "README.html", *LESSONS, None], [None, *changes, None]):
        for previous, name, following in zip(pages, pages[1:], pages[2:], strict=False):
            for way, wanted in (("prev", previous), ("next", following)):
                found = find_neighbour(name, way)
                assert found == wanted, f"{name}: {way} should be {wanted}, but it is {found}."


def test_what_changed_marks_files_words_and_syntax():
    page = parsed(PAGES / "chapters/5-canvas/difference.html")
    assert "±   math.py" in page.select_one(".tree").text, "The tree should have ± at math.py."
    assert page.select_one(".gi mark").text == ",", "The comma before xsum_request is new."
    assert page.select_one(".gi .k").text == "def", "A keyword should have its colour."
    heading = page.select_one("#libs-math-py .gu").text
    assert "def divide(x, y):" in heading, f"A part should begin with its function: {heading}"


def test_a_build_with_an_address_and_broken_links(tmp_path):
    """It fails, names the links, and makes what other sites and search engines read."""
    top = tmp_path / "top"
    shutil.copytree(ROOT, top, ignore=shutil.ignore_patterns(".venv*", ".course", "my"))
    with (top / "chapters/1-first-steps/README.md").open("a") as lesson:
        lesson.write("\n[a](none.md) ![a](none.png) [a](/CONTRIBUTING.md#none)\n")
    pages = tmp_path / "pages"
    command = f"{sys.executable} -m sphinx -q -W -c tools/site . {pages}".split()
    env = os.environ | {"GITHUB_REPOSITORY": "me/course"}
    built = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 1, "A page with broken links should not be built."
    for name in ("'none.md'", "none.png", "'none'"):
        assert name in built.stderr, f"The build should name {name}, but it said {built.stderr}"
    site = "https://me.github.io/course/"
    for name, place in (("README.html", site), (LESSONS[0], f"{site}chapters/1-first-steps/")):
        page = parsed(pages / name)
        assert page.select_one("[rel=canonical]")["href"] == place, f"{name} should be at {place}."
        for kind in ("[name=description]", '[property="og:type"]', '[property="og:image"]'):
            assert page.select_one(kind)["content"], f"{name} should have a {kind}."
        assert place in (pages / "sitemap.txt").read_text().splitlines(), f"No {place} in the list."
    assert parsed(pages / "404.html").base["href"] == site, "404.html is shown in any folder."
    card = (pages / "_static/card.png").read_bytes()
    assert struct.unpack(">II", card[16:24]) == (1200, 630), "The card should be 1200 × 630."
