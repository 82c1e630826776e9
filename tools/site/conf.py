"""Sphinx's settings for the site, and what becomes of a lesson's directives, diagrams and links."""

import re
from pathlib import Path

import mermaidx
from build import BEFORE, CHAPTERS, changes, number
from docutils import nodes
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
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f6b1f", "color-brand-content": "#2b6419"},
    "dark_css_variables": {"color-brand-primary": "#9bd17f", "color-brand-content": "#9bd17f"},
}

# What is typed is copied, without the prompt; a log, a list and a difference are for reading.
copybutton_selector = "div:is(.highlight-console, .highlight-pycon, .highlight-python) pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Narrow, for phones.
DIAGRAMS = {
    "sequence": {"wrap": True, "width": 110, "actorMargin": 20, "diagramMarginX": 5, "mirrorActors": False},
    "xyChart": {"width": 350, "height": 260},
    "flowchart": {"htmlLabels": True, "rankSpacing": 35, "nodeSpacing": 25, "padding": 8},
}
# What keyboards and screen readers miss in Furo's pages.
REPAIRS = {
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="The course">',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
}


def html(text):
    return nodes.raw("", text, format="html")


class Lesson(SphinxTransform):
    """A listing's label becomes its caption, directives vanish; a link to a file leads to the page of files."""

    default_priority = 400

    def apply(self):
        *_, folder, page = ["", *self.env.docname.split("/")]
        chapter = folder if page == "README" and folder in CHAPTERS else None
        changed = {change.new: change.hunks for change in changes(chapter)} if chapter else {}
        for node in list(self.document.findall(nodes.Element)):
            if isinstance(node, nodes.raw) and "<!--" in node.astext():
                node.replace_self(html(re.sub("<!--.*?-->", "", node.astext(), flags=re.DOTALL)))
            elif node.get("language") == "mermaid":
                node.replace_self(pictures(node))
            elif isinstance(node, nodes.literal_block) and chapter:
                label = node.parent[node.parent.index(node) - 1]
                if node["language"] == "python":
                    # What changed, once for each file, below its first listing.
                    listed = label.astext().removeprefix(f"chapters/{chapter}/")
                    label.parent.remove(label)
                    self.caption(node, f"files.html#{nodes.make_id(listed)}", listed, changed.pop(listed, ""))
                for other in BEFORE:
                    if f"make chapter-{number(other)}-diff" in node.astext():
                        self.caption(node, f"../{other}/difference.html", "What changed, on a page")
            elif isinstance(node, addnodes.download_reference):
                self.lead_to_page(node)
        if chapter:
            ways = '<a href="files.html">The files of this chapter</a>'
            if chapter in BEFORE:
                ways = f'<a href="difference.html">What changed since the chapter before</a> · {ways}'
            self.document.next_node(nodes.section).insert(1, html(f"<p>{ways}</p>"))

    def caption(self, block, target, text, hunks=""):
        """Put a link above a block, and what changed, folded, below it."""
        around = [html(f'<div class="code-block-caption"><a href="{target}">{text}</a></div>'), block]
        if hunks:
            summary = html("<details><summary>What changed in this file since the chapter before</summary>")
            around += [summary, nodes.literal_block(hunks, hunks, language="diff"), html("</details>")]
        siblings, place = block.parent, block.parent.index(block)
        siblings[place : place + 1] = around

    def lead_to_page(self, link):
        path = Path(self.env.relfn2path(link["reftarget"], self.env.docname)[0])
        if path.parts[0] == "chapters":
            chapter, name = path.parts[1], "/".join(path.parts[2:])
            page = self.app.builder.get_relative_uri(self.env.docname, f"chapters/{chapter}/files")
            link.replace_self(nodes.reference("", "", *link, refuri=f"{page}#{nodes.make_id(name)}"))


def pictures(diagram):
    """Return a Mermaid diagram as two pictures, of which the page shows the one for its colours."""
    shown = ""
    for scheme, theme in (("light", "default"), ("dark", "dark")):
        try:
            svg = mermaidx.render(diagram.astext(), theme=theme, config=DIAGRAMS).svg()
        except RuntimeError as error:
            logging.getLogger(__name__).warning("This diagram cannot be drawn: %s", error, location=diagram)
            break
        svg = svg.replace("my-svg", f"diagram-{diagram.line}-{scheme}")
        # Sphinx marks a found word, but cannot do so in these.
        svg = re.sub("<(title|desc|style)", r'<\1 class="nohighlight"', svg)
        shown += f'<div class="diagram only-{scheme}">{svg}</div>'
    return html(shown)


def repair(app, failure):
    for page in [] if failure else app.outdir.rglob("*.html"):
        text = page.read_text()
        for old, new in REPAIRS.items():
            text = text.replace(old, new)
        page.write_text(text)
        if page.name == "README.html":
            page.with_name("index.html").write_text(text)


def setup(app):
    app.add_transform(Lesson)
    app.connect("build-finished", repair)
