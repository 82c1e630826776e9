"""The pages of a chapter's files and of what changed in it, made from what git has."""

import subprocess
import sys
from pathlib import Path

from docutils import nodes
from pygments.lexers import TextLexer, find_lexer_class_for_filename

from course.chapters import CHAPTERS, PREVIOUS, ROOT, number_of


def git(*command, folder=ROOT):
    """Return what a command of git prints in a folder; exit with a sentence if it fails."""
    run = subprocess.run(
        ["git", "-C", folder, "-c", "core.quotePath=off", *command],
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


def require_commit():
    """Exit with a sentence if a chapter is not committed."""
    for chapter in CHAPTERS:
        git("rev-parse", f"HEAD:chapters/{chapter}")


def find_files(chapter):
    """Return the paths of the files that git has or would add, without the lesson."""
    folder = ROOT / "chapters" / chapter
    command = ["ls-files", "--cached", "--others", "--exclude-standard", "--", ".", ":!README.md"]
    names = git(*command, folder=folder).splitlines()
    return [Path(name) for name in names if (folder / name).is_file()]


def draw_growth():
    """Return the trees of all chapters' files, side by side, with what is new in bold."""
    trees = ""
    previous = set()
    for chapter in CHAPTERS:
        paths = {}  # a set in the order of its tree
        for file in find_files(chapter):
            for path in (*reversed(file.parents), file):
                paths[path] = True
        trees += "<pre>"
        for path in paths:
            name = path.name or chapter
            if path not in previous:
                name = f"<strong>{name}</strong>"
            trees += "  " * len(path.parts) + name + "\n"
        trees += "</pre>"
        previous = set(paths)
    region = 'class="growth" tabindex="0" role="region" aria-label="Files of the chapters"'
    return f"<div {region}>{trees}</div>"


def find_changes(chapter):
    """Yield the name, a remark and the difference of each file that changed in a chapter."""
    trees = [f"HEAD:chapters/{PREVIOUS[chapter]}", f"HEAD:chapters/{chapter}"]
    for line in git("diff", "-M", "--name-status", *trees, "--", ".", ":!README.md").splitlines():
        kind, *paths = line.split("\t")
        remark = {"A": "New file", "D": "Deleted file"}.get(kind, "")
        if kind.startswith("R"):
            remark = f"Similarity index {int(kind[1:])}%"
        # Plain, whatever the user's settings are.
        options = ["-M", "--no-color", "--no-ext-diff"]
        _, mark, hunks = git("diff", *options, *trees, "--", *paths).partition("\n@@ ")
        yield " → ".join(paths), remark, f"{mark}{hunks}", "diff"


def find_contents(chapter):
    """Yield the name, a remark, the text and the language of each file of a chapter."""
    for path in find_files(chapter):
        text = (ROOT / "chapters" / chapter / path).read_text()
        remark = "" if text else "Empty"
        lexer = find_lexer_class_for_filename(path.name) or TextLexer
        yield str(path), remark, text, lexer.aliases[0]


def make_page(app, title, place, sections):
    """Return what the template of a page of code needs."""
    parts = []
    for name, remark, code, language in sections:
        if code:
            code = app.builder.highlighter.highlight_block(code, language, force=True)
        part = {"id": nodes.make_id(name), "name": name, "remark": remark}
        parts.append(part | {"code": code, "language": language})
    return {"title": title, "place": place, "sections": parts}


def collect_pages(app):
    """Yield the pages of code. They are no documents, so that search finds lessons alone."""
    for chapter in CHAPTERS:
        lesson = app.env.titles[f"chapters/{chapter}/README"].astext()
        folder = f"chapters/{chapter}"
        page = make_page(app, f"{lesson}: files", folder, find_contents(chapter))
        yield f"{folder}/files", page, "code.html"
        if chapter in PREVIOUS:
            command = f"make chapter-{number_of(chapter)}-diff"
            page = make_page(app, f"{lesson}: what changed", command, find_changes(chapter))
            yield f"{folder}/difference", page, "code.html"
