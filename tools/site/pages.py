"""Build the site: make its Markdown pages from the lessons, the files and git's differences, and run Sphinx on them.

The pages are made in .course/site-source, the site in .course/site-pages. A lesson stays as it is but for
what only the site can show: its remarks to the suite become captions, its Mermaid blocks pictures, and below
the listing of a file stands what changed in it.
"""

import os
import re
import shutil
import subprocess
import sys
from difflib import SequenceMatcher
from html import escape
from itertools import groupby, zip_longest
from pathlib import Path

import mermaidx
from docutils.nodes import make_id
from pygments.lexers import get_lexer_for_filename
from pygments.token import STANDARD_TYPES
from sphinx.cmd.build import build_main
from unidiff import PatchSet

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "chapters"
SOURCE = ROOT / ".course/site-source"
PAGES = ROOT / ".course/site-pages"

REMARK = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
LISTING = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
DIFF_COMMAND = re.compile(r"^```console\n\$ make chapter-(\d+)-diff\n```\n", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")

# As git prints it, whatever its user has set.
PLAIN = ["--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"]


def chapter_number(chapter):
    return int(chapter.partition("-")[0])


def title_of(chapter):
    """The lesson's first line, without its mark: "2. Configuration"."""
    return (CHAPTERS / chapter / "README.md").read_text().partition("\n")[0].removeprefix("# ")


def files_of(chapter):
    """The paths of a chapter's files, but for the lesson: those that git has or would add."""
    found = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=CHAPTERS / chapter, text=True
    )
    return sorted(name for name in found.splitlines() if name != "README.md")


# The difference


def difference_of(chapter):
    """What `make chapter-N-diff` shows, read."""
    command = ["sh", str(ROOT / "tools/diff.sh"), str(chapter_number(chapter)), *PLAIN]
    return PatchSet(subprocess.check_output(command, text=True))


def names(file):
    """The old and the new path of a file of a difference; None where there is none."""
    old, new = file.source_file, file.target_file
    return (
        None if file.is_added_file else old.removeprefix("a/"),
        None if file.is_removed_file else new.removeprefix("b/"),
    )


def heading(file):
    old, new = names(file)
    return f"`{old}` → `{new}`" if file.is_rename else f"`{new or old}`"


def described(file):
    """What became of a file, and how many lines went and came."""
    alike = re.search(r"similarity index (\d+%)", "".join(file.patch_info))
    kind = (
        f"renamed, {alike[1]} alike"
        if file.is_rename
        else "new"
        if file.is_added_file
        else "removed"
        if file.is_removed_file
        else "changed"
    )
    return f"{kind}, +{file.added} −{file.removed}" if len(file) else f"{kind}, empty"


def coloured(path):
    """The lines of a file, each a list of (CSS class, character), by Pygments."""
    lines = [[]]
    lexer = get_lexer_for_filename(path.name, stripnl=False)
    for kind, text in lexer.get_tokens(path.read_text()):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        for character in text:
            if character == "\n":
                lines.append([])
            else:
                lines[-1].append((STANDARD_TYPES[kind], character))
    return lines


def code(line, changed=(), tag=""):
    """A line as HTML, the changed columns in <ins> or <del>."""
    parts = []
    for (css, mark), found in groupby(enumerate(line), lambda each: (each[1][0], each[0] in changed)):
        text = escape("".join(character for _, (_, character) in found))
        text = f'<span class="{css}">{text}</span>' if css else text
        parts.append(f"<{tag}>{text}</{tag}>" if mark else text)
    return "<code>" + "".join(parts) + "</code>"


def changed_columns(old, new):
    """The columns in which two lines differ, word by word; none where they have little in common."""
    words = [re.findall(r"\w+|\W", "".join(character for _, character in line)) for line in (old, new)]
    matcher = SequenceMatcher(None, *words, autojunk=False)
    columns = set(), set()
    if matcher.ratio() > 0.5:
        for kind, *ends in matcher.get_opcodes():
            for side, (start, end) in enumerate((ends[:2], ends[2:])):
                if kind != "equal":
                    before = len("".join(words[side][:start]))
                    columns[side].update(range(before, before + len("".join(words[side][start:end]))))
    return columns


def rows_of(hunk, old_lines, new_lines):
    """Yield the old and the new half of each row of a hunk, side by side: (number, sign, HTML) or None."""
    for is_context, lines in groupby(hunk, lambda line: line.is_context):
        lines = list(lines)
        removed = [line.source_line_no for line in lines if line.source_line_no]
        added = [line.target_line_no for line in lines if line.target_line_no]
        for old, new in zip_longest(removed, added):
            old_line, new_line = old and old_lines[old - 1], new and new_lines[new - 1]
            if is_context:
                yield (old, " ", code(old_line)), (new, " ", code(new_line))
                continue
            columns = changed_columns(old_line, new_line) if old and new else ((), ())
            yield (
                (old, "−", code(old_line, columns[0], "del")) if old else None,
                (new, "+", code(new_line, columns[1], "ins")) if new else None,
            )


KINDS = {" ": "same", "−": "removed", "+": "added"}


def unified(rows):
    """The rows of a hunk below each other: of each change first what went, then what came."""
    for is_context, change in groupby(rows, lambda row: bool(row[0] and row[0][1] == " ")):
        change = list(change)
        if is_context:
            halves = [(old[0], new[0], *new[1:]) for old, new in change]
        else:
            halves = [(old[0], "", *old[1:]) for old, _ in change if old]
            halves += [("", new[0], *new[1:]) for _, new in change if new]
        for old, new, sign, html in halves:
            yield (
                f'<tr class="{KINDS[sign]}"><td class="number">{old}</td><td class="number">{new}</td>'
                f'<td class="sign">{sign}</td><td>{html}</td></tr>'
            )


def side_by_side(rows):
    for row in rows:
        yield "<tr>"
        for half in row:
            if half:
                number, sign, html = half
                kind = KINDS[sign]
                yield f'<td class="number {kind}">{number}</td><td class="sign {kind}">{sign}</td><td class="{kind}">{html}</td>'
            else:
                yield '<td class="nothing" colspan="3"></td>'
        yield "</tr>"


def table(view, columns, rows):
    widths = "".join(f'<col class="{name}">' for name in columns)
    return f'<table class="{view}"><colgroup>{widths}</colgroup><tbody>{"".join(rows)}</tbody></table>'


def hunks(file, before, chapter, anchor=""):
    """The hunks of a file as HTML; with an anchor linkable, and side by side too where there are two sides."""
    old, new = names(file)
    old_lines = coloured(CHAPTERS / before / old) if old else []
    new_lines = coloured(CHAPTERS / chapter / new) if new else []
    for number, hunk in enumerate(file, 1):
        rows = list(rows_of(hunk, old_lines, new_lines))
        place = f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@"
        name = f"{anchor}-{number}"
        yield f'<div class="hunk highlight" id="{name}">' if anchor else '<div class="hunk highlight">'
        yield f'<p><a href="#{name}">{place}</a></p>' if anchor else f"<p>{place}</p>"
        yield table("unified", ("number", "number", "sign", ""), unified(rows))
        if anchor and old and new:
            yield table("split", ("number", "sign", "") * 2, side_by_side(rows))
        yield "</div>"


def raw(html):
    return "```{raw} html\n" + html + "\n```\n"


VIEWS = """<fieldset class="views"><legend>Show the differences</legend>
<label><input type="radio" name="view" id="view-split" checked> side by side</label>
<label><input type="radio" name="view" id="view-unified"> unified</label></fieldset>"""


def difference_page(before, chapter):
    number = chapter_number(chapter)
    difference = difference_of(chapter)
    lines = [
        "---\nhide-toc: true\n---\n",
        f"# From {number - 1} to {number}: {title_of(chapter).partition(' ')[2]}\n",
        f"What changed since [chapter {number - 1}](/chapters/{before}/index.md), as git shows it: the code first, "
        f"then the lesson. The text that explains it is [the lesson of chapter {number}](index.md); "
        "in a terminal this is\n",
        f"```console\n$ make chapter-{number}-diff\n```\n",
    ]
    lines += [f"- [{heading(file)}](#{make_id(heading(file))}): {described(file)}" for file in difference]
    lines += ["", raw(VIEWS)]
    for file in difference:
        anchor = make_id(heading(file))
        html = "\n".join(hunks(file, before, chapter, anchor))
        lines.append(f"## {heading(file)}\n\n{described(file).capitalize()}.\n")
        if names(file)[1] == "README.md":
            html = f"<details><summary>Show how the lesson differs</summary>\n{html}\n</details>"
        lines.append(raw(f'<div class="difference">\n{html}\n</div>'))
    return "\n".join(lines)


# The files


def tree(files):
    """The chapter's files as a nested list, each with a link to its place on the page."""
    lines, folders = [], []
    for name in sorted(files, key=lambda name: (Path(name).parts[:-1] == (), name), reverse=False):
        *parents, last = Path(name).parts
        for depth, parent in enumerate(parents):
            if folders[depth : depth + 1] != [parent]:
                folders = [*folders[:depth], parent]
                lines.append(f"{'  ' * depth}- `{parent}/`")
        lines.append(f"{'  ' * len(parents)}- [`{last}`](#{make_id(name)})")
    return "\n".join(lines)


def files_page(chapter):
    files = files_of(chapter)
    number = chapter_number(chapter)
    lines = [
        f"# The files of chapter {number}\n",
        f"The whole app of [{title_of(chapter)}](index.md), in `chapters/{chapter}`. Its worker is started by\n",
        f"```console\n$ make chapter-{number}-worker\n```\n",
        tree(files) + "\n",
    ]
    for name in files:
        path = CHAPTERS / chapter / name
        lines.append(f"## `{name}`\n")
        if path.read_text():
            place = os.path.relpath(path, SOURCE / "chapters" / chapter)
            language = get_lexer_for_filename(name).aliases[0]
            lines.append(f"```{{literalinclude}} {place}\n:language: {language}\n:linenos:\n```\n")
        else:
            lines.append("Empty.\n")
    return "\n".join(lines)


# The lessons


def diagram(match, where):
    """A Mermaid block as two pictures, of which the page shows the one for its colours."""
    pictures = []
    for scheme, theme in (("light", "default"), ("dark", "dark")):
        try:
            svg = mermaidx.render(match[1], theme=theme, config=DIAGRAMS).svg()
        except RuntimeError as error:
            sys.exit(f"{where}: a diagram cannot be drawn: {error}")
        # Two thirds of its size is as small as it gets; then it scrolls.
        width = float(re.search(r"max-width: ([\d.]+)px", svg)[1])
        svg = svg.replace("my-svg", f"diagram-{match.start()}-{scheme}")
        svg = svg.replace("max-width:", f"min-width: {width * 2 / 3:.0f}px; max-width:", 1)
        pictures.append(f'<div class="diagram only-{scheme}" tabindex="0">{svg}</div>')
    return raw("\n".join(pictures))


# Narrow, for phones.
DIAGRAMS = {
    "sequence": {"wrap": True, "width": 110, "actorMargin": 20, "diagramMarginX": 5, "mirrorActors": False},
    "flowchart": {"htmlLabels": True, "rankSpacing": 35, "nodeSpacing": 25, "padding": 8},
}


def lesson_page(readme, before=None):
    """The page of a lesson, or of the course's README."""
    folder = readme.parent
    chapter = folder.name if folder != ROOT else None
    changed = {names(file)[1]: file for file in difference_of(chapter)} if before else {}

    def listing(match):
        name, text = match.groups()
        lines = [f"```{{code-block}} python\n:caption: '[`{name}`](files.md#{make_id(name)})'\n\n{text}```\n"]
        # Once for each file, below its first listing.
        if file := changed.pop(name, None):
            html = "\n".join(hunks(file, before, chapter))
            shown = re.sub("`(.*?)`", r"<code>\1</code>", heading(file))
            summary = f"What changed in {shown} since chapter {chapter_number(before)}"
            lines.append(raw(f'<details class="difference"><summary>{summary}</summary>\n{html}\n</details>'))
        return "\n".join(lines)

    def next_difference(match):
        place = next(CHAPTERS.glob(f"{match[1]}-*")).name
        return f"{match[0]}\nOr [read it here](/chapters/{place}/difference.md), side by side.\n"

    def link(match):
        target = (folder / match[1]).resolve()
        if not target.exists():
            return match[0]
        anchor = match[2] or ""
        if target.is_relative_to(CHAPTERS) and target != CHAPTERS:
            there, *rest = target.relative_to(CHAPTERS).parts
            if not rest or rest == ["README.md"]:
                return f"](/chapters/{there}/index.md{anchor})"
            if "/".join(rest) in files_of(there):
                return f"](/chapters/{there}/files.md#{make_id('/'.join(rest))})"
        page = SOURCE / "chapters" / chapter if chapter else SOURCE
        return f"]({os.path.relpath(target, page)}{anchor})"

    text = readme.read_text()
    text = LINK.sub(link, text)
    text = DIAGRAM.sub(lambda match: diagram(match, readme.relative_to(ROOT)), text)
    text = DIFF_COMMAND.sub(next_difference, text)
    text = LISTING.sub(listing, text)
    text = REMARK.sub("", text)
    if chapter:
        ways = ["[The files of this chapter](files.md)"]
        if before:
            ways.append(f"[what changed since chapter {chapter_number(before)}](difference.md)")
        title, text = text.split("\n", 1)
        text = f"{title}\n\n{' · '.join(ways)}\n{text}"
    return text


def contents(caption, entries):
    lines = "\n".join(f"{title} <{page}>" for title, page in entries)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def write(page, text):
    path = SOURCE / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# What keyboards and screen readers miss in Furo's pages.
REPAIRS = {
    "<pre>": '<pre tabindex="0">',
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="The course">',
    '<div id="search-results">': '<h1>Search</h1><div id="search-results">',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
}


def repair():
    for page in PAGES.rglob("*.html"):
        html = page.read_text()
        for old, new in REPAIRS.items():
            html = html.replace(old, new)
        page.write_text(html)


def main():
    chapters = sorted((path.name for path in CHAPTERS.glob("[0-9]*-*")), key=chapter_number)
    if len(chapters) < 2:
        sys.exit("This is the tag of one chapter: the site is made of them all, so git switch main first.")
    for made in (SOURCE, PAGES):
        shutil.rmtree(made, ignore_errors=True)
    before = None
    for chapter in chapters:
        write(f"chapters/{chapter}/index.md", lesson_page(CHAPTERS / chapter / "README.md", before))
        write(f"chapters/{chapter}/files.md", files_page(chapter))
        if before:
            write(f"chapters/{chapter}/difference.md", difference_page(before, chapter))
        before = chapter
    groups = [
        contents("Lessons", [(title_of(each), f"chapters/{each}/index") for each in chapters]),
        contents(
            "What changed",
            [
                (f"{chapter_number(each) - 1} → {chapter_number(each)}. {title_of(each).partition(' ')[2]}", f"chapters/{each}/difference")
                for each in chapters[1:]
            ],
        ),
        contents("Files", [(title_of(each), f"chapters/{each}/files") for each in chapters]),
    ]
    write("index.md", lesson_page(ROOT / "README.md") + "\n" + "\n".join(groups))
    here = str(Path(__file__).parent)
    failed = build_main(["-q", "-W", "--keep-going", "-n", "-c", here, "-d", str(SOURCE / ".doctrees"), str(SOURCE), str(PAGES)])
    if failed:
        shutil.rmtree(PAGES, ignore_errors=True)
        sys.exit("The site was not built: mend what the lines above name in the lessons, and type make site again.")
    repair()
    print("The site is in .course/site-pages; make site-serve shows it.")


if __name__ == "__main__":
    main()
