"""The site in a browser, and its differences beside git's. `make site-test` builds the site and runs this."""

import re
import shutil
import subprocess
import sys
from functools import cache
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from urllib.parse import urldefrag, urljoin

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright
from serve import PAGES, server

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("[0-9]*-*"))
NAMES = sorted(str(path.relative_to(PAGES)) for path in PAGES.rglob("*.html"))
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        known = [playwright.chromium.executable_path, *map(shutil.which, BROWSERS), ON_A_MAC]
        found = next((path for path in known if path and Path(path).exists()), None)
        if not found:
            pytest.exit(
                "The site's tests need a browser: install chromium (on Debian: apt install chromium) or "
                "Google Chrome, or type .course/site/bin/playwright install chromium",
                returncode=1,
            )
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site():
    """The address of the site."""
    SimpleHTTPRequestHandler.log_message = lambda *_: None
    with server(0) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(params=["390 light", "390 dark", "1280 light", "1280 dark"])
def page(request, browser, site):
    """A page in a phone's and a desktop's width, light and dark, which tells of errors and of strangers."""
    width, scheme = request.param.split()
    context = browser.new_context(
        viewport={"width": int(width), "height": 900}, color_scheme=scheme, base_url=site
    )
    context.set_default_timeout(30_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith((site, "data:")) else wrong.append(sent.url))
    yield page
    context.close()
    assert not wrong


desktop = pytest.mark.parametrize("page", ["1280 light"], indirect=True)
later = pytest.mark.parametrize("chapter", CHAPTERS[1:])


@pytest.mark.parametrize("name", NAMES)
def test_page_is_sound(page, name):
    page.goto(name)
    # The lessons' differences are long: once is enough for each scheme.
    folded = "details" if page.viewport_size["width"] > 1000 else "details.difference"
    page.evaluate(f"document.querySelectorAll('{folded}').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    found = Axe().run(page)
    assert not found.violations_count, found.generate_report()


@cache
def parsed(name):
    return BeautifulSoup((PAGES / name).read_text(), "html.parser")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(name):
    soup = parsed(name)
    loaded = [tag.get("src") or tag["href"] for tag in soup.select("[src], link[href]")]
    assert not [each for each in loaded if re.match(r"(\w+:)?//", each)]
    for link in [*loaded, *(tag["href"] for tag in soup.select("a[href]"))]:
        if re.match(r"\w+:", link):
            continue
        place, anchor = urldefrag(urljoin(name, link.partition("?")[0]))
        assert (PAGES / place).is_file(), f"{link} leads nowhere"
        assert not anchor or parsed(place).find(id=anchor), f"{link} has no such place"


def test_remarks_do_not_show():
    for chapter in CHAPTERS:
        for name in ("index", "files"):
            assert "<!-- " not in re.sub(
                r"<head>.*?</head>",
                "",
                (PAGES / f"chapters/{chapter}/{name}.html").read_text(),
                flags=re.DOTALL,
            )


# The differences are git's


def git_difference(chapter, *options):
    command = ["sh", str(ROOT / "tools/diff.sh"), chapter.partition("-")[0], "--no-color", "--no-ext-diff"]
    return subprocess.check_output([*command, *options], text=True).splitlines()


def difference(chapter):
    return f"chapters/{chapter}/difference.html"


@desktop
@later
def test_difference_names_gits_files(page, chapter):
    page.goto(difference(chapter))
    shown = [heading.removesuffix("¶") for heading in page.locator("article h2").all_text_contents()]
    files = [line.split("\t")[1:] for line in git_difference(chapter, "--name-status")]
    assert shown == [" → ".join(names) for names in files]


@desktop
@later
def test_difference_has_gits_lines(page, chapter):
    page.goto(difference(chapter))
    lines = [line for line in git_difference(chapter) if not re.match(r"---|\+\+\+|[a-z\\]", line)]
    wanted = [re.sub(r"(@@.*?@@).*", r"\1", line) for line in lines]
    unified = page.evaluate(
        """() => [...document.querySelectorAll(".hunk")].flatMap(hunk => [
            hunk.querySelector("p").textContent,
            ...[...hunk.querySelectorAll(".unified tr")].map(row =>
                row.querySelector(".sign").textContent.replace("−", "-") + row.querySelector("code").textContent)])"""
    )
    # Git leaves numbers of 1 out.
    assert [re.sub(r",1\b(?!\d)", "", line) for line in unified] == wanted


@desktop
@later
def test_both_sides_are_the_lines_of_the_chapters(page, chapter):
    """Line by line, what is on the left is in the old file at that number, and on the right in the new."""
    page.goto(difference(chapter))
    files = [line.split("\t")[1:] for line in git_difference(chapter, "--name-status")]
    sections = page.evaluate(
        """() => [...document.querySelectorAll("article section section")].map(section =>
            [...section.querySelectorAll(".split tr")].map(row =>
                [...row.querySelectorAll(".number")].map(cell => [
                    cell.cellIndex ? 1 : 0, cell.textContent, cell.nextElementSibling.nextElementSibling.textContent])))"""
    )
    before = CHAPTERS[CHAPTERS.index(chapter) - 1]
    seen = 0
    for names, rows in zip(files, sections, strict=True):
        for side, number, text in (half for row in rows for half in row):
            path = ROOT / "chapters" / (before, chapter)[side] / (names[0], names[-1])[side]
            assert path.read_text().splitlines()[int(number) - 1] == text
            seen += 1
    assert seen


@desktop
@later
def test_hunks_are_linkable(page, chapter):
    page.goto(difference(chapter))
    links = page.locator(".hunk p a").evaluate_all("found => found.map(each => each.getAttribute('href'))")
    assert links and len(set(links)) == len(links)
    for link in links:
        page.goto(difference(chapter) + link)
        assert page.evaluate("document.querySelector('.hunk:target')?.id") == link[1:]


@desktop
def test_views(page):
    page.goto(difference(CHAPTERS[-1]))
    split, unified = page.locator(".split").first, page.locator(".unified").first
    assert split.is_visible() and not unified.is_visible()
    page.get_by_label("side by side").focus()
    page.keyboard.press("ArrowRight")
    assert unified.is_visible() and not split.is_visible()
    page.set_viewport_size({"width": 390, "height": 900})
    assert unified.is_visible() and not page.get_by_label("unified").is_visible()


# The lessons


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_diagram_is_drawn_for_the_scheme_and_described(page, chapter):
    lesson = (ROOT / "chapters" / chapter / "README.md").read_text()
    page.goto(f"chapters/{chapter}/index.html")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.locator(".diagram svg:visible").count() == len(
        re.findall("^```mermaid", lesson, re.MULTILINE)
    )
    for picture in page.locator(".diagram:visible").all():
        assert ("only-dark" in picture.get_attribute("class")) == dark
        assert picture.locator("svg > title").text_content() and picture.locator("svg > desc").text_content()


@desktop
def test_copy_button_copies_what_is_typed(page):
    page.goto(f"chapters/{CHAPTERS[0]}/index.html")
    for kind, copied in (
        ("console", "make chapter-1-worker"),
        ("pycon", "from tasks import add\nresult = add.delay(4, 4)\nresult\nresult.get(timeout=10)"),
    ):
        page.locator(f".highlight-{kind} button.copybtn").first.click()
        assert page.evaluate("navigator.clipboard.readText()").strip() == copied


@desktop
def test_search_finds_chord(page):
    page.goto("index.html")
    page.get_by_label("Search").first.fill("chord")
    page.keyboard.press("Enter")
    page.locator("#search-results li a", has_text="5. Canvas").first.click()
    assert "chord" in page.locator("article").text_content()


@desktop
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_previous_and_next(page, chapter):
    page.goto(f"chapters/{chapter}/index.html")
    around = CHAPTERS[max(CHAPTERS.index(chapter) - 1, 0) : CHAPTERS.index(chapter) + 2]
    for other, button in ((around[0], "prev"), (around[-1], "next")):
        if other != chapter:
            assert f"/{other}/" in page.locator(f".{button}-page").evaluate("each => each.href")


def test_build_fails_on_a_broken_link_and_a_missing_picture(tmp_path):
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    with (tmp_path / "chapters" / CHAPTERS[0] / "README.md").open("a") as lesson:
        lesson.write(
            "\n[nowhere](nowhere.md) ![nothing](nothing.png) [no place](../2-configuration/README.md#no-place)\n"
        )
    built = subprocess.run(
        [sys.executable, str(tmp_path / "tools/site/pages.py")], capture_output=True, text=True, check=False
    )
    assert built.returncode and "Traceback" not in built.stderr
    for wrong in ("nowhere.md", "nothing.png", "no-place"):
        assert wrong in built.stderr
    assert not (tmp_path / ".course/site-pages").exists()
