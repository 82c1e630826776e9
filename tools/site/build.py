"""Build the site in .course/site-pages: put its pages together in .course/site-source, and run Sphinx on them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pygments.lexers import TextLexer, find_lexer_class_for_filename
from sphinx.cmd.build import build_main

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from course import CHAPTERS, ROOT

SOURCE = ROOT / ".course/site-source"
PAGES = ROOT / ".course/site-pages"
BEFORE = dict(zip(CHAPTERS[1:], CHAPTERS, strict=False))
LEARNERS = ("README.md", "chapters/", "docs/")
# A page that search, next and previous pass over.
ASIDE = "---\norphan: true\nnosearch: true\n---\n"
# Longer than any fence inside.
FENCE = "`" * 9


def git(*command):
    command = ["git", "-c", "core.quotePath=off", *command]
    return subprocess.check_output(command, cwd=ROOT, encoding="utf-8", errors="replace")


def number(chapter):
    return chapter.partition("-")[0]


def title(chapter):
    return (ROOT / "chapters" / chapter / "README.md").read_text().partition("\n")[0].removeprefix("# ")


def changes_page(chapter):
    """Return what changed in a chapter's files since the chapter before, the lesson left out, as git has it."""
    page = f"{ASIDE}# {title(chapter)}: what changed\n\nThe code's difference from [](../{BEFORE[chapter]}/README.md), "
    page += f"which `make chapter-{number(chapter)}-diff` shows in a terminal.\n"
    # Whatever the user of git has set.
    options = ["diff", "-M", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"]
    trees = [f"HEAD:chapters/{BEFORE[chapter]}", f"HEAD:chapters/{chapter}", "--", ".", ":(exclude)README.md"]
    texts = re.split("^(?=diff --git )", git(*options, *trees), flags=re.MULTILINE)[1:]
    for line, text in zip(git(*options, "--name-status", *trees).splitlines(), texts, strict=True):
        status, *names = line.split("\t")
        kind = {"A": "New", "D": "Removed", "R": f"Renamed, {status[1:]}% alike"}.get(status[0], "Changed")
        page += f"\n## `{' → '.join(names)}`\n\n{kind}.\n"
        if hunks := re.search("^@@ .*", text, re.MULTILINE | re.DOTALL):
            page += f"\n{FENCE}diff\n{hunks[0]}{FENCE}\n"
    return page


def files_page(chapter, files):
    page = f"{ASIDE}# {title(chapter)}: the files\n\nThe whole app, in `chapters/{chapter}`.\n"
    for name in files:
        content = (ROOT / "chapters" / chapter / name).read_bytes()
        page += f"\n## `{name}`\n\n"
        if not content or b"\0" in content:
            page += "Not a text.\n" if content else "Empty.\n"
        else:
            language = (find_lexer_class_for_filename(Path(name).name) or TextLexer).aliases[0]
            page += f"```{{literalinclude}} {name}\n:language: {language}\n:force:\n```\n"
    return page


def growth(names):
    """Return the files of each chapter as a strip of lists, in which a chapter's new ones stand out."""
    strip, before = "", []
    for chapter in CHAPTERS:
        files = [name.split("/", 2)[2] for name in names if name.startswith(f"chapters/{chapter}/")]
        files = [name for name in files if name not in ("README.md", ".gitignore")]
        shown = (name if name in before else f"<strong>{name}</strong>" for name in files)
        strip += f"<div><p>{title(chapter)}</p><ul><li>{'</li><li>'.join(shown)}</li></ul></div>"
        before = files
    return f'\n## How the app grows\n\nA file in bold is new.\n\n<div class="growth">{strip}</div>\n'


def front(text, others):
    """Return README.md as the site's first page, with lists of the lessons and of the other pages for learners."""
    text = re.sub(r"^\[!\[.*\n\n", "", text, flags=re.MULTILINE)  # badges are for the repository's own page
    if name := os.environ.get("GITHUB_REPOSITORY"):
        text = text.replace("this repository", f"[this repository](https://github.com/{name})")
    parts = re.findall(r"^### (.+)\n([^#]*)", text, re.MULTILINE)
    lists = {part: re.findall(r"\((chapters/\d[^)]*)\.md\)", rows) for part, rows in parts}
    lessons = [f"chapters/{chapter}/README" for chapter in CHAPTERS]
    lists["Lessons"] = [lesson for lesson in lessons if f"({lesson}.md)" not in text]
    lists["Help"] = others
    for caption, pages in lists.items():
        if pages:
            pages = "\n".join(pages)
            text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"
    return text


def write_pages():
    """Copy what git has or would add, and write the pages that are made of it."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    names = [name for name in names if (ROOT / name).is_file()]
    for name in names:
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, SOURCE / name)
        if name.endswith(".md") and not name.startswith(LEARNERS):
            (SOURCE / name).write_text(ASIDE + (ROOT / name).read_text())
    others = [name.removesuffix(".md") for name in names if re.fullmatch(r"(chapters|docs)/[^/]+\.md", name)]
    (SOURCE / "README.md").write_text(front((ROOT / "README.md").read_text() + growth(names), others))
    for chapter in CHAPTERS:
        folder = f"chapters/{chapter}/"
        files = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        (SOURCE / folder / "files.md").write_text(files_page(chapter, sorted(files - {"README.md"})))
        if chapter in BEFORE:
            (SOURCE / folder / "difference.md").write_text(changes_page(chapter))


def main():
    for made in (SOURCE, PAGES):
        shutil.rmtree(made, ignore_errors=True)
    try:
        write_pages()
    except (FileNotFoundError, subprocess.CalledProcessError):
        sys.exit("The site is made from what git has: build it in a clone, with every chapter committed.")
    # Any warning fails the build: a link or a picture that is not there is one.
    options = [
        "--quiet",
        "--fail-on-warning",
        "--nitpicky",
        "--jobs=auto",
        "--conf-dir",
        str(Path(__file__).parent),
    ]
    if build_main([*options, "--doctree-dir", str(SOURCE / ".doctrees"), str(SOURCE), str(PAGES)]):
        shutil.rmtree(PAGES, ignore_errors=True)
        sys.exit("The site was not built: mend what the lines above name, and type make site again.")
    print("The site is in .course/site-pages; make site-serve shows it.")


if __name__ == "__main__":
    main()
