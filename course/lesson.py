"""A lesson as a page: its blocks, its directives, and the changes that it asks the reader to make.

CONTRIBUTING.md lists the labels of blocks and the directives.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from course.chapters import ROOT, display_path

FENCE = "```"
BOLD = re.compile(r"\*\*(.+)\*\*")
WORD_LABEL = re.compile("[A-Z][a-z ]+")
PATH_LABEL = re.compile("`.+`")
# The label that a block of each language must have.
LABELS = {
    "pycon": re.compile("Prompt"),
    "console": WORD_LABEL,
    "text": WORD_LABEL,
    "python": PATH_LABEL,
    "sh": PATH_LABEL,
    "yaml": PATH_LABEL,
    "diff": PATH_LABEL,
}
LABEL_RULE = (
    "pycon below **Prompt**, console or text below a word in bold, or python, sh, yaml or diff "
    "below the path of a file in bold"
)
DRAWING = "mermaid"
DIRECTIVES = {
    "not run": re.compile(".+"),
    "without": re.compile(r"\w+"),
    "workers": re.compile("none|-.+"),
    "replay": re.compile("[a-z]+( [a-z]+)*: .+"),
    "bench": re.compile(r"\w+"),
    "/bench": re.compile(""),
}
LISTED = ("python", "sh", "yaml")
NOT_PROSE = re.compile(r"^```.*?^```$|^<!--.*?-->$", re.MULTILINE | re.DOTALL)
# Commands that take a lesson's changes back.
UNDO = re.compile(r"^\$ (git restore |make chapter-\d+-undo)", re.MULTILINE)


@dataclass
class Directive:
    """An HTML comment that tells the suite something about the blocks below it."""

    line: int
    name: str
    argument: str


@dataclass
class Block:
    """A fenced block. A path in its label is relative to the chapter's folder if it is in there.

    run is False if a directive says so, or if the suite starts what the block would start.
    """

    line: int
    language: str
    label: str
    source: str
    run: bool


@dataclass
class Session:
    """The blocks that run with the same changes, in one prompt and one shell.

    The first session of a lesson has no edits. workers has one string of options for each worker;
    without has the environment variables that the session does without.
    """

    edits: list = field(default_factory=list)
    blocks: list = field(default_factory=list)
    workers: list = field(default_factory=lambda: [""])
    without: set = field(default_factory=set)

    def continued(self):
        """Return a new session with the same changes."""
        return Session(edits=list(self.edits), without=set(self.without))

    def has_run(self):
        """Return whether a block of this session does more than start a worker."""
        return any(not starts_worker(block) for block in self.blocks)

    def obey(self, directive):
        """Take workers, or an environment variable to do without, from a directive."""
        if directive.name == "without":
            self.without.add(directive.argument)
        elif directive.name == "workers" and directive.argument == "none":
            self.workers = []
        elif directive.name == "workers":
            self.workers = directive.argument.split(", ")


class Lesson:
    """A page of the course.

    parts are its directives and blocks in their order, problems are pairs of a line and a sentence.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.text = self.path.read_text()
        self.parts = []
        self.problems = []
        self.next_block_runs = True
        self.read()

    @property
    def blocks(self):
        """The blocks of the page in their order, without its drawings."""
        return [part for part in self.parts if isinstance(part, Block)]

    def headings(self):
        """Return the headings of the page by their anchors, as GitHub makes them."""
        headings = {}
        for heading in re.findall(r"^#+ (.+)$", prose_of(self.text), re.MULTILINE):
            anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            headings[anchor] = heading
        return headings

    def listings(self, file):
        """Return the listings that the page shows of a file."""
        listings = []
        for block in self.blocks:
            if block.label == file and block.language in LISTED:
                listings.append(block.source)
        return listings

    def add_problem(self, line, sentence):
        """Note what is wrong on this line of the page."""
        self.problems.append((line, f"{display_path(self.path)} line {line}: {sentence}"))

    def read(self):
        """Fill parts and problems from the text of the page."""
        lines = self.text.splitlines()
        number = 0
        while number < len(lines):
            first = number
            if lines[first].startswith("<!--"):
                while "-->" not in lines[number] and number < len(lines) - 1:
                    number += 1
                self.read_comment(first + 1, " ".join(lines[first : number + 1]))
            elif lines[first].startswith(FENCE):
                number += 1
                while number < len(lines) and lines[number] != FENCE:
                    number += 1
                self.read_block(lines, first, number)
            number += 1

    def read_comment(self, line, comment):
        """Add the directive that an HTML comment is."""
        content = comment.removeprefix("<!--").partition("-->")[0]
        content = " ".join(content.split())
        name, _, argument = content.partition(": ")
        wanted = DIRECTIVES.get(name)
        if not wanted or not wanted.fullmatch(argument):
            self.add_problem(
                line, f"<!-- {content} --> is no directive: CONTRIBUTING.md lists them."
            )
            return
        self.parts.append(Directive(line, name, argument))
        self.next_block_runs = name != "not run"

    def read_block(self, lines, first, last):
        """Add the block whose fences are the lines with these indexes."""
        language = lines[first].removeprefix(FENCE)
        source = "".join(f"{line}\n" for line in lines[first + 1 : last])
        label = label_above(lines, first)
        wanted = LABELS.get(language)
        runs = self.next_block_runs
        self.next_block_runs = True
        if language == DRAWING:
            return
        if not wanted or not wanted.fullmatch(label):
            kind = language or "nameless"
            self.add_problem(
                first + 1, f"a block should be {LABEL_RULE}; this one is {kind} below {label}."
            )
            return
        if language == "console" and label in ("Prompt", "Messages"):
            runs = False
        # Paths are relative to the top of the checkout, or to the chapter's folder.
        path = label.strip("`").removeprefix(f"chapters/{self.path.parent.name}/")
        self.parts.append(Block(first + 1, language, path, source, runs))

    def sessions(self):
        """Return the sessions of the lesson, the one without changes first."""
        main = Session()
        sessions = [main]
        current = main
        for part in self.parts:
            if isinstance(part, Directive):
                # Other workers on the same files begin a new session.
                if part.name == "workers" and part.argument != "none" and current.has_run():
                    current = current.continued()
                    sessions.append(current)
                current.obey(part)
            elif part.language == "diff":
                # A change after some blocks adds to the earlier changes, in a new session.
                if current is main or current.blocks:
                    current = current.continued()
                    sessions.append(current)
                current.edits.append(part)
            elif UNDO.search(part.source):
                current = main
            elif part.run:
                current.blocks.append(part)
        return sessions


def read_lesson(chapter):
    """Return the lesson of a chapter."""
    return Lesson(ROOT / "chapters" / chapter / "README.md")


def prose_of(text):
    """Return the text of a page without its blocks and comments."""
    return NOT_PROSE.sub("", text)


def starts_worker(block):
    """Return whether a block is the command that starts a worker."""
    return block.label == "Worker" and block.language == "console"


def label_above(lines, number):
    """Return the bold text above the block that begins at this index, or else "nothing"."""
    above = number - 1
    if above >= 0 and not lines[above]:
        above -= 1
    if above < 0:
        return "nothing"
    bold = BOLD.match(lines[above])
    if not bold:
        return "nothing"
    return bold[1]


def apply_diff(text, diff):
    """Apply a diff without line numbers to a text; return None if its lines aren't in the text.

    A diff that only adds lines makes a new file: the text must be empty. If the lines occur more
    than once, the diff changes the first, as a reader would.
    """
    before = ""
    after = ""
    for line in diff.splitlines():
        sign, content = line[:1], f"{line[1:]}\n"
        if sign != "+":
            before += content
        if sign != "-":
            after += content
    if not before and text:
        return None
    if not before:
        return after
    # Only whole lines count.
    start = f"\n{text}".find(f"\n{before}")
    if start < 0:
        return None
    return text[:start] + after + text[start + len(before) :]
