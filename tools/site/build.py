"""Build the site in .course/site-pages: put its pages together in .course/site-source, and run Sphinx on them."""

import re
import shutil
import subprocess
import sys
from collections import namedtuple
from difflib import HtmlDiff
from functools import cache
from pathlib import Path

from docutils.nodes import make_id
from pygments.lexers import TextLexer, find_lexer_class_for_filename
from sphinx.cmd.build import build_main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from course import CHAPTERS, ROOT

SOURCE = ROOT / ".course/site-source"
PAGES = ROOT / ".course/site-pages"
BEFORE = dict(zip(CHAPTERS[1:], CHAPTERS, strict=False))
# Longer than any fence inside.
FENCE = "`" * 9

Change = namedtuple("Change", "kind old new hunks")


def git(*command):
    command = ["git", "-c", "core.quotePath=off", *command]
    return subprocess.check_output(command, cwd=ROOT, encoding="utf-8", errors="replace")


def number(chapter):
    return chapter.partition("-")[0]


@cache
def changes(chapter):
    """Return what changed in a chapter's files since the chapter before, the lesson left out, as git has it."""
    if chapter not in BEFORE:
        return []
    # Whatever the user of git has set.
    options = ["diff", "-M", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"]
    trees = [f"HEAD:chapters/{BEFORE[chapter]}", f"HEAD:chapters/{chapter}", "--", ".", ":(exclude)README.md"]
    texts = re.split("^(?=diff --git )", git(*options, *trees), flags=re.MULTILINE)[1:]
    found = []
    for line, text in zip(git(*options, "--name-status", *trees).splitlines(), texts, strict=True):
        status, *names = line.split("\t")
        kind = {"A": "new", "D": "removed", "R": f"renamed, {status[1:]}% alike"}.get(status[0], "changed")
        hunks = re.search("^@@ .*", text, re.MULTILINE | re.DOTALL)
        found.append(Change(kind, names[0], names[-1], hunks[0] if hunks else ""))
    return found


def side_by_side(chapter, change):
    """Return a table of the lines before and after, with the changed words marked, for Markdown."""
    old = git("show", f"HEAD:chapters/{BEFORE[chapter]}/{change.old}").splitlines()
    new = git("show", f"HEAD:chapters/{chapter}/{change.new}").splitlines()
    table = HtmlDiff().make_table(old, new, context=True, numlines=3).replace("&nbsp;", " ")
    # Links to the first change, the next one and the top.
    for letter, arrow in zip("fnt", "↓↓↑", strict=True):
        table = table.replace(f">{letter}</a>", f">{arrow}</a>")
    return f"{FENCE}{{raw}} html\n{table}\n{FENCE}\n"


def changes_page(chapter):
    title = (ROOT / "chapters" / chapter / "README.md").read_text().partition("\n")[0].partition(". ")[2]
    page = f"---\nhide-toc: true\n---\n# From {number(BEFORE[chapter])} to {number(chapter)}: {title}\n\n"
    page += f"What changed in the code since [](../{BEFORE[chapter]}/README.md), as git and "
    page += f"`make chapter-{number(chapter)}-diff` show it. The lesson [](README.md) explains it.\n\n"
    sections = ""
    for change in changes(chapter):
        name = change.new if change.old == change.new else f"{change.old} → {change.new}"
        page += f"- [`{name}`](#{make_id(name)}): {change.kind}\n"
        sections += f"\n## `{name}`\n\n{change.kind.capitalize()}.\n"
        if change.hunks:
            sections += f"\n{FENCE}diff\n{change.hunks}{FENCE}\n"
            if change.kind not in ("new", "removed"):
                sections += side_by_side(chapter, change)
    choice = '<label class="choice"><input type="checkbox" id="split" checked> Side by side</label>'
    return f"{page}\n{choice}\n{sections}"


def files_page(chapter, files):
    page = f"# The files of chapter {number(chapter)}\n\n"
    page += f"The whole app of the lesson [](README.md), in `chapters/{chapter}`.\n\n"
    page += "".join(f"- [`{name}`](#{make_id(name)})\n" for name in files)
    for name in files:
        content = (ROOT / "chapters" / chapter / name).read_bytes()
        page += f"\n## `{name}`\n\n"
        if not content or b"\0" in content:
            page += "Not a text.\n" if content else "Empty.\n"
        else:
            language = (find_lexer_class_for_filename(Path(name).name) or TextLexer).aliases[0]
            page += f"```{{literalinclude}} {name}\n:language: {language}\n:linenos:\n:force:\n```\n"
    return page


def write_pages():
    """Copy what git has or would add, and write the pages that are made of it."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    names = [name for name in names if (ROOT / name).is_file()]
    for name in names:
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, SOURCE / name)
    for chapter in CHAPTERS:
        folder = f"chapters/{chapter}/"
        files = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        (SOURCE / folder / "files.md").write_text(files_page(chapter, sorted(files - {"README.md"})))
        if chapter in BEFORE:
            (SOURCE / folder / "difference.md").write_text(changes_page(chapter))
    with (SOURCE / "README.md").open("a") as index:
        for caption, pages in (
            ("Lessons", [f"chapters/{chapter}/README" for chapter in CHAPTERS]),
            ("What changed", [f"chapters/{chapter}/difference" for chapter in BEFORE]),
            ("Files", [f"chapters/{chapter}/files" for chapter in CHAPTERS]),
            ("More", ["*/*", "*"]),
        ):
            index.write(f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n")
            index.write("\n".join(pages) + "\n```\n")


def main():
    for made in (SOURCE, PAGES):
        shutil.rmtree(made, ignore_errors=True)
    try:
        write_pages()
    except (FileNotFoundError, subprocess.CalledProcessError):
        sys.exit("The site is made from what git has: build it in a clone, with every chapter committed.")
    # Any warning fails the build: a link or a picture that is not there is one.
    options = ["--quiet", "--fail-on-warning", "--nitpicky", "--conf-dir", str(Path(__file__).parent)]
    if build_main([*options, "--doctree-dir", str(SOURCE / ".doctrees"), str(SOURCE), str(PAGES)]):
        shutil.rmtree(PAGES, ignore_errors=True)
        sys.exit("The site was not built: mend what the lines above name, and type make site again.")
    print("The site is in .course/site-pages; make site-serve shows it.")


if __name__ == "__main__":
    main()
