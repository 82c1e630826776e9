"""The difference of two chapters, as `make chapter-N-diff` prints it, in HTML: unified and side by side.

Git says which lines changed and what was renamed; Pygments colours them; difflib marks the words.
"""

import re
import subprocess
from difflib import SequenceMatcher
from functools import cache
from html import escape
from itertools import groupby, zip_longest
from pathlib import Path

from pygments.lexers import TextLexer, find_lexer_class_for_filename
from pygments.token import STANDARD_TYPES
from unidiff import PatchSet

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "chapters"
# As git prints it, whatever its user has set.
PLAIN = ["--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/"]
KINDS = {" ": "same", "−": "removed", "+": "added"}


@cache
def difference_of(chapter):
    """Return the files that changed since the chapter before, as unidiff has them."""
    command = ["sh", str(ROOT / "tools/diff.sh"), chapter.partition("-")[0], *PLAIN]
    return PatchSet(subprocess.check_output(command, text=True))


def names(file):
    """Return a file's path before and after; None where there is none."""
    return (
        None if file.is_added_file else file.source_file.removeprefix("a/"),
        None if file.is_removed_file else file.target_file.removeprefix("b/"),
    )


def heading(file):
    """Return the name of a file, or both where it was renamed, in Markdown."""
    old, new = names(file)
    return f"`{old}` → `{new}`" if file.is_rename else f"`{new or old}`"


def described(file):
    """Return what became of a file, and how many lines came and went."""
    kind = "new" if file.is_added_file else "removed" if file.is_removed_file else "changed"
    if file.is_rename:
        kind = f"renamed, {re.search(r'similarity index (.*)', str(file.patch_info))[1]} alike"
    return f"{kind}, +{file.added} −{file.removed}" if len(file) else kind


def lexer_of(path):
    return find_lexer_class_for_filename(Path(path).name) or TextLexer


def coloured(path):
    """Return the lines of a file, each a list of words: (CSS class, text)."""
    lines = [[]]
    for kind, text in lexer_of(path)(stripnl=False).get_tokens(path.read_text()):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        for word in re.findall(r"\n|[^\S\n]+|\w+|.", text):
            if word == "\n":
                lines.append([])
            else:
                lines[-1].append((STANDARD_TYPES[kind], word))
    return lines


def changed_words(old, new):
    """Return the places of the words that two lines do not share; none where little is the same."""
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal" and matcher.ratio() > 0.5]
    return (
        {place for _, start, end, _, _ in changes for place in range(start, end)},
        {place for *_, start, end in changes for place in range(start, end)},
    )


def code(line, changed=(), tag=""):
    """Return a line as HTML, the changed words in <del> or <ins>."""
    html = ""
    for (css, mark), words in groupby(enumerate(line), lambda each: (each[1][0], each[0] in changed)):
        text = escape("".join(word for _, (_, word) in words))
        text = f'<span class="{css}">{text}</span>' if css else text
        html += f"<{tag}>{text}</{tag}>" if mark else text
    return f"<code>{html}</code>"


def rows_of(hunk, old_lines, new_lines):
    """Yield the rows of a hunk, side by side: two halves, each (number, sign, HTML) or None."""
    for is_context, lines in groupby(hunk, lambda line: line.is_context):
        lines = list(lines)
        olds = [line.source_line_no for line in lines if line.source_line_no]
        news = [line.target_line_no for line in lines if line.target_line_no]
        for old, new in zip_longest(olds, news):
            old_line, new_line = old and old_lines[old - 1], new and new_lines[new - 1]
            signs, changed = "−+", ((), ())
            if is_context:
                signs = "  "
            elif old and new:
                changed = changed_words(old_line, new_line)
            yield (
                (old, signs[0], code(old_line, changed[0], "del")) if old else None,
                (new, signs[1], code(new_line, changed[1], "ins")) if new else None,
            )


def unified(rows):
    """Yield the rows below each other: of each change first what went, then what came."""
    for is_context, change in groupby(rows, lambda row: row[0] is not None and row[0][1] == " "):
        olds, news = zip(*change, strict=True)
        if is_context:
            lines = [(old[0], *new) for old, new in zip(olds, news, strict=True)]
        else:
            lines = [(old[0], "", *old[1:]) for old in olds if old]
            lines += [("", *new) for new in news if new]
        for old, new, sign, html in lines:
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
                for css, cell in (("number ", number), ("sign ", sign), ("", html)):
                    yield f'<td class="{css}{KINDS[sign]}">{cell}</td>'
            else:
                yield '<td class="nothing" colspan="3"></td>'
        yield "</tr>"


def table(view, columns, rows):
    widths = "".join(f'<col class="{name}">' for name in columns)
    return f'<table class="{view}"><colgroup>{widths}</colgroup><tbody>{"".join(rows)}</tbody></table>'


def hunks(file, before, chapter, anchor=None):
    """Yield the hunks of a file as HTML; with an anchor each has an id, and both views where it has both sides."""
    old, new = names(file)
    old_lines = old and coloured(CHAPTERS / before / old)
    new_lines = new and coloured(CHAPTERS / chapter / new)
    for number, hunk in enumerate(file, 1):
        rows = list(rows_of(hunk, old_lines, new_lines))
        place = f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@"
        if anchor:
            yield f'<div class="hunk highlight" id="{anchor}-{number}">'
            yield f'<p><a href="#{anchor}-{number}">{place}</a></p>'
        else:
            yield f'<div class="hunk highlight"><p>{place}</p>'
        yield table("unified", ("number", "number", "sign", ""), unified(rows))
        if anchor and old and new:
            yield table("split", ("number", "sign", "") * 2, side_by_side(rows))
        yield "</div>"
