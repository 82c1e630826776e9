"""The site: Sphinx's settings, its pages of files and differences, and what becomes of a lesson's labels and links."""

import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

import mermaidx
import novasvg
from docutils import nodes
from pygments.lexers import TextLexer, find_lexer_class_for_filename
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from course.chapters import CHAPTERS, PREVIOUS, ROOT, number_of

html_title = "Celery, one refactor at a time"

extensions = ["myst_parser", "sphinx_copybutton"]
include_patterns = ["*.md", "*/*.md", "chapters/*/README.md"]
exclude_patterns = [".*", "my", "tools/tags.md"]  # that is the README.md of the tags
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
html_show_sphinx = False
if REPOSITORY := os.environ.get("GITHUB_REPOSITORY"):
    html_baseurl = "https://{}.github.io/{}/".format(*REPOSITORY.split("/"))
pygments_dark_style = "a11y-high-contrast-dark"
GREEN = [
    "color-brand-primary",
    "color-brand-content",
    "color-brand-visited",
    "color-link-underline",
]
html_theme_options = {
    "light_css_variables": dict.fromkeys(GREEN, "#2b6419") | {"error": "#b30000", "inverted": "0"},
    "dark_css_variables": dict.fromkeys(GREEN, "#9bd17f")
    | {"error": "#ff8a80", "inverted": "0.93"},
}

# What is typed is copied, without the prompt; a log, a list, a difference and ^C are for reading.
copybutton_selector = ".terminal pre:is(:has(.gp), .highlight-pytb pre)"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Narrow, for phones.
DIAGRAMS = {
    "sequence": {
        "wrap": True,
        "width": 110,
        "actorMargin": 20,
        "diagramMarginX": 5,
        "mirrorActors": False,
    },
    "flowchart": {"rankSpacing": 35, "nodeSpacing": 25, "padding": 8, "wrappingWidth": 300},
}
# What keyboards and screen readers miss in Furo's pages. The lists of pages and headings come after the text, for keyboards.
REPAIRS = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
}
DRAWER = re.compile(
    r'( *<aside class="sidebar-drawer")(>.*?</aside>\n)(.*</aside>\n  </div>\n)', re.DOTALL
)
# What a chapter has, in the order of the links above it.
VIEWS = {"README": "Lesson", "difference": "What changed", "files": "Files"}


def git(*command, folder=ROOT):
    command = ["git", "-C", folder, "-c", "core.quotePath=off", *command]
    run = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if run.returncode:
        sys.exit(
            "The site is made from what git has: build it in a clone, with every chapter committed."
        )
    return run.stdout


def files(chapter):
    """Return the paths of the files that git has or would add, without the lesson."""
    folder = ROOT / "chapters" / chapter
    command = ["ls-files", "--cached", "--others", "--exclude-standard", "--", ".", ":!README.md"]
    return [
        Path(name)
        for name in git(*command, folder=folder).splitlines()
        if (folder / name).is_file()
    ]


class Blocks(SphinxTransform):
    """A block's label becomes its caption; a link to a file leads to the page of files; a cell knows its column."""

    default_priority = 400

    def apply(self):
        for node in list(self.document.findall(nodes.Element)):
            if node.get("language") == "mermaid":
                node.replace_self(picture(node))
            elif isinstance(node, nodes.literal_block):
                self.caption(node)
            elif isinstance(node, addnodes.download_reference):
                self.lead_to_page(node)
            elif isinstance(node, nodes.tbody):
                for row in node:
                    for cell, head in zip(row, node.parent.next_node(nodes.row), strict=True):
                        cell.insert(0, nodes.inline("", f"{head.astext()} ", classes=["column"]))

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
        elif "Traceback (" in block.astext() and block["language"] != "pycon":
            block["language"] = "pytb"
        label.parent.remove(label)
        box = nodes.container(classes=["terminal", kind])
        block.replace_self(box)
        box += [nodes.paragraph("", "", *text, classes=["code-block-caption"]), block]

    def page_of(self, path):
        """Return the place of a chapter's file on the page of its files."""
        page = self.app.builder.get_relative_uri(
            self.env.docname, f"chapters/{path.parts[1]}/files"
        )
        return f"{page}#{nodes.make_id('/'.join(path.parts[2:]))}"

    def lead_to_page(self, link):
        path = Path(self.env.relfn2path(link["reftarget"], self.env.docname)[0])
        if path.parts[0] == "chapters":
            link.replace_self(nodes.reference("", "", *link, refuri=self.page_of(path)))


def picture(diagram):
    """Return a Mermaid diagram as a picture."""
    svg = mermaidx.render(diagram.astext(), theme="default", config=DIAGRAMS).svg()
    svg = svg.replace("my-svg", f"diagram-{diagram.line}")
    # Sphinx marks a found word, but cannot do so in these.
    svg = re.sub("<(title|desc|style)", r'<\1 class="nohighlight"', svg)
    return nodes.raw("", f'<div class="diagram">{svg}</div>', format="html")


def growth():
    """Return a tree of each chapter's files, side by side, in which what is new stands out."""
    strip, before = "", {}
    for chapter in CHAPTERS:
        paths = dict.fromkeys(
            path for name in files(chapter) for path in (*name.parents[::-1], name)
        )
        strip += "<pre>"
        for path in paths:
            name = path.name or chapter
            strip += (
                "  " * len(path.parts)
                + (name if path in before else f"<strong>{name}</strong>")
                + "\n"
            )
        strip, before = f"{strip}</pre>", paths
    return f'<div class="growth" tabindex="0" role="region" aria-label="Files of the chapters">{strip}</div>'


def read(app, page, source):
    """Give README.md, the first page, the lists of pages; keep what is for maintainers out of search and of next."""
    if page != root_doc:
        if not page.startswith(("chapters/", "docs/")):
            source[0] = f"---\norphan: true\nnosearch: true\n---\n{source[0]}"
        return
    # The badges are for the repository's own page.
    text = re.sub(r"^\[!\[.*\n\n", "", source[0], flags=re.MULTILINE)
    if REPOSITORY:
        text = text.replace(
            "this repository", f"[this repository](https://github.com/{REPOSITORY})"
        )
    lists = re.findall(r"^### (.+)\n([^#]*)", text, re.MULTILINE)
    lists = {part: re.findall(r"\((chapters/\d[^)]*)\.md\)", rows) for part, rows in lists}
    text += f"\n## How the app grows\n\nWhat is new in a chapter is in bold.\n\n{growth()}\n"
    for caption, pages in (lists | {"Help": ["chapters/*", "docs/*"]}).items():
        pages = "\n".join(pages)
        text += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{pages}\n```\n"
    source[0] = text


def changes(chapter):
    """Yield a name, a remark and the difference of each file that changed since the chapter before, as git has it."""
    # Whatever the user of git has set.
    options = ["diff", "-M", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"]
    trees = [
        f"HEAD:chapters/{PREVIOUS[chapter]}",
        f"HEAD:chapters/{chapter}",
        "--",
        ".",
        ":!README.md",
    ]
    for text in re.split("^diff --git ", git(*options, *trees), flags=re.MULTILINE)[1:]:
        head, mark, hunks = text.partition("\n@@ ")
        names = dict.fromkeys(re.match("a/(.+) b/(.+)", head).groups())
        remark = re.search(r"^(new|deleted) file|^similarity index .+|\Z", head, re.MULTILINE)[0]
        yield " → ".join(names), remark.capitalize(), f"{mark}{hunks}", "diff"


def contents(chapter):
    """Yield a name, a remark, the text and the language of each file."""
    for path in files(chapter):
        text = (ROOT / "chapters" / chapter / path).read_text()
        lexer = find_lexer_class_for_filename(path.name) or TextLexer
        yield str(path), "" if text else "Empty", text, lexer.aliases[0]


def code_pages(app):
    """Yield the pages of a chapter's changes and files. They are no documents, so that search finds lessons alone."""
    for chapter in CHAPTERS:
        lesson = app.env.titles[f"chapters/{chapter}/README"].astext()
        views = [("files", f"chapters/{chapter}", contents)]
        if chapter in PREVIOUS:
            views.append(("difference", f"make chapter-{number_of(chapter)}-diff", changes))
        for view, where, sections in views:
            title, toc = f"{lesson}: {VIEWS[view].lower()}", ""
            body = f'<h1>{title}</h1><p><code class="literal">{where}</code></p>'
            for name, remark, code, language in sections(chapter):
                link, name = nodes.make_id(name), f'<code class="literal">{name}</code>'
                toc += f'<li><a href="#{link}">{name}</a></li>'
                body += f'<section id="{link}"><h2>{name}</h2><p>{remark}</p>'
                if code:
                    code = app.builder.highlighter.highlight_block(code, language, force=True)
                    body += f'<div class="highlight-{language}">{code}</div>'
                body += "</section>"
            toc = f'<ul><li><a href="#">{title}</a><ul>{toc}</ul></li></ul>'
            yield (
                f"chapters/{chapter}/{view}",
                {"title": title, "body": body, "toc": toc},
                "page.html",
            )


def surround(app, page, template, context, doctree):
    """Put links to a chapter's views above each, keep previous and next to the lessons, and say what other sites show."""
    for way in ("prev", "next"):
        if context.get(way) and not ("README" in page and "README" in context[way]["link"]):
            context[way] = None
    *_, chapter, view = ["", *page.split("/")]
    if chapter in CHAPTERS:
        links = ""
        for name, text in VIEWS.items():
            if name != "difference" or chapter in PREVIOUS:
                current = ' aria-current="page"' if name == view else ""
                links += f'<a href="{name}.html"{current}>{text}</a>'
        context["body"] = (
            f'<nav class="views" aria-label="This chapter">{links}</nav>{context["body"]}'
        )
        # Furo looks for a document's headings.
        context["furo_hide_toc"] &= bool(doctree)
    if doctree and context["pageurl"]:
        about = {"title": app.env.titles[page].astext(), "url": context["pageurl"]}
        about["description"] = doctree.next_node(nodes.paragraph).astext()
        about["image"] = f"{app.config.html_baseurl}_static/card.png"
        for name, text in about.items():
            context["metatags"] += (
                f'<meta property="og:{name}" content="{escape(" ".join(text.split()))}">\n'
            )


def repair(app, failure):
    for page in app.outdir.rglob("*.html"):
        text = DRAWER.sub(r'\3\1 aria-label="The course"\2', page.read_text())
        for old, new in REPAIRS.items():
            text = text.replace(old, new)
        page.write_text(text)
        if page.name == "README.html":
            page.with_name("index.html").write_text(text)
    card = novasvg.Document.load_from_file(str(ROOT / "docs/picture.svg")).render_to_bitmap(1460)
    card.write_to_png(str(app.outdir / "_static/card.png"))


def setup(app):
    # First, so that its sentence comes alone.
    git("rev-parse", *(f"HEAD:chapters/{chapter}" for chapter in CHAPTERS))
    app.add_transform(Blocks)
    app.connect("source-read", read)
    app.connect("html-collect-pages", code_pages)
    app.connect("html-page-context", surround, priority=600)  # after Furo
    app.connect("build-finished", repair)
