"""A lesson's blocks, run as a reader would run them. CONTRIBUTING.md lists its labels and directives.

What a block is, its label says, the line in bold above it. A diff is a change that the reader makes: what follows it
happens in a copy of the chapter that has it, with a worker and a prompt of its own, up to a `git restore` in a shell.
"""

import doctest
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pexpect
from pexpect.replwrap import REPLWrapper
from support.assertions import wait_until_ready
from support.nodes import IGNORED, AppUnderTest, WorkerProcess

from course.chapters import ROOT, display_path
from course.environment import PROGRAMS, STACK
from course.waiting import wait_until

COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$", re.MULTILINE | re.DOTALL)
PART = re.compile(COMMENT.pattern + r"|^```([^\n]*)\n(.*?)^```$", COMMENT.flags)
DIRECTIVE = re.compile(r"(not run): (.+)|(without): (\w+)|(workers): (none|-.+)|bench: \w+|/bench")
LABEL = re.compile(r"^\*\*(.+)\*\*.*\n\n?\Z", re.MULTILINE)
# What stands above a block of each language: a word, or a file's path.
LABELS = dict.fromkeys(("python", "yaml", "diff"), "`(.+)`") | dict.fromkeys(
    ("console", "text"), "[A-Z][a-z ]+"
)
LABELS["pycon"] = "Prompt"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 40  # seconds that a statement or a command may take


@dataclass
class Block:
    line: int
    language: str
    source: str
    label: str
    run: bool


class Lesson:
    """The lesson of a chapter, whose worker and database an AppUnderTest are."""

    def __init__(self, path, app_under_test=None, temp=None):
        self.path, self.app, self.temp = Path(path), app_under_test, temp
        self.text, self.problems = self.path.read_text(), []

    def problem(self, line, sentence):
        self.problems.append((line, f"{display_path(self.path)} line {line}: {sentence}"))

    def blocks(self):
        """Yield directives and blocks in their order: (name, argument), or (None, Block)."""
        run = True
        for part in PART.finditer(self.text):
            comment, language, source = part.groups()
            line = self.text.count("\n", 0, part.start()) + 1
            if comment is not None:
                directive = DIRECTIVE.fullmatch(" ".join(comment.split()))
                if not directive:
                    self.problem(
                        line, f"<!-- {comment} --> is no directive: CONTRIBUTING.md lists them."
                    )
                elif words := [word for word in directive.groups() if word]:
                    run = words[0] != "not run"
                    yield tuple(words)
                continue
            label = LABEL.search(self.text[: part.start()])
            label = label[1] if label else "nothing"
            if language not in (*LABELS, "mermaid") or not re.fullmatch(
                LABELS.get(language, ".*"), label
            ):
                wanted = ", or ".join(f"{name} below **{above}**" for name, above in LABELS.items())
                kind = language or "nameless"
                self.problem(line, f"a block should be {wanted}; this one is {kind} below {label}.")
            elif language != "mermaid":
                # A path is from the top of the checkout, or from the chapter's folder.
                label = label.strip("`").removeprefix(f"chapters/{self.path.parent.name}/")
                started = language == "console" and label in ("Prompt", "Messages")
                yield None, Block(line, language, source, label, run and not started)
            run = True

    def sessions(self):
        """Return the sessions of the lesson, the chapter's own first."""
        main = current = Session(self)
        sessions = [main]
        for name, found in self.blocks():
            if name == "without":
                current.without.add(found)
            elif name == "workers":
                current.workers = [] if found == "none" else found.split(", ")
            elif name:
                continue
            elif found.language == "diff":
                # A change after some prompts adds to the earlier changes, in a new session.
                if current is main or current.blocks:
                    current = Session(self, current.edits, current.without)
                    sessions.append(current)
                current.edits.append(found)
            elif "$ git restore " in found.source:
                current = main
            elif found.run:
                current.blocks.append(found)
        return sessions

    def holds(self):
        """Run the sessions side by side; fail with all that is not as the lesson says, in its order."""
        sessions = []
        for number, session in enumerate(self.sessions()):
            app, temp = self.app, self.temp / str(number)
            if session.edits:
                folder = shutil.copytree(app.folder, temp / app.folder.name, ignore=IGNORED)
                for edit in session.edits:
                    self.change(folder, edit)
                app = AppUnderTest(app.nodes, folder, 0, env=dict.fromkeys(session.without))
                for options in session.workers:
                    app.add_worker(options.split())
            session.enter(app, temp / "top")
            sessions.append(session)
        try:
            with ThreadPoolExecutor(len(sessions)) as pool:
                list(pool.map(Session.run, sessions))
        finally:
            for session in sessions[1:]:
                session.app.close()
        assert not self.problems, "\n".join(sentence for _, sentence in sorted(self.problems))

    def change(self, folder, edit):
        """Make a reader's change."""
        path = folder / edit.label
        text = changed(path.read_text() if path.is_file() else "", edit.source)
        if text is None:
            self.problem(
                edit.line, f"the lines that the change begins from should stand in {edit.label}."
            )
        else:
            path.write_text(text)


class Session:
    """A prompt, a shell and workers: the chapter's, or those of a copy with the reader's changes."""

    def __init__(self, lesson, edits=(), without=()):
        self.lesson, self.edits, self.without = lesson, list(edits), set(without)
        self.problem = lesson.problem
        self.workers, self.blocks = [""], []  # the options of each worker
        self.prompt = self.shell = None
        self.terminals = {}  # other programs, by the label of their terminal

    def enter(self, app, top):
        """Make a checkout of links whose chapter is the app's folder."""
        self.app, self.top = app, top
        (top / "chapters").mkdir(parents=True)
        links = {"Makefile": ROOT / "Makefile", "course": ROOT / "course", "tools": ROOT / "tools"}
        # A reader activates .venv; make looks for the stack's own.
        links |= dict.fromkeys((".venv", PROGRAMS.parent.name), PROGRAMS.parent)
        for name, target in (
            links | {f"chapters/{self.lesson.path.parent.name}": app.folder}
        ).items():
            (top / name).symlink_to(target)
        # No pager, no colours, and Python's plain prompt.
        self.env = app.env | {
            "GIT_PAGER": "cat",
            "LOGURU_COLORIZE": "no",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self.env |= {"PYTHON_BASIC_REPL": "1", "VIRTUAL_ENV_DISABLE_PROMPT": "1"}

    def run(self):
        """Run the blocks in order."""
        for worker in self.app.workers:
            wait_until_ready(worker)
        try:
            if any(block.label == "Messages" for block in self.blocks):
                self.watch()
            for block in self.blocks:
                getattr(self, block.language)(block)
        finally:
            self.close()

    def close(self):
        for repl in filter(None, (self.prompt, self.shell)):
            repl.child.kill(signal.SIGKILL)
            repl.child.wait()  # close() alone gives it half a second, even if the machine is busy
            repl.child.close()
        for terminal in self.terminals.values():
            terminal.teardown()

    def watch(self):
        """Let `make messages` show what it sees from now on."""
        self.begin(
            "Messages",
            "python",
            "-m",
            "course",
            "messages",
            self.app.broker.celeryconfig["host_url"],
        )
        wait_until(self.terminals["Messages"].logs, 10)

    def begin(self, label, *command):
        """Run a command in a terminal of its own, which the label names."""
        # make finds the copy that has the reader's changes in DIR, and the stack by its name.
        env = self.env | {"DIR": str(self.app.folder), "STACK": STACK}
        self.terminals[label] = WorkerProcess(
            self.app.nodes.reaper, label, self.top, command, self.top, env
        )

    def repl(self, command, folder, env, change):
        """Start a prompt in a terminal of its own, with a prompt text that no output contains."""
        options = {"cwd": str(folder), "env": env, "echo": False, "dimensions": (50, 2000)}
        child = pexpect.spawn(command[0], command[1:], encoding="utf-8", **options)
        child.delaybeforesend = None
        return REPLWrapper(child, re.compile(r"(>>>|\$|#) "), change)

    def type(self, repl, text):
        """Return what a terminal shows after this was typed, or a sentence where the prompt does not come back."""
        try:
            return repl.run_command(text, timeout=PATIENCE).replace("\r", "")
        except (pexpect.TIMEOUT, pexpect.EOF, ValueError):
            return f"nothing within {PATIENCE} seconds"

    def pycon(self, block):
        if not self.prompt:
            command = self.app.nodes.python(self.app.workers[0])
            change = "__import__('sys').__dict__.update(ps1={0!r}, ps2={1!r})"
            self.prompt = self.repl(command, self.app.folder, self.env, change)
        for example in doctest.DocTestParser().get_examples(block.source):
            typed = (
                example.source if example.source.count("\n") > 1 else example.source.rstrip("\n")
            )
            self.compare(
                block, example.lineno + 1, typed, example.want, self.type(self.prompt, typed)
            )

    def console(self, block):
        if block.label == "Worker":
            # The suite has started its own. One that the lesson has killed since is started again.
            for worker in self.app.workers:
                if worker.status == "exited":
                    worker.restart()
                    wait_until_ready(worker)
            return
        if block.label != "Shell":
            for line in block.source.splitlines():
                if line == "^C":
                    terminal = self.terminals[block.label]
                    os.killpg(terminal.process.pid, signal.SIGINT)
                    if not wait_until(lambda ended=terminal: ended.status == "exited", PATIENCE):
                        self.problem(block.line, f"Ctrl-C should end it within {PATIENCE} seconds.")
                else:
                    # What make would set up is there.
                    command = line.removeprefix("$ ").replace(
                        "make ", "make -o setup -o setup-web ", 1
                    )
                    self.begin(block.label, "/bin/sh", "-c", f"exec {command}")
            return
        if not self.shell:
            # A learner's terminal does not have the stack on its PATH.
            path = [each for each in self.env["PATH"].split(os.pathsep) if each != str(PROGRAMS)]
            env = self.env | {"PATH": os.pathsep.join(path)}
            self.shell = self.repl(
                ["bash", "--norc"], self.top, env, "PS1='{0}' PS2='{1}' PROMPT_COMMAND=''"
            )
        for match in re.finditer(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", block.source, re.MULTILINE):
            line, typed = block.source.count("\n", 0, match.start()) + 1, match[1].strip()
            found = self.type(self.shell, typed)
            status = self.type(self.shell, "echo $?").strip()
            if match[2].strip():
                self.compare(block, line, typed, match[2], found)
            elif status != "0":
                self.problem(
                    block.line + line, f"`{typed}` should succeed, and printed {found.strip()!r}."
                )

    def compare(self, block, line, typed, wanted, found):
        """Note a problem unless the lesson shows what the terminal showed."""
        if not matches(wanted, found):
            typed, wanted, found = (
                " ".join(text.split()) or "nothing" for text in (typed, wanted, found)
            )
            self.problem(block.line + line, f"{typed} should print {wanted}, printed {found}.")

    def text(self, block):
        nodes = self.app.workers if block.label == "Worker" else [self.terminals[block.label]]

        def missing():
            log = (line.strip() for each in nodes for line in each.logs().splitlines())
            lines = filter(None, map(str.strip, block.source.splitlines()))
            return next(
                (line for line in lines if not any(matches(line, each) for each in log)), None
            )

        wait_until(lambda: missing() is None, PATIENCE)
        if line := missing():
            where = "make messages" if block.label == "Messages" else f"the {block.label.lower()}"
            self.problem(block.line, f"{where} should show, in this order, {line!r}.")

    def python(self, block):
        path = self.app.folder / block.label
        path = path if path.is_file() else ROOT / block.label
        lines = path.read_text().splitlines() if path.is_file() else []
        listed = block.source.strip("\n").splitlines()
        if not any(lines[at : at + len(listed)] == listed for at in range(len(lines))):
            strange = next((line for line in listed if line not in lines), listed[0])
            wrong = (
                f"the listing should be lines of {block.label} in a row, and isn't: {strange!r}."
            )
            self.problem(block.line, wrong)

    yaml = python


def matches(wanted, found):
    """Compare as doctest does, `...` for anything and all white space alike."""
    return doctest.OutputChecker().check_output(
        wanted.rstrip() + "\n", found.rstrip() + "\n", OPTIONS
    )


def changed(text, diff):
    """Apply a diff without line numbers; return the new text, or None where its lines do not stand there."""
    lines = [line or " " for line in diff.splitlines()]
    before, after = (
        "".join(f"{line[1:]}\n" for line in lines if line[0] in signs) for signs in (" -", " +")
    )
    if not before:  # a new file
        return None if text else after
    # Whole lines; where they occur more than once, the first is meant, as a reader would take it.
    found = f"\n{text}".find(f"\n{before}")
    return None if found < 0 else text[:found] + after + text[found + len(before) :]
