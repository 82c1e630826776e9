"""Sphinx's settings for the site, and what becomes of a lesson's labels, directives, diagrams and links."""

import re
from pathlib import Path

import mermaidx
from build import BEFORE, CHAPTERS, number
from docutils import nodes
from pygments.lexers import BashSessionLexer
from pygments.token import Generic
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

html_title = "Celery, one refactor at a time"

extensions = ["myst_parser", "sphinx_copybutton"]
include_patterns = ["*.md", "*/*.md"]
include_patterns += [f"chapters/*/{page}.md" for page in ("README", "files", "difference")]
exclude_patterns = [".*", "tools/tags.md"]  # that is the README.md of the tags
root_doc = "README"
# A link may lead to any heading of a page.
myst_heading_anchors = 3
myst_slug_func = nodes.make_id

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_use_index = False
html_copy_source = False
html_show_copyright = False
pygments_dark_style = "a11y-high-contrast-dark"
GREEN = {"color-brand-primary": "#2f6b1f", "color-brand-content": "#2b6419", "color-brand-visited": "#2b6419"}
LIGHT_GREEN = dict.fromkeys(GREEN, "#9bd17f")
html_theme_options = {
    "light_css_variables": GREEN | {"error": "#b30000", "diagram": "none"},
    "dark_css_variables": LIGHT_GREEN | {"error": "#ff8a80", "diagram": "invert(1) hue-rotate(180deg)"},
}

# What is typed is copied, without the prompt; a log, a list and a difference are for reading.
copybutton_selector = ".terminal > :is(.highlight-console, .highlight-pycon, .highlight-python) pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Narrow, for phones.
DIAGRAMS = {
    "sequence": {"wrap": True, "width": 110, "actorMargin": 20, "diagramMarginX": 5, "mirrorActors": False},
    "flowchart": {"htmlLabels": True, "rankSpacing": 35, "nodeSpacing": 25, "padding": 8},
}
# What keyboards and screen readers miss in Furo's pages. The lists of pages and headings come after the text, for keyboards.
REPAIRS = {
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
}
DRAWER = re.compile(r'( *<aside class="sidebar-drawer")(>.*?</aside>\n)(.*</aside>\n  </div>\n)', re.DOTALL)
# The front page and the lessons: previous and next lead through these alone.
LESSON = re.compile(r"(^|/)README(\.html)?$")
# What a chapter has, in the order of the links above it.
VIEWS = {"README": "Lesson", "difference": "What changed", "files": "Files"}


class Console(BashSessionLexer):
    """A shell whose tracebacks have their colour."""

    def get_tokens_unprocessed(self, text):
        for at, token, value in super().get_tokens_unprocessed(text):
            wrong = token is Generic.Output and re.match(r"Traceback \(|[\w.]+(Error|Exception): ", value)
            yield at, Generic.Traceback if wrong else token, value


def html(text):
    return nodes.raw("", text, format="html")


class Blocks(SphinxTransform):
    """A block's label becomes its caption, directives vanish; a link to a file leads to the page of files."""

    default_priority = 400

    def apply(self):
        for node in list(self.document.findall(nodes.Element)):
            if isinstance(node, nodes.raw) and "<!--" in node.astext():
                node.replace_self(html(re.sub("<!--.*?-->", "", node.astext(), flags=re.DOTALL)))
            elif node.get("language") == "mermaid":
                node.replace_self(picture(node))
            elif isinstance(node, nodes.literal_block):
                self.caption(node)
            elif isinstance(node, addnodes.download_reference):
                self.lead_to_page(node)

    def caption(self, block):
        """Make one box of a block and of the label above it, a word or a file's path in bold."""
        label = block.parent[max(block.parent.index(block) - 1, 0)]
        strong = label.next_node(nodes.strong)
        if not (strong and strong.astext() == label.astext()):
            return
        path, text = Path(label.astext()), strong.children
        kind = "file" if strong.next_node(nodes.literal) else nodes.make_id(label.astext())
        if block["language"] in ("python", "yaml") and path.parts[0] == "chapters":
            text = [nodes.reference("", "", *text, refuri=self.page_of(path))]
        elif "Traceback (" in block.astext() and block["language"] == "text":
            block["language"] = "pytb"
        label.parent.remove(label)
        box = nodes.container(classes=["terminal", kind])
        block.replace_self(box)
        box += [nodes.paragraph("", "", *text, classes=["code-block-caption"]), block]

    def page_of(self, path):
        """Return the place of a chapter's file on the page of its files."""
        page = self.app.builder.get_relative_uri(self.env.docname, f"chapters/{path.parts[1]}/files")
        return f"{page}#{nodes.make_id('/'.join(path.parts[2:]))}"

    def lead_to_page(self, link):
        path = Path(self.env.relfn2path(link["reftarget"], self.env.docname)[0])
        if path.parts[0] == "chapters":
            link.replace_self(nodes.reference("", "", *link, refuri=self.page_of(path)))


def picture(diagram):
    """Return a Mermaid diagram as a picture."""
    try:
        svg = mermaidx.render(diagram.astext(), theme="default", config=DIAGRAMS).svg()
    except RuntimeError as error:
        logging.getLogger(__name__).warning("This diagram cannot be drawn: %s", error, location=diagram)
        return html("")
    svg = svg.replace("my-svg", f"diagram-{diagram.line}")
    # Sphinx marks a found word, but cannot do so in these.
    svg = re.sub("<(title|desc|style)", r'<\1 class="nohighlight"', svg)
    return html(f'<div class="diagram">{svg}</div>')


def surround(app, page, template, context, doctree):
    """Put links to a chapter's views above each of them, and keep previous and next to the lessons."""
    for way in ("prev", "next"):
        if context.get(way) and not (LESSON.search(page) and LESSON.search(context[way]["link"])):
            context[way] = None
    *_, chapter, view = ["", *page.split("/")]
    if chapter in CHAPTERS:
        links = ""
        for name, text in VIEWS.items():
            if name != "difference" or chapter in BEFORE:
                current = ' aria-current="page"' if name == view else ""
                links += f'<a href="{name}.html"{current}>{text}</a>'
        context["body"] = (
            f'<nav class="views" aria-label="Chapter {number(chapter)}">{links}</nav>{context["body"]}'
        )


def repair(app, failure):
    for page in [] if failure else app.outdir.rglob("*.html"):
        text = DRAWER.sub(r'\3\1 aria-label="The course"\2', page.read_text())
        for old, new in REPAIRS.items():
            text = text.replace(old, new)
        page.write_text(text)
        if page.name == "README.html":
            page.with_name("index.html").write_text(text)


def setup(app):
    app.add_lexer("console", Console)
    app.add_transform(Blocks)
    app.connect("html-page-context", surround)
    app.connect("build-finished", repair)
