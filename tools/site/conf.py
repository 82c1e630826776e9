"""The site's settings for Sphinx. blocks.py changes lessons, code_pages.py makes pages of code."""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import novasvg
from docutils import nodes
from sphinx.highlighting import PygmentsBridge
from sphinx.search.en import SearchEnglish

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import book
import code_pages
from blocks import Blocks, Lines

from course.chapters import CHAPTERS, PREVIOUS, ROOT

html_title = "Celery, one step at a time"

extensions = ["myst_parser"]
include_patterns = ["*.md", "*/*.md", "chapters/*/README.md", "chapters/*/*/README.md"]
exclude_patterns = [".*", "my", "tools/tags.md"]  # that is the README.md of the tags
root_doc = "README"
templates_path = ["templates"]
# A link may lead to any heading of a page.
myst_heading_anchors = 3
myst_slug_func = nodes.make_id

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["site.css", "site.js", "search.js", "replay.css", "replay.js"]
html_css_files = ["site.css", "replay.css"]
html_js_files = [("replay.js", {"defer": "defer"}), ("site.js", {"defer": "defer"})]
html_use_index = False
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
# The repository's page: its workflow knows it, and pyproject.toml once somebody has set it there.
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = SETTINGS["tool"]["course"]["address"]
if "GITHUB_REPOSITORY" in os.environ:
    ADDRESS = f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"
if ADDRESS:
    owner, name = ADDRESS.split("/")[-2:]
    html_baseurl = f"https://{owner}.github.io/{name}/"
    html_context = {"card": f"{html_baseurl}_static/card.png"}
pygments_dark_style = "a11y-high-contrast-dark"
BRAND = (
    "color-brand-primary",
    "color-brand-content",
    "color-brand-visited",
    "color-link-underline",
)
html_theme_options = {
    "light_css_variables": {
        **dict.fromkeys(BRAND, "#2b6419"),
        "error": "#b30000",
        "inverted": "0",
    },
    "dark_css_variables": {
        **dict.fromkeys(BRAND, "#9bd17f"),
        "error": "#ff8a80",
        "inverted": "0.93",
    },
}

# docs/picture.svg as a card of the size that others show.
CARD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1200 630">
<rect width="1200" height="630" fill="#161b22"/><g transform="translate(150 20) scale(1.234)">{}</g>
</svg>"""
# What a chapter has, in the order of the links above it.
VIEWS = {"README": "Lesson", "difference": "What changed", "files": "Files"}


def edit_source(app, page, source):
    """Keep a maintainers' page out of search and of the lists; give the first page the lists.

    The page of a chapter's folder is out of the lists too: its lesson leads there.
    """
    if page == root_doc:
        source[0] = make_front(source[0])
    elif page.count("/") > 2:
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    elif not page.startswith(("chapters/", "docs/")):
        source[0] = f"---\norphan: true\nnosearch: true\n---\n{source[0]}"


def make_front(text):
    """Return the first page: README.md, how the app grows, and the lists of pages."""
    # The badges are for the repository's own page.
    text = re.sub(r"^\[!\[.*\n\n", "", text, flags=re.MULTILINE)
    if ADDRESS:
        text = text.replace("this repository", f"[this repository]({ADDRESS})")
        text = text.replace("git clone ADDRESS", f"git clone {ADDRESS}")
    replay = "<!-- replay: call: The same, recorded, with a sum that takes ten seconds -->"
    text = text.replace("</picture>", f"</picture>\n\n{replay}")
    lists = {}
    for part, rows in re.findall(r"^### (.+)\n([^#]*)", text, re.MULTILINE):
        lists[part] = re.findall(r"\((chapters/\d[^)]*)\.md\)", rows)
    lists["Help"] = ["chapters/*", "docs/*"]
    steps = f'<a href="chapters/{CHAPTERS[1]}/difference.html">Step through what changes</a>'
    book = '<a href="book.html">the whole course as one page</a>'
    links = f"{steps} from chapter to chapter, or print {book}."
    text = text.replace("\n## The idea\n", f"\n{links}\n\n## The idea\n")
    for caption, pages in lists.items():
        names = "\n".join(pages)
        text += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{names}\n```\n"
    return text


def add_to_context(app, page, template, context, doctree):
    """Give the templates a chapter's views and what other sites show of a page."""
    for way in ("prev", "next"):
        neighbour = context.get(way)
        if doctree and neighbour and not ("README" in page and "README" in neighbour["link"]):
            context[way] = None
    folder, _, view = page.rpartition("/")
    chapter = folder.removeprefix("chapters/")
    context["view"] = view
    context["views"] = dict(VIEWS) if chapter in CHAPTERS else {}
    if chapter not in PREVIOUS:
        context["views"].pop("difference", None)
    # A folder's address is shorter than its README.html.
    context["pageurl"] = re.sub(r"README\.html$", "", context["pageurl"] or "")
    if doctree:
        context["description"] = " ".join(doctree.next_node(nodes.paragraph).astext().split())


class Words(SearchEnglish):
    """Finds names by their parts, as acks_late finds task_acks_late. Both sides split alike."""

    _word_re = re.compile(r"[^\W_]+")
    js_splitter_code = "var splitQuery = text => text.match(/[\\p{L}\\p{N}]+/gu) ?? [];"


def collect_pages(app):
    """Yield the book, and what a server shows for a page that isn't there."""
    yield "book", {"title": "The whole course", "body": book.bind(app.outdir)}, "page.html"
    body = (
        '<h1>There is no such page</h1><p>The <a href="README.html">first page</a> lists them.</p>'
    )
    yield "404", {"title": "There is no such page", "body": body}, "page.html"


def add_files(app, failure):
    """Make each index.html, the pictures of the first page, the card and the list of pages."""
    for page in app.outdir.rglob("README.html"):
        shutil.copy(page, page.with_name("index.html"))
    # README.md names these two in HTML, which Sphinx leaves as it is.
    for name in ("picture.svg", "parts.svg"):
        shutil.copy(ROOT / "docs" / name, app.outdir / "docs" / name)
    card = novasvg.Document.load_from_data(CARD.format((ROOT / "docs/picture.svg").read_text()))
    card.render_to_bitmap(1200, 630).write_to_png(str(app.outdir / "_static/card.png"))
    if ADDRESS:
        urls = [f"{html_baseurl}{page}.html" for page in sorted(app.env.found_docs)]
        sitemap = re.sub(r"README\.html$", "", "\n".join(urls), flags=re.MULTILINE)
        (app.outdir / "sitemap.txt").write_text(sitemap)


def setup(app):
    PygmentsBridge.html_formatter = Lines
    app.add_transform(Blocks)
    app.connect("source-read", edit_source)
    app.add_search_language(Words)
    app.connect("html-collect-pages", code_pages.collect_pages)
    app.connect("html-collect-pages", collect_pages)
    app.connect("html-page-context", add_to_context)
    app.connect("build-finished", add_files)
