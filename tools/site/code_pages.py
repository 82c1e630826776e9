"""The pages of a chapter's files and of what changed in it, made from what git has."""

import re
import subprocess
import sys
from difflib import SequenceMatcher
from html import escape
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path

from blocks import make_line
from docutils import nodes
from pygments.lexers import TextLexer, find_lexer_class_for_filename
from pygments.token import STANDARD_TYPES

from course.chapters import CHAPTERS, GENERATED, PREVIOUS, ROOT, find_no_steps, number_of

FOLLOWING = {previous: chapter for chapter, previous in PREVIOUS.items()}
CONTEXT = 3  # lines around a change
SIMILAR = 0.5  # lines of which half is alike
PART = re.compile(r"(class|def) |\w+ = [\[({]|\w+:$")


def git(*command):
    """Return what a command of git prints; exit with a sentence if it fails."""
    run = subprocess.run(
        ["git", "-C", ROOT, "-c", "core.quotePath=off", *command],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if run.returncode:
        sys.exit(
            "The site is made from what git has: build it in a clone, with every chapter committed."
        )
    return run.stdout


def find_files(chapter):
    """Return the paths of what git has or would add, without the lesson and without copies."""
    folder = ROOT / "chapters" / chapter
    listing = ["ls-files", "--cached", "--others", "--exclude-standard"]
    copies = [f":!{pattern}" for pattern in GENERATED]
    names = git("-C", str(folder), *listing, "--", ".", ":!README.md", *copies).splitlines()
    return [Path(name) for name in names if (folder / name).is_file()]


def find_lexer(name):
    lexer = find_lexer_class_for_filename(Path(name).name) or TextLexer
    return lexer(stripnl=False)


def split_lines(text, name):
    """Return the lines of a file, each a list of its words: pairs of a CSS class and a text."""
    lines = [[]]
    for kind, value in find_lexer(name).get_tokens(text):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        for word in re.findall(r"\n|\w+|\W", value):
            if word == "\n":
                lines.append([])
            else:
                lines[-1].append((STANDARD_TYPES[kind], word))
    return lines


def draw_line(sign, words, others=None):
    """Return the HTML of a line, with marks on what a similar other line doesn't have."""
    html = ""
    matcher = SequenceMatcher(None, words, others or words, autojunk=False)
    for kind, start, end, _, _ in matcher.get_opcodes():
        tag = "span"
        if kind != "equal" and matcher.ratio() > SIMILAR:
            tag = "mark"
        for name, group in groupby(words[start:end], key=itemgetter(0)):
            text = "".join(word for _, word in group)
            html += f'<{tag} class="{name}">{escape(text)}</{tag}>'
    name = {"+": "gi", "-": "gd"}.get(sign, "")
    return make_line(f"{sign}{html}\n", name)


def compare(old, new, name):
    """Return the HTML of what differs between two texts of a file."""
    before, after = split_lines(old, name), split_lines(new, name)
    html = ""
    matcher = SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    for hunk in matcher.get_grouped_opcodes(CONTEXT):
        first = hunk[0][3]
        parts = [line for line in new.splitlines()[:first] if PART.match(line)]
        heading = f"line {first + 1}  {''.join(parts[-1:])}"
        html += make_line(f"{escape(heading)}\n", "gu")
        for kind, i, i_end, j, j_end in hunk:
            removed, added = before[i:i_end], after[j:j_end]
            if kind == "equal":
                html += "".join(draw_line(" ", words) for words in added)
                continue
            for words, others in zip_longest(removed, added[: len(removed)]):
                html += draw_line("-", words, others)
            for words, others in zip_longest(added, removed[: len(added)]):
                html += draw_line("+", words, others)
    return f'<div class="highlight"><pre>{html}</pre></div>'


def list_changes(chapter):
    """Return each change of a file in a chapter: git's letter, the old path and the new one."""
    trees = [f"HEAD:chapters/{PREVIOUS[chapter]}", f"HEAD:chapters/{chapter}"]
    others = [f":!{pattern}" for pattern in find_no_steps()]
    listing = git("diff", "-M", "--name-status", *trees, "--", ".", ":!README.md", *others)
    changes = []
    for line in listing.splitlines():
        kind, old, *new = line.split("\t")
        changes.append((kind[0], old, *(new or [old])))
    return changes


def draw_tree(chapter):
    """Return the tree of a chapter's files, with + at what is new and − at what is gone."""
    signs = {}
    sections = {}
    for kind, old, new in list_changes(chapter):
        sections[old] = sections[new] = nodes.make_id(new)
        signs[old] = "−"
        signs[new] = {"M": "±", "D": "−"}.get(kind, "+")
    tree = ""
    folders = {Path()}
    for name in sorted({str(path) for path in find_files(chapter)} | signs.keys()):
        path = Path(name)
        for folder in reversed(path.parents):
            if folder not in folders:
                folders.add(folder)
                tree += f"{'  ' * len(folder.parts)}{folder.name}/\n"
        text = escape(path.name)
        if name in signs:
            text = f'<a href="#{sections[name]}">{text}</a>'
        indent = "  " * (len(path.parts) - 1)
        tree += f"<b>{signs.get(name, ' ')}</b> {indent}{text}\n"
    return f'<pre class="tree">{tree}</pre>'


def find_changes(app, chapter):
    """Yield the name, a remark and the HTML of each file that changed in a chapter."""
    for kind, old, new in list_changes(chapter):
        remark = {"A": "New file", "D": "Deleted file", "R": f"Was {old}"}.get(kind, "")
        html = ""
        if kind != "D":
            text = git("show", f"HEAD:chapters/{chapter}/{new}")
            html = highlight(app, new, text)
        if kind in ("M", "R"):
            html = compare(git("show", f"HEAD:chapters/{PREVIOUS[chapter]}/{old}"), text, new)
        yield new, remark, html


def highlight(app, name, text):
    """Return the HTML of a file."""
    if not text:
        return "<p>Empty</p>"
    return app.builder.highlighter.highlight_block(text, find_lexer(name).aliases[0], force=True)


def find_contents(app, chapter):
    """Yield the name, a remark and the HTML of each file of a chapter."""
    for path in find_files(chapter):
        text = (ROOT / "chapters" / chapter / path).read_text()
        yield str(path), "", highlight(app, str(path), text)


def make_page(title, place, sections):
    """Return what the template of a page of code needs."""
    parts = []
    for name, remark, code in sections:
        parts.append({"id": nodes.make_id(name), "name": name, "remark": remark, "code": code})
    return {"title": title, "place": place, "sections": parts}


def collect_pages(app):
    """Yield pages that are no documents, so that search doesn't find them."""
    titles = {name: app.env.titles[f"chapters/{name}/README"].astext() for name in CHAPTERS}
    for chapter, title in titles.items():
        folder = f"chapters/{chapter}"
        page = make_page(f"{title}: files", folder, find_contents(app, chapter))
        yield f"{folder}/files", page, "code.html"
        if chapter in PREVIOUS:
            command = f"make chapter-{number_of(chapter)}-diff"
            page = make_page(f"{title}: what changed", command, find_changes(app, chapter))
            page["tree"] = draw_tree(chapter)
            for way, name in (("prev", PREVIOUS[chapter]), ("next", FOLLOWING.get(chapter))):
                if name in PREVIOUS:
                    page[way] = {"link": f"../{name}/difference.html", "title": titles[name]}
            yield f"{folder}/difference", page, "code.html"
