"""Runs the blocks of a lesson as a reader would, and compares what they print with the lesson.

A diff is a change that the reader makes: the blocks below it run on a copy of the chapter that has
it, with workers, a prompt and a shell of their own, until the lesson takes the change back.
"""

import doctest
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pexpect
from pexpect.replwrap import REPLWrapper
from support.assertions import wait_until_ready
from support.nodes import IGNORED, AppUnderTest, WorkerProcess

from course.chapters import CHAPTERS, ROOT
from course.environment import PROGRAMS, STACK
from course.lesson import Lesson, apply_diff
from course.waiting import wait_until

PROMPTS = re.compile(r"(>>>|\$|#) ")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# The indented lines of a traceback: where it was raised, without what was raised.
FRAMES = re.compile(r"(?<=\(most recent call last\):\n)(?: .*\n)+")
# What begins with a number of seconds.
MEASURED = re.compile(r"[('\"]?\d+\.\.\.")
PATIENCE = 60  # seconds that a statement or a command may take
# No pager, no colours, and Python's plain prompt.
PLAIN_TERMINAL = {
    "GIT_PAGER": "cat",
    "LOGURU_COLORIZE": "no",
    "NO_COLOR": "1",
    "PYTHON_BASIC_REPL": "1",
    "TERM": "dumb",
    "VIRTUAL_ENV_DISABLE_PROMPT": "1",
}


class LessonRunner:
    """Runs a lesson on an AppUnderTest that runs the lesson's chapter."""

    def __init__(self, path, app, folder):
        self.page = Lesson(path)
        self.app = app
        self.folder = folder

    def holds(self):
        """Run the sessions side by side; fail with a sentence for each difference, in order."""
        runners = []
        try:
            for number, session in enumerate(self.page.sessions()):
                runners.append(self.prepare(session, self.folder / str(number)))
            with ThreadPoolExecutor(len(runners)) as pool:
                running = [pool.submit(runner.run) for runner in runners]
            for future in running:
                future.result()
        finally:
            for runner in runners:
                if runner.app is not self.app:
                    runner.app.close()
        sentences = [sentence for _, sentence in sorted(self.page.problems)]
        assert not sentences, "\n".join(sentences)

    def prepare(self, session, folder):
        """Return the runner of a session; start its workers if the session has changes."""
        if not session.edits and session.workers == [""]:
            return SessionRunner(self.page, session, self.app, folder / "top")
        chapter = folder / self.app.folder.name
        shutil.copytree(self.app.folder, chapter, ignore=IGNORED)
        for edit in session.edits:
            self.make_change(chapter, edit)
        app = AppUnderTest(self.app.nodes, chapter, 0, env=dict.fromkeys(session.without))
        for options in session.workers:
            app.add_worker(options.split())
        return SessionRunner(self.page, session, app, folder / "top")

    def make_change(self, chapter, edit):
        """Make one of the reader's changes in a copy of the chapter."""
        path = chapter / edit.label
        old = path.read_text() if path.is_file() else ""
        new = apply_diff(old, edit.source)
        if new is None:
            self.page.add_problem(
                edit.line, f"{edit.label} should have the lines that the change begins with."
            )
        else:
            path.write_text(new)


class SessionRunner:
    """The terminals of a session: a prompt, a shell, and one for each other program."""

    def __init__(self, page, session, app, top):
        self.page = page
        self.session = session
        self.app = app
        self.top = top
        self.env = app.env | PLAIN_TERMINAL
        self.prompt = None
        self.shell = None
        self.terminals = {}  # by label
        self.make_checkout()

    def make_checkout(self):
        """Make a checkout of links, where the chapter is the app's folder and all is set up."""
        (self.top / "chapters").mkdir(parents=True)
        (self.top / "chapters" / self.page.path.parent.name).symlink_to(self.app.folder)
        for name in set(CHAPTERS) - {self.page.path.parent.name}:
            (self.top / "chapters" / name).symlink_to(ROOT / "chapters" / name)
        (self.top / "course").symlink_to(ROOT / "course")
        for path in (ROOT / "Makefile", *ROOT.glob("*.mk")):
            (self.top / path.name).symlink_to(path)
        # A reader activates .venv; make uses the folder of the stack.
        for name in {".venv", PROGRAMS.parent.name}:
            (self.top / name).symlink_to(PROGRAMS.parent)
        (self.top / "tools").mkdir()
        (self.top / "tools" / "setup.sh").touch()

    def run(self):
        """Run the blocks in order, and end what they started."""
        for worker in self.app.workers:
            wait_until_ready(worker)
        try:
            if any(block.label == "Messages" for block in self.session.blocks):
                self.watch_messages()
            for block in self.session.blocks:
                self.run_block(block)
        finally:
            self.close()

    def run_block(self, block):
        if block.language == "pycon":
            self.run_prompt(block)
        elif block.language == "text":
            self.check_log(block)
        elif block.language != "console":
            self.check_listing(block)
        elif block.label == "Worker":
            self.restart_killed_workers()
        elif block.label == "Shell":
            self.run_shell(block)
        else:
            self.run_program(block)

    def close(self):
        """End the prompt, the shell and the other programs."""
        for repl in (self.prompt, self.shell):
            if repl:
                # close() alone waits half a second.
                repl.child.kill(signal.SIGKILL)
                repl.child.wait()
                repl.child.close()
                self.app.nodes.reaper.forget(repl.child.pid)
        for terminal in self.terminals.values():
            terminal.teardown()

    def watch_messages(self):
        """Start `make messages`, and wait until it watches."""
        url = self.app.broker.celeryconfig["host_url"]
        self.start_program("Messages", "python", "-m", "course", "messages", url)
        wait_until(self.terminals["Messages"].logs, PATIENCE)

    def start_program(self, label, *command):
        """Start a command in a terminal of its own."""
        # With DIR, make uses the copy that has the reader's changes.
        env = self.env | {"DIR": str(self.app.folder), "STACK": STACK}
        self.terminals[label] = WorkerProcess(
            self.app.nodes.reaper, label, self.top, command, self.top, env
        )

    def start_repl(self, command, folder, env, set_prompt):
        """Start a prompt or a shell whose prompt no output contains."""
        child = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(folder),
            env=env,
            echo=False,
            timeout=PATIENCE,
            dimensions=(50, 2000),
            encoding="utf-8",
        )
        self.app.nodes.reaper.watch(child.pid)
        child.delaybeforesend = None
        return REPLWrapper(child, PROMPTS, set_prompt)

    def type_line(self, repl, text):
        """Return what typing this prints, or a sentence if the prompt doesn't come back."""
        try:
            return repl.run_command(text, timeout=PATIENCE).replace("\r", "")
        except (pexpect.TIMEOUT, pexpect.EOF, ValueError):
            return f"nothing within {PATIENCE} seconds"

    def run_prompt(self, block):
        if not self.prompt:
            command = self.app.nodes.python(self.app.workers[0])
            set_prompt = "__import__('sys').__dict__.update(ps1={0!r}, ps2={1!r})"
            self.prompt = self.start_repl(command, self.app.folder, self.env, set_prompt)
        for example in doctest.DocTestParser().get_examples(block.source):
            typed = example.source
            if typed.count("\n") == 1:
                typed = typed.rstrip("\n")
            found = self.type_line(self.prompt, typed)
            if MEASURED.match(example.want):
                found = self.measure_again(typed, example.want, found)
            self.compare(block.line + example.lineno + 1, typed, example.want, found)

    def measure_again(self, typed, wanted, found):
        """Return the best of three measurements: in one, the machine may have stood still."""
        for _ in range(2):
            if matches(wanted, found):
                break
            found = self.type_line(self.prompt, typed)
        return found

    def restart_killed_workers(self):
        """Start the workers again that the lesson has killed; the suite has started the others."""
        for worker in self.app.workers:
            if worker.status == "exited":
                worker.restart()
                wait_until_ready(worker)

    def run_program(self, block):
        """Start the commands of a block in a terminal of their own; a line ^C ends it."""
        for line in block.source.splitlines():
            if line == "^C":
                self.interrupt(block)
            else:
                command = line.removeprefix("$ ")
                self.start_program(block.label, "/bin/sh", "-c", f"exec {command}")

    def interrupt(self, block):
        """Press Ctrl-C in the terminal of a block."""
        terminal = self.terminals[block.label]
        os.killpg(terminal.process.pid, signal.SIGINT)
        if not wait_until(lambda: terminal.status == "exited", PATIENCE):
            self.page.add_problem(block.line, f"Ctrl-C should end it within {PATIENCE} seconds.")

    def run_shell(self, block):
        if not self.shell:
            # The stack's programs aren't on a learner's PATH.
            folders = self.env["PATH"].split(os.pathsep)
            others = [folder for folder in folders if folder != str(PROGRAMS)]
            env = self.env | {"PATH": os.pathsep.join(others)}
            set_prompt = "PS1='{0}' PS2='{1}' PROMPT_COMMAND=''"
            self.shell = self.start_repl(["bash", "--norc"], self.top, env, set_prompt)
        for line, typed, wanted in split_commands(block.source):
            found = self.type_line(self.shell, typed)
            status = self.type_line(self.shell, "echo $?").strip()
            line += block.line
            if wanted.strip():
                self.compare(line, typed, wanted, found)
            elif status != "0":
                self.page.add_problem(
                    line, f"`{typed}` should succeed, but it printed {found.strip()!r}."
                )

    def compare(self, line, typed, wanted, found):
        """Note a problem unless the terminal shows what the lesson shows."""
        if not matches(wanted, found):
            typed, wanted, found = map(on_one_line, (typed, wanted, found))
            self.page.add_problem(line, f"{typed} should print {wanted}, but it printed {found}.")

    def check_log(self, block):
        """Note a problem unless a terminal shows the lines of a block in their order."""
        if block.label == "Worker":
            nodes = self.app.workers
        else:
            nodes = [self.terminals[block.label]]
        wanted = [line.strip() for line in block.source.splitlines() if line.strip()]

        def missing_line():
            shown = []
            for node in nodes:
                shown += node.logs().splitlines()
            return find_missing(wanted, shown)

        wait_until(lambda: not missing_line(), PATIENCE)
        missing = missing_line()
        if missing:
            program = f"the {block.label.lower()}"
            if block.label == "Messages":
                program = "make messages"
            self.page.add_problem(block.line, f"{program} should show, in order, {missing!r}.")

    def check_listing(self, block):
        """Note a problem unless a listing has consecutive lines of its file."""
        path = self.app.folder / block.label
        if not path.is_file():
            path = ROOT / block.label
        lines = path.read_text().splitlines() if path.is_file() else []
        listed = block.source.strip("\n").splitlines()
        for start in range(len(lines)):
            if lines[start : start + len(listed)] == listed:
                return
        strange = [line for line in listed if line not in lines] or listed
        self.page.add_problem(
            block.line,
            f"the listing should be consecutive lines of {block.label}; look at {strange[0]!r}.",
        )


def split_commands(source):
    """Return each command of a Shell block: its line in the block, and what it should print."""
    commands = []
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("$ "):
            commands.append([number, line[2:], ""])
        elif commands:
            commands[-1][2] += f"{line}\n"
    return commands


def find_missing(wanted, shown):
    """Return the first of the wanted lines that isn't shown after those before it, or ""."""
    remaining = iter(shown)
    for line in wanted:
        for candidate in remaining:
            if matches(line, candidate.strip()):
                break
        else:
            return line
    return ""


def matches(wanted, found):
    """Compare as doctest does: `...` stands for anything, and all white space is alike."""
    checker = doctest.OutputChecker()
    return checker.check_output(f"{wanted.rstrip()}\n", f"{found.rstrip()}\n", OPTIONS)


def on_one_line(text):
    """Return a text on one line, as a sentence shows it: a traceback without its frames."""
    return " ".join(FRAMES.sub("... ", text).split()) or "nothing"
