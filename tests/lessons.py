"""What a lesson holds: its blocks, its remarks to the suite, and the sessions that these make up.

A remark is an HTML comment, which a reader does not see:

    <!-- file: NAME -->     the next block lists this file, or some lines of it in a row
    <!-- edit: NAME -->     the next block, a diff, is a change that the reader makes to this file
    <!-- undo -->           the reader takes all changes back, and goes on at the first prompt
    <!-- without: NAME -->  prompt and worker of these changes lack this environment variable
    <!-- workers: 3 -->     these changes have so many workers
    <!-- worker log -->     the next block is what the worker logged, line by line, in this order
    <!-- not run: why -->   the next block, console, is not run

A text block without a remark is a list of files: each line begins with the name of one.
"""

import codeop
import doctest
import re
from dataclasses import dataclass, field
from pathlib import Path

from course import short
from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
REMARK = re.compile(r"^<!--\s*(.*?)\s*-->", re.MULTILINE | re.DOTALL)
NAMED = {"file", "edit", "not run", "without", "workers"}
PLAIN = {"undo", "worker log"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# The remark that a block of each language must, or may, have.
REMARKS = {
    "pycon": {None},
    "diff": {"edit"},
    "python": {"file"},
    "console": {None, "not run"},
    "text": {None, "worker log"},
    "mermaid": {None},
}


@dataclass
class Block:
    lesson: "Lesson"
    line: int
    language: str
    source: str
    remark: str | None = None
    argument: str = ""

    def where(self, offset=0):
        return f"{self.lesson.name} line {self.line + offset}"


@dataclass
class Session:
    """A prompt and a worker: the chapter's, or those of a copy with the reader's changes."""

    edits: list = field(default_factory=list)
    without: set = field(default_factory=set)
    workers: int = 1
    blocks: list = field(default_factory=list)


class Lesson:
    def __init__(self, path):
        self.path = Path(path)
        self.name = short(self.path)
        self.document = Document.parse(str(self.path), self.parse)
        self.prose = "".join(
            text if not number % 2 else "\n" * text.count("\n")
            for number, text in enumerate(self._split(self.document.text))
        )

    def parse(self, document):
        yield from FENCES(document)

    def _split(self, text):
        """Prose and blocks in turn."""
        end = 0
        for _, region in sorted(self.document.regions, key=lambda each: each[0]):
            yield text[end : region.start]
            yield text[region.start : region.end]
            end = region.end
        yield text[end:]

    def line_of(self, position):
        return self.document.text.count("\n", 0, position) + 1

    def sessions(self):
        """Return the sessions of the lesson, the chapter's own first, and the problems of its form."""
        main = Session()
        sessions, problems, current = [main], [], main
        for kind, found in self.events():
            if kind == "problem":
                problems.append(found)
            elif kind == "undo":
                current = main
            elif kind == "without":
                current.without.add(found)
            elif kind == "workers":
                current.workers = found
            elif found.language == "diff":
                # A change after some prompts adds to the earlier changes, in a new session.
                if current is main or current.blocks:
                    current = Session(list(current.edits), set(current.without))
                    sessions.append(current)
                current.edits.append(found)
            else:
                current.blocks.append(found)
        return sessions, problems

    def events(self):
        remark, argument, remark_end = None, "", 0
        text = self.document.text
        regions = [(region.start, "block", region) for _, region in self.document.regions]
        inside = [(start, region.end) for start, _, region in regions]
        for match in REMARK.finditer(text):
            if not any(start <= match.start() < end for start, end in inside):
                regions.append((match.start(), "remark", match))
        for start, kind, found in sorted(regions, key=lambda each: each[0]):
            where = f"{self.name} line {self.line_of(start)}"
            if kind == "remark":
                name, _, value = found[1].partition(":")
                name, value = name.strip(), value.strip()
                if name == "undo" and not value:
                    yield "undo", None
                elif name == "without" and value:
                    yield "without", value
                elif name == "workers" and value.isdigit():
                    yield "workers", int(value)
                elif (name in NAMED and value) or (name in PLAIN and not value):
                    remark, argument, remark_end = name, value, found.end()
                elif name in NAMED | PLAIN:
                    yield (
                        "problem",
                        f"{where}: the remark <!-- {found[1]} --> should be like those in lessons.py.",
                    )
                continue
            language = found.lexemes["language"].strip()
            block = Block(self, self.line_of(start), language, str(found.lexemes["source"]))
            if remark and not text[remark_end:start].strip():
                block.remark, block.argument = remark, argument
            remark = None
            if language not in REMARKS:
                known = ", ".join(REMARKS)
                yield (
                    "problem",
                    f"{where}: a block should be one of {known}, this one is {language or 'nameless'!r}.",
                )
            elif block.remark not in REMARKS[language]:
                wanted = " or ".join(
                    f"<!-- {each} -->" if each else "no remark" for each in REMARKS[language]
                )
                yield "problem", f"{where}: a {language} block should have {wanted} before it."
            else:
                yield "block", block


def matches(wanted, found):
    """Compare as doctest does, `...` for anything and all white space alike."""
    return doctest.OutputChecker().check_output(wanted.rstrip() + "\n", found.rstrip() + "\n", OPTIONS)


def statements(source):
    """Split a prompt session: yield the line number, the statement and what is shown below it."""
    lines = source.splitlines()
    number = 0
    while number < len(lines):
        start = number
        if not lines[number].startswith(">>> "):
            if lines[number].strip():
                yield number, None, lines[number]
            number += 1
            continue
        statement = lines[number][4:]
        number += 1
        # A line of dots goes on with the statement only where that is not whole: else it is output.
        while number < len(lines) and lines[number].startswith("...") and incomplete(statement):
            statement += "\n" + lines[number][4:]
            number += 1
        shown = []
        while number < len(lines) and not lines[number].startswith(">>> "):
            shown.append(lines[number])
            number += 1
        yield start, statement + "\n", "\n".join(shown).strip("\n")


def incomplete(statement):
    try:
        return codeop.compile_command(statement, symbol="single") is None
    except (SyntaxError, ValueError, OverflowError):
        return False


def in_order(wanted, log):
    """Return the first of the wanted lines that does not follow in the log, or None."""
    found = iter(log.splitlines())
    for line in wanted.splitlines():
        if line.strip() and not any(matches(line.strip(), text.strip()) for text in found):
            return line
    return None


def change(text, diff):
    """Apply a diff without line numbers; return the new text, or None where its lines are not found once."""
    lines = [line if line else " " for line in diff.splitlines()]
    before = [line[1:] for line in lines if line[0] in " -"]
    after = [line[1:] for line in lines if line[0] in " +"]
    old = text.splitlines()
    places = [at for at in range(len(old) - len(before) + 1) if old[at : at + len(before)] == before]
    if not before or any(line[0] not in " +-" for line in lines) or not places:
        return None
    # Where the lines occur more than once, the first is meant, as a reader would take it.
    at = places[0]
    return "\n".join(old[:at] + after + old[at + len(before) :]) + "\n"
