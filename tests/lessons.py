"""A lesson's blocks, run as a reader would run them.

What a block is, its label says: the line in bold above it, which the reader sees as well.

    **Prompt**          pycon    typed at a Python prompt in the chapter's folder
    **Shell**           console  typed in a shell at the top of the checkout, where the next one goes on
    **Worker**          text     logged by the worker, line by line, in this order
    **Messages**        text     shown by `make messages`, line by line, in this order
    **Worker**, …       console  starts a worker, a prompt or the messages; the suite starts its own
    **`path/of/file`**  python   lines of this file in a row
    **`path/of/file`**  diff     a change that the reader makes to this file: a new prompt and a new worker follow

`git restore` in a shell takes all changes back, and the first prompt and worker go on. Directives to the suite are HTML
comments before a label:

    <!-- not run: why -->         the next block is not run
    <!-- without: NAME -->        prompt and worker of these changes lack this environment variable
    <!-- workers: 3 -->           these changes have so many workers
    <!-- bench: NAME -->, <!-- /bench -->   between them is a table that the benchmark writes
"""

import doctest
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
from course import PROGRAMS, ROOT, wait_until
from grading import ready, short
from nodes import AppUnderTest
from pexpect.replwrap import REPLWrapper
from sybil import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"(not run): .+|(without): (\w+)|(workers): (\d+)|bench: \w+|/bench")
LABEL = re.compile(r"^\*\*(.+)\*\*.*\n\n?\Z", re.MULTILINE)
# What stands above a block of each language: a word, or a file's path.
LABELS = {
    "pycon": "Prompt",
    "console": "Shell|Worker|Prompt|Messages",
    "text": "Worker|Messages",
    "python": "`(.+)`",
    "diff": "`(.+)`",
}
UNDO = "git restore "
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Seconds that a statement or a command may take.
PATIENCE = 40


@dataclass
class Block:
    line: int
    language: str
    source: str
    label: str = ""
    path: str | None = None
    run: bool = True


@dataclass
class Session:
    """A prompt and workers: the chapter's, or those of a copy with the reader's changes."""

    edits: list = field(default_factory=list)
    without: set = field(default_factory=set)
    workers: int = 1
    blocks: list = field(default_factory=list)


class Lesson:
    """The lesson of a chapter, whose worker and database an AppUnderTest are."""

    def __init__(self, path, app_under_test=None, temp=None):
        self.path, self.app, self.temp = Path(path), app_under_test, temp
        self.document = Document.parse(str(self.path), lambda document: FENCES(document))
        self.text = self.document.text
        self.problems = []

    def problem(self, line, sentence):
        self.problems.append((line, f"{short(self.path)} line {line}: {sentence}"))

    def blocks(self):
        """Yield the directives and blocks in their order: (name, argument) or (None, Block)."""
        events = [(region.start, "block", region) for _, region in self.document.regions]
        inside = [(start, region.end) for start, _, region in events]
        comments = [(match.start(), "comment", match) for match in COMMENT.finditer(self.text)]
        events += [each for each in comments if not any(start < each[0] < end for start, end in inside)]
        run = True
        for start, kind, found in sorted(events, key=lambda event: event[0]):
            line = self.text.count("\n", 0, start) + 1
            if kind == "comment":
                directive = DIRECTIVE.fullmatch(found[1].replace("\n", " "))
                if not directive:
                    self.problem(line, f"<!-- {found[1]} --> is no directive: tests/lessons.py lists them.")
                elif directive[1]:
                    run = False
                elif name := directive[2] or directive[4]:
                    yield name, directive[3] or int(directive[5])
                continue
            language = found.lexemes["language"].strip()
            block = Block(line, language, str(found.lexemes["source"]), run=run)
            run = True
            if language == "mermaid":
                continue
            label = LABEL.search(self.text[:start])
            named = language in LABELS and label and re.fullmatch(LABELS[language], label[1])
            if not named:
                wanted = " or ".join(f"{name} after **{text}**" for name, text in LABELS.items())
                self.problem(
                    line,
                    f"a block is {wanted}; this one is {language or 'nameless'} after {label and label[1]}.",
                )
                continue
            block.label = label[1]
            if language == "console" and block.label != "Shell":
                block.run = False
            if named.groups():
                # From the top of the checkout, or from the chapter's folder.
                block.path = named[1].removeprefix(f"chapters/{self.path.parent.name}/")
            yield None, block

    def sessions(self):
        """Return the sessions of the lesson, the chapter's own first."""
        main = current = Session()
        sessions = [main]
        for name, found in self.blocks():
            if name == "without":
                current.without.add(found)
            elif name == "workers":
                current.workers = found
            elif found.language == "diff":
                # A change after some prompts adds to the earlier changes, in a new session.
                if current is main or current.blocks:
                    current = Session(list(current.edits), set(current.without))
                    sessions.append(current)
                current.edits.append(found)
            elif found.language == "console" and UNDO in found.source:
                current = main
            elif found.run:
                current.blocks.append(found)
        return sessions

    def holds(self):
        """Run the sessions side by side; fail with all that is not as the lesson says, in its order."""
        main, *edited = self.sessions()
        runs = [Run(self, main, self.app, self.temp / "main")]
        copies = []
        for number, session in enumerate(edited):
            folder = shutil.copytree(
                self.app.folder,
                self.temp / str(number) / self.app.folder.name,
                ignore=shutil.ignore_patterns("__pycache__", ".*"),
            )
            changes = [self.change(folder, edit) for edit in session.edits]
            if all(changes):
                # Where a reader has time to watch several workers, the suite gives them more processes.
                args = ["-c", "6"] if session.workers > 1 else []
                copy = AppUnderTest(
                    self.app.nodes, folder, session.workers, args=args, without=session.without
                )
                copies.append(copy)
                runs.append(Run(self, session, copy, self.temp / str(number) / "top"))
        try:
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(Run.__call__, runs))
        finally:
            for copy in copies:
                copy.close()
        assert not self.problems, "\n".join(sentence for _, sentence in sorted(self.problems))

    def change(self, folder, edit):
        """Make a reader's change; tell whether it could be made."""
        path = folder / edit.path
        text = changed(path.read_text() if path.is_file() else "", edit.source)
        if text is None:
            self.problem(edit.line, f"the lines that the change begins from should stand in {edit.path}.")
            return False
        path.write_text(text)
        return True


class Run:
    """The blocks of one session, run in order, in a checkout of links whose chapter is the session's folder."""

    def __init__(self, lesson, session, app, top):
        self.lesson, self.session, self.app = lesson, session, app
        (top / "chapters").mkdir(parents=True)
        for name in ("Makefile", "tools"):
            (top / name).symlink_to(ROOT / name)
        (top / ".venv").symlink_to(PROGRAMS.parent)
        (top / "chapters" / lesson.path.parent.name).symlink_to(app.folder)
        # A learner's terminal does not have the stack on its PATH. No colours, and Python's plain prompt.
        plain = {
            "GIT_PAGER": "cat",
            "LOGURU_COLORIZE": "no",
            "NO_COLOR": "1",
            "PYTHON_BASIC_REPL": "1",
            "TERM": "dumb",
            "VIRTUAL_ENV_DISABLE_PROMPT": "1",
        }
        self.env = app.env | plain
        path = app.env["PATH"].split(os.pathsep)
        self.shell_env = self.env | {"PATH": os.pathsep.join(each for each in path if each != str(PROGRAMS))}
        self.top = top
        self.children, self.watching = [], None

    def __call__(self):
        for worker in self.app.workers:
            ready(worker)
        try:
            if any(block.label == "Messages" for block in self.session.blocks):
                self.watch()
            for block in self.session.blocks:
                getattr(self, block.language)(block)
        finally:
            for child in self.children:
                child.close(force=True)
            if self.watching:
                self.watching.kill()
                self.watching.wait()
                self.app.nodes.reaper.forget(self.watching.pid)

    def watch(self):
        """Let `make messages` write what it shows into a file, from now on."""
        self.seen = self.top / "messages"
        command = [PROGRAMS / "python", ROOT / "tools" / "messages.py", self.app.url]
        with self.seen.open("wb") as file:
            self.watching = subprocess.Popen(command, stdout=file, start_new_session=True)
        self.app.nodes.reaper.watch(self.watching.pid)
        wait_until(self.seen.read_text, 10)

    def repl(self, command, folder, env, change):
        """Start a prompt in a terminal of its own, with a prompt text that no output contains."""
        child = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(folder),
            env=env,
            echo=False,
            encoding="utf-8",
            dimensions=(50, 2000),
        )
        child.delaybeforesend = None
        self.children.append(child)
        return REPLWrapper(child, re.compile(r"(>>>|\$|#) "), change)

    def type(self, repl, text):
        """Return what a terminal shows after this was typed, or None where the prompt does not come back."""
        try:
            return repl.run_command(text, timeout=PATIENCE).replace("\r", "")
        except (pexpect.TIMEOUT, pexpect.EOF, ValueError):
            return None

    def pycon(self, block):
        if not hasattr(self, "prompt"):
            command = self.app.nodes.python(self.app.workers[0])
            change = "__import__('sys').__dict__.update(ps1={0!r}, ps2={1!r})"
            self.prompt = self.repl(command, self.app.folder, self.env, change)
        for example in doctest.DocTestParser().get_examples(block.source):
            statement = example.source if example.source.count("\n") > 1 else example.source.rstrip("\n")
            self.compare(
                block, example.lineno + 1, statement, example.want, self.type(self.prompt, statement)
            )

    def console(self, block):
        if not hasattr(self, "shell"):
            self.shell = self.repl(
                ["bash", "--norc"], self.top, self.shell_env, "PS1='{0}' PS2='{1}' PROMPT_COMMAND=''"
            )
        for match in re.finditer(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", block.source, re.MULTILINE):
            line, command = block.source.count("\n", 0, match.start()) + 1, match[1].strip()
            found = self.type(self.shell, command)
            status = self.type(self.shell, "echo $?")
            if match[2].strip() or found is None:
                self.compare(block, line, command, match[2], found)
            elif status is None or status.strip() != "0":
                self.lesson.problem(
                    block.line + line, f"`{command}` should succeed, and printed {found.strip()!r}."
                )

    def compare(self, block, line, typed, wanted, found):
        """Note a problem unless the lesson shows what the terminal showed; of a traceback, the exception alone counts."""
        if found is None:
            found = f"nothing within {PATIENCE} seconds"
        elif wanted.startswith("Traceback"):
            wanted, found = exception(wanted), exception(found)
        if not matches(wanted, found):
            wanted, found = (" ".join(text.split()) or "nothing" for text in (wanted, found))
            self.lesson.problem(
                block.line + line, f"{' '.join(typed.split())} should print {wanted}, printed {found}."
            )

    def text(self, block):
        def missing():
            texts = (
                [self.seen.read_text()]
                if block.label == "Messages"
                else [each.logs() for each in self.app.workers]
            )
            log = iter("\n".join(texts).splitlines())
            for line in filter(str.strip, block.source.splitlines()):
                if not any(matches(line.strip(), text.strip()) for text in log):
                    return line.strip()

        wait_until(lambda: missing() is None, 10)
        if line := missing():
            who = "make messages should show" if block.label == "Messages" else "the worker should log"
            self.lesson.problem(block.line, f"{who}, in this order, {line!r}.")

    def python(self, block):
        path = self.app.folder / block.path
        lines = path.read_text().splitlines() if path.is_file() else []
        listed = block.source.strip("\n").splitlines()
        if not any(lines[at : at + len(listed)] == listed for at in range(len(lines))):
            strange = next((line for line in listed if line not in lines), listed[0])
            self.lesson.problem(
                block.line, f"the listing should be lines of {block.path} in a row, and isn't: {strange!r}."
            )


def exception(text):
    """Return the exception of the last traceback in a text, without the lines of code."""
    lines = text.rpartition("Traceback (most recent call last):\n")[2].splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(" "))


def matches(wanted, found):
    """Compare as doctest does, `...` for anything and all white space alike."""
    return doctest.OutputChecker().check_output(wanted.rstrip() + "\n", found.rstrip() + "\n", OPTIONS)


def changed(text, diff):
    """Apply a diff without line numbers; return the new text, or None where its lines do not stand there."""
    lines = [line or " " for line in diff.splitlines()]
    before = [line[1:] for line in lines if line[0] in " -"]
    after = [line[1:] for line in lines if line[0] in " +"]
    old = text.splitlines()
    if any(line[0] not in " +-" for line in lines):
        return None
    if not before:  # a new file
        return None if text else "\n".join(after) + "\n"
    # Where the lines occur more than once, the first is meant, as a reader would take it.
    places = (at for at in range(len(old) - len(before) + 1) if old[at : at + len(before)] == before)
    at = next(places, None)
    return None if at is None else "\n".join(old[:at] + after + old[at + len(before) :]) + "\n"
