"""The site's settings for Sphinx. blocks.py changes lessons, code_pages.py makes pages of code."""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import novasvg
from docutils import nodes

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import code_pages
from blocks import Blocks

from course.chapters import CHAPTERS, PREVIOUS, ROOT

html_title = "Celery, one step at a time"

extensions = ["myst_parser", "sphinx_copybutton"]
include_patterns = ["*.md", "*/*.md", "chapters/*/README.md", "chapters/*/*/README.md"]
exclude_patterns = [".*", "my", "tools/tags.md"]  # that is the README.md of the tags
root_doc = "README"
templates_path = ["templates"]
# A link may lead to any heading of a page.
myst_heading_anchors = 3
myst_slug_func = nodes.make_id

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["site.css", "replay.css", "replay.js"]
html_css_files = ["site.css", "replay.css"]
html_js_files = [("replay.js", {"defer": "defer"})]
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

# What is typed is copied, without the prompt; a log, a list, a difference and ^C are for reading.
copybutton_selector = ".terminal pre:is(:has(.gp), .highlight-pytb pre)"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

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
    link = f'<a href="chapters/{CHAPTERS[1]}/difference.html">'
    text = text.replace("in a dozen lines.", f"in a dozen lines, as {link}its page</a> does.")
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
    if doctree and context["pageurl"]:
        description = doctree.next_node(nodes.paragraph).astext()
        context["about"] = {
            "title": app.env.titles[page].astext(),
            "url": context["pageurl"],
            "description": " ".join(description.split()),
            "image": f"{app.config.html_baseurl}_static/card.png",
        }


def add_files(app, failure):
    """Make each index.html, the pictures of the first page, and the one that other sites show."""
    for page in app.outdir.rglob("README.html"):
        shutil.copy(page, page.with_name("index.html"))
    # README.md names these two in HTML, which Sphinx leaves as it is.
    for name in ("picture.svg", "parts.svg"):
        shutil.copy(ROOT / "docs" / name, app.outdir / "docs" / name)
    picture = novasvg.Document.load_from_file(str(ROOT / "docs/picture.svg"))
    picture.render_to_bitmap(1460).write_to_png(str(app.outdir / "_static/card.png"))


def setup(app):
    code_pages.require_commit()
    app.add_transform(Blocks)
    app.connect("source-read", edit_source)
    app.connect("html-collect-pages", code_pages.collect_pages)
    app.connect("html-page-context", add_to_context)
    app.connect("build-finished", add_files)
