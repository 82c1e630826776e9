"""What becomes of a lesson's blocks, links and tables."""

import re
from pathlib import Path
from zlib import crc32

import mermaidx
import replay
from docutils import nodes
from pygments.formatters import HtmlFormatter
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

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


class Lines(HtmlFormatter):
    """Makes a box of each line, so that the rest of a line that wraps is indented."""

    def wrap(self, source):
        return super().wrap((is_code, make_line(html)) for is_code, html in source)


def make_line(html, name=""):
    """Return a line of code as a box that knows its indent."""
    text = re.sub("<.*?>", "", html)
    indent = len(text) - len(text.lstrip())
    return f'<span class="line {name}" style="--indent: {indent}ch">{html}</span>'


class Blocks(SphinxTransform):
    """Make captions of labels, pictures of diagrams, and links to the pages of files."""

    default_priority = 400

    def apply(self):
        for node in list(self.document.findall(nodes.Element)):
            if node.get("language") == "mermaid":
                node.replace_self(draw(node))
            elif isinstance(node, nodes.literal_block):
                self.add_caption(node)
            elif isinstance(node, addnodes.download_reference):
                self.link_to_page(node)
            elif isinstance(node, nodes.tbody):
                name_columns(node)
            elif isinstance(node, nodes.raw):
                add_replay(node)

    def add_caption(self, block):
        """Make one box of a block and of the label above it, a word or a file's path in bold."""
        label = block.parent[max(block.parent.index(block) - 1, 0)]
        strong = label.next_node(nodes.strong)
        if not strong or strong.astext() != label.astext():
            return
        path = Path(label.astext())
        caption = strong.children
        if block["language"] in ("python", "sh", "yaml") and path.parts[0] == "chapters":
            caption = [nodes.reference("", "", *caption, refuri=self.page_of(path))]
        elif "Traceback (" in block.astext() and block["language"] != "pycon":
            block["language"] = "pytb"
        kind = nodes.make_id(label.astext())
        if strong.next_node(nodes.literal):
            kind = "file"
        label.parent.remove(label)
        box = nodes.container(classes=["terminal", kind])
        block.replace_self(box)
        box += [nodes.paragraph("", "", *caption, classes=["code-block-caption"]), block]

    def page_of(self, path):
        """Return the relative URL of a chapter's file on the page of its files."""
        _, chapter, *rest = path.parts
        page = self.app.builder.get_relative_uri(self.env.docname, f"chapters/{chapter}/files")
        return f"{page}#{nodes.make_id('/'.join(rest))}"

    def link_to_page(self, link):
        """Lead a link to a chapter's file to the page of files instead of a download."""
        path = Path(self.env.relfn2path(link["reftarget"], self.env.docname)[0])
        if path.parts[0] == "chapters":
            link.replace_self(nodes.reference("", "", *link, refuri=self.page_of(path)))


def name_columns(body):
    """Begin each cell of a table's body with the name of its column, which phones show."""
    heads = body.parent.next_node(nodes.row)
    for row in body:
        for cell, head in zip(row, heads, strict=True):
            cell.insert(0, nodes.inline("", f"{head.astext()} ", classes=["column"]))


def add_replay(comment):
    """Put a player where a directive asks for one."""
    found = replay.DIRECTIVE.match(comment.astext())
    if found:
        html = replay.draw(found[1].split(), found[2])
        comment.replace_self(nodes.raw("", html, format="html"))


def draw(diagram):
    """Return a Mermaid diagram as a picture."""
    svg = mermaidx.render(diagram.astext(), theme="default", config=DIAGRAMS).svg()
    svg = svg.replace("my-svg", f"diagram-{crc32(diagram.astext().encode())}")
    # Sphinx's script marks the words of a search, which would break these.
    for tag in ("title", "desc", "style"):
        svg = svg.replace(f"<{tag}", f'<{tag} class="nohighlight"')
    return nodes.raw("", f'<div class="diagram">{svg}</div>', format="html")
