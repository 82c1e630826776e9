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
from pathlib import Path

import mermaidx
from differences import CHAPTERS, ROOT, described, difference_of, heading, hunks, lexer_of, names
from docutils.nodes import make_id
from sphinx.cmd.build import build_main

SOURCE = ROOT / ".course/site-source"
PAGES = ROOT / ".course/site-pages"

# Pages beside the lessons.
OTHERS = {
    "When it goes wrong": "chapters/when-it-goes-wrong.md",
    "Where the time goes": "tools/bench.md",
    "Security": "SECURITY.md",
}

REMARK = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
LISTING = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
DIFF_COMMAND = re.compile(r"^```console\n\$ make chapter-(\d+)-diff\n```\n", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")

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


def number_of(chapter):
    return int(chapter.partition("-")[0])


def title_of(chapter):
    """Return the first line of a lesson without its mark: "2. Configuration"."""
    return (CHAPTERS / chapter / "README.md").read_text().partition("\n")[0].removeprefix("# ")


def name_of(chapter):
    return title_of(chapter).partition(" ")[2]


def files_of(chapter):
    """Return the paths of a chapter's files, but for the lesson: those that git has or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.check_output(command, cwd=CHAPTERS / chapter, text=True).splitlines()
    return sorted(name for name in found if name != "README.md" and (CHAPTERS / chapter / name).is_file())


def raw(html):
    return f"```{{raw}} html\n{html}\n```\n" if html else ""


def difference_page(before, chapter):
    number = number_of(chapter)
    files = difference_of(chapter)
    lines = [
        f"""---
hide-toc: true
---
# From {number - 1} to {number}: {name_of(chapter)}

What changed since [chapter {number - 1}](/chapters/{before}/index.md), as git shows it: the code first, then the
lesson. [The lesson of chapter {number}](index.md) explains it. In a terminal this is

```console
$ make chapter-{number}-diff
```
""",
        *[f"- [{heading(file)}](#{make_id(heading(file))}): {described(file)}" for file in files],
        """
```{raw} html
<fieldset class="views"><legend>Show the differences</legend>
<label><input type="radio" name="view" id="view-split" checked> side by side</label>
<label><input type="radio" name="view" id="view-unified"> unified</label></fieldset>
```
""",
    ]
    for file in files:
        html = "\n".join(hunks(file, before, chapter, make_id(heading(file))))
        if names(file)[1] == "README.md":
            html = f"<details><summary>Show how the lesson differs</summary>\n{html}\n</details>"
        lines.append(f"## {heading(file)}\n\n{described(file).capitalize()}.\n\n{raw(html)}")
    return "\n".join(lines)


def tree(files):
    """Return the files as a nested list, each with a link to its place on the page."""
    lines, folders = [], ()
    for name in files:
        *parents, last = Path(name).parts
        for depth, parent in enumerate(parents):
            if folders[: depth + 1] != parents[: depth + 1]:
                lines.append(f"{'  ' * depth}- `{parent}/`")
        folders = parents
        lines.append(f"{'  ' * len(parents)}- [`{last}`](#{make_id(name)})")
    return "\n".join(lines)


def files_page(chapter):
    number, files = number_of(chapter), files_of(chapter)
    page = f"""# The files of chapter {number}

The whole app of [{title_of(chapter)}](index.md), in `chapters/{chapter}`. Its worker is started by

```console
$ make chapter-{number}-worker
```

{tree(files)}
"""
    for name in files:
        path = CHAPTERS / chapter / name
        page += f"\n## `{name}`\n\n"
        if path.read_text():
            place = os.path.relpath(path, SOURCE / "chapters" / chapter)
            language = lexer_of(name).aliases[0]
            page += f"```{{literalinclude}} {place}\n:language: {language}\n:linenos:\n```\n"
        else:
            page += "Empty.\n"
    return page


def pictures(diagram, name):
    """Yield a Mermaid diagram as two pictures, of which the page shows the one for its colours."""
    for scheme, theme in (("light", "default"), ("dark", "dark")):
        svg = mermaidx.render(diagram, theme=theme, config=DIAGRAMS).svg()
        svg = svg.replace("my-svg", f"{name}-{scheme}")
        # Sphinx marks a found word, but cannot do so in these.
        svg = re.sub("<(title|desc|style)", r'<\1 class="nohighlight"', svg)
        # Two thirds of its width is as small as it gets; then it scrolls.
        width = float(re.search(r"max-width: ([\d.]+)px", svg)[1])
        svg = svg.replace("max-width:", f"min-width: {width * 2 / 3:.0f}px; max-width:", 1)
        yield f'<div class="diagram only-{scheme}" tabindex="0">{svg}</div>'


def lesson_page(readme, before=None):
    """Return the page of a lesson, of the course's README, or of another text."""
    folder = readme.parent
    chapter = folder.name if folder.parent == CHAPTERS else None
    page = SOURCE / folder.relative_to(ROOT)
    changed = {names(file)[1]: file for file in difference_of(chapter)} if before else {}

    def link(match):
        # A link that begins with / is from the top of the repository, on GitHub too.
        target = (ROOT / match[1][1:] if match[1].startswith("/") else folder / match[1]).resolve()
        if target in [ROOT / name for name in OTHERS.values()]:
            return f"](/{target.relative_to(ROOT)}{match[2] or ''})"
        if target.exists() and CHAPTERS in target.parents:
            there, *rest = target.relative_to(CHAPTERS).parts
            name = "/".join(rest)
            if name in ("", "README.md"):
                return f"](/chapters/{there}/index.md{match[2] or ''})"
            if name in files_of(there):
                return f"](/chapters/{there}/files.md#{make_id(name)})"
        # Another file is taken along; Sphinx complains of one that is not there.
        return f"]({os.path.relpath(target, page)}{match[2] or ''})"

    def diagram(match):
        try:
            return raw("\n".join(pictures(match[1], f"diagram-{match.start()}")))
        except RuntimeError as error:
            sys.exit(f"{readme.relative_to(ROOT)} has a diagram that cannot be drawn: {error}")

    def difference_link(match):
        for there in CHAPTERS.glob(f"{match[1]}-*"):
            return f"{match[0]}\nOr [read it here](/chapters/{there.name}/difference.md), side by side.\n"
        return match[0]

    def listing(match):
        name, text = match.groups()
        block = f"```{{code-block}} python\n:caption: '[`{name}`](files.md#{make_id(name)})'\n\n{text}```\n"
        # Once for each file, below its first listing.
        if file := changed.pop(name, None):
            html = "\n".join(hunks(file, before, chapter))
            title = re.sub("`(.*?)`", r"<code>\1</code>", heading(file))
            summary = f"<summary>What changed in {title} since chapter {number_of(before)}</summary>"
            block += "\n" + raw(f'<details class="difference">{summary}\n{html}\n</details>')
        return block

    text = LINK.sub(link, readme.read_text())
    text = DIAGRAM.sub(diagram, text)
    text = DIFF_COMMAND.sub(difference_link, text)
    text = LISTING.sub(listing, text)
    text = REMARK.sub("", text)
    if chapter:
        ways = "[The files of this chapter](files.md)"
        if before:
            ways = f"[What changed since chapter {number_of(before)}](difference.md) · {ways}"
        text = text.replace("\n", f"\n\n{ways}\n", 1)
    return text


def contents(caption, pages):
    entries = "\n".join(f"{title} <{page}>" for title, page in pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def write(page, text):
    path = SOURCE / f"{page}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_pages(chapters):
    lessons, differences, files = [], [], []
    for before, chapter in zip([None, *chapters], chapters, strict=False):
        place, number = f"chapters/{chapter}", number_of(chapter)
        lessons.append((title_of(chapter), f"{place}/index"))
        write(f"{place}/index", lesson_page(CHAPTERS / chapter / "README.md", before))
        files.append((title_of(chapter), f"{place}/files"))
        write(f"{place}/files", files_page(chapter))
        if before:
            differences.append((f"{number - 1} → {number}. {name_of(chapter)}", f"{place}/difference"))
            write(f"{place}/difference", difference_page(before, chapter))
    others = [(title, name.removesuffix(".md")) for title, name in OTHERS.items()]
    for _, name in others:
        write(name, lesson_page(ROOT / f"{name}.md"))
    index = contents("Lessons", lessons) + contents("What changed", differences) + contents("Files", files)
    index += contents("More", others)
    write("index", lesson_page(ROOT / "README.md") + index)


def main():
    chapters = sorted((path.name for path in CHAPTERS.glob("[0-9]*-*")), key=number_of)
    if len(chapters) < 2:
        sys.exit("This is the tag of one chapter, and the site shows them all: type git switch main first.")
    for made in (SOURCE, PAGES):
        shutil.rmtree(made, ignore_errors=True)
    try:
        write_pages(chapters)
    except (FileNotFoundError, subprocess.CalledProcessError):
        sys.exit("The differences come from git: install it, and build the site in a clone of the course.")
    settings, cache = str(Path(__file__).parent), str(SOURCE / ".doctrees")
    # Any warning fails the build: a link or a picture that is not there is one.
    options = ["--quiet", "--fail-on-warning", "--nitpicky", "--conf-dir", settings, "--doctree-dir", cache]
    if build_main([*options, str(SOURCE), str(PAGES)]):
        shutil.rmtree(PAGES, ignore_errors=True)
        sys.exit(
            "The site was not built: mend in the lessons what the lines above name, and type make site again."
        )
    for page in PAGES.rglob("*.html"):
        html = page.read_text()
        for old, new in REPAIRS.items():
            html = html.replace(old, new)
        page.write_text(html)
    print("The site is in .course/site-pages; make site-serve shows it.")


if __name__ == "__main__":
    main()
