"""The lessons hold: what they show is run, what they name exists."""

import json
import re
import select
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from difflib import ndiff
from pathlib import Path

import pytest
from course import CHAPTERS, ROOT, TESTS, child_environment, expect, expect_ready, short, wait_until
from lessons import Lesson, change, in_order, matches, statements

PROMPT = (TESTS / "prompt.py").read_text()
TARGET = re.compile(r"\bmake +((?:[A-Z]+=\S+ +)*)([a-z][\w-]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
NAME_OF_FILE = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|toml|txt|yml|sh|md)|(?:[\w.-]+/)*Makefile")


class Prompt:
    """One fresh Python in a folder, on the machine of the first worker."""

    def __init__(self, place):
        self.keeper = place.course.keeper
        self.process = subprocess.Popen(
            place.course.nodes.python(place.workers[0], PROMPT),
            cwd=place.folder,
            env=place.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.keeper.watch(self.process.pid)

    def run(self, statement, seconds=40):
        """Return what went to stdout, what a terminal showed, and the exception or None."""
        try:
            self.process.stdin.write(json.dumps(statement) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return "", "", "the prompt ended"
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.process.kill()
            return "", "", f"no answer after {seconds} seconds"
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else ("", "", "the prompt ended")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.keeper.forget(self.process.pid)


class Run:
    """The blocks of one session, run in order."""

    def __init__(self, session, place, problems):
        self.session = session
        self.place = place
        self.problems = problems
        self.prompt = None

    def __call__(self):
        for worker in self.place.workers:
            expect_ready(worker)
        self.prompt = Prompt(self.place)
        try:
            for block in self.session.blocks:
                getattr(self, block.language)(block)
        finally:
            self.prompt.close()
        return self.problems

    def mermaid(self, block):
        """A picture."""

    def pycon(self, block):
        for offset, statement, shown in statements(block.source):
            where = block.where(offset + 1)
            if statement is None:
                self.problems.append(
                    f"{where}: a prompt session should begin with >>>, it begins with {shown!r}."
                )
                continue
            printed, terminal, error = self.prompt.run(statement)
            problem = compare(shown, printed, terminal, error)
            if problem:
                self.problems.append(f"{where}: {' '.join(statement.split())} should {problem}")

    def python(self, block):
        path = self.place.folder / block.argument
        if not path.is_file():
            self.problems.append(f"{block.where()}: the listed file {block.argument} should exist.")
            return
        listed, lines = block.source.strip("\n").splitlines(), path.read_text().splitlines()
        if not any(lines[at : at + len(listed)] == listed for at in range(len(lines))):
            strange = next((line for line in listed if line not in lines), listed[0])
            self.problems.append(
                f"{block.where()}: the listing should be lines of {block.argument} in a row, and is not: {strange!r}."
            )

    def text(self, block):
        if not block.remark:
            for number, line in enumerate(block.source.splitlines(), 1):
                name = (line.split() or ["."])[0]
                if not (self.place.folder / name).exists():
                    self.problems.append(f"{block.where(number)}: the listed file {name} should exist.")
            return

        def missing():
            return in_order(block.source, "\n".join(worker.logs() for worker in self.place.workers))

        wait_until(lambda: missing() is None, 10)
        line = missing()
        if line is not None:
            self.problems.append(f"{block.where()}: the worker should log, in this order, {line.strip()!r}.")

    def console(self, block):
        for command, shown in commands(block.source):
            if command is None:
                self.problems.append(
                    f"{block.where()}: a console block should begin with $, it begins with {shown!r}."
                )
                continue
            for target in unknown_targets(command):
                self.problems.append(f"{block.where()}: `make {target}` should be a target of the Makefile.")
            if block.remark == "not run":
                continue
            # `make` is typed where the Makefile is, and all else in the chapter's folder.
            folder = ROOT if command.startswith("make ") else self.place.folder
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=folder,
                env=self.place.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=60,
            )
            if shown and not matches(shown, done.stdout):
                self.problems.append(
                    f"{block.where()}: `{command}` should print {shown!r}, printed {done.stdout!r}."
                )
            elif not shown and done.returncode:
                self.problems.append(
                    f"{block.where()}: `{command}` should end well, ended with {done.returncode}: {done.stdout!r}."
                )


def compare(shown, printed, terminal, error):
    """Return None where the lesson shows what happened, else the end of a sentence."""
    if shown.startswith("Traceback (most recent call last):"):
        message = "\n".join(line for line in shown.splitlines()[1:] if line and not line.startswith(" "))
        if error is None:
            return f"raise {message!r}, raised nothing and printed {printed.strip()!r}."
        return None if matches(message, error) else f"raise {message!r}, raised {error.strip()!r}."
    if error is not None:
        return f"print {shown or 'nothing'}, raised {error.strip()!r}."
    # A reader's terminal has what went to stderr too, loguru's lines; a lesson shows them or leaves them out.
    if matches(shown, printed) or (shown and matches(shown, terminal)):
        return None
    return f"print {shown or 'nothing'}, printed {printed.strip() or 'nothing'}."


def commands(source):
    """Yield each command of a console block and what is shown below it."""
    command, shown = None, []
    for line in source.splitlines():
        if line.startswith("$ ") or (command and command.endswith("\\") and not shown):
            if line.startswith("$ "):
                if command or any(shown):
                    yield command, "\n".join(shown).strip("\n")
                command, shown = line[2:], []
            else:
                command = command[:-1] + line.strip()
        else:
            shown.append(line)
    if command or any(shown):
        yield command, "\n".join(shown).strip("\n")


def targets():
    text = (ROOT / "Makefile").read_text()
    names = set(re.findall(r"^([a-z][\w%-]*)(?: [\w%-]+)*:(?!=)", text, re.MULTILINE))
    numbers = [name.partition("-")[0] for name in CHAPTERS]
    if len(CHAPTERS) == 1:  # in a tag, whose lesson names the next chapter all the same
        numbers.append(str(int(numbers[0]) + 1))
    return {name.replace("%", number) for name in names for number in (numbers if "%" in name else [""])}


def unknown_targets(text):
    known = targets()
    # `make chapter-N-test` stands for every chapter.
    wanted = [name for _, name in TARGET.findall(text.replace("chapter-N-", "chapter-1-"))]
    return [name for name in wanted if name not in known]


def edited_copy(session, folder, temp):
    """Return a copy of the chapter with the session's changes, and what could not be changed."""
    copy = Path(temp) / "copy"
    shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    problems = []
    for edit in session.edits:
        path = copy / edit.argument
        text = change(path.read_text() if path.is_file() else "", edit.source)
        if text is None:
            problems.append(
                f"{edit.where()}: the lines that the change begins from should stand in {edit.argument}."
            )
        else:
            path.write_text(text)
    return copy, problems


def run_lesson(lesson, main, course, tmp_path):
    """Run the sessions of a lesson side by side; return all problems, in the order of the lesson."""
    from conftest import Place

    sessions, problems = lesson.sessions()
    runs, copies = [Run(sessions[0], main, [])], []
    for number, session in enumerate(sessions[1:]):
        (temp := tmp_path / str(number)).mkdir()
        copy, wrong = edited_copy(session, main.folder, temp)
        problems += wrong
        if not wrong:
            # Where a reader has time to watch several workers, the suite gives them more processes.
            args = ["-c", "6"] if session.workers > 1 else []
            place = Place(
                course, f"{main.name}-edited", copy, count=session.workers, args=args, without=session.without
            )
            copies.append(place)
            runs.append(Run(session, place, []))
    try:
        with ThreadPoolExecutor(len(runs)) as pool:
            try:
                for found in pool.map(lambda run: run(), runs):
                    problems += found
            except BaseException:
                # Ctrl-C, for one: the other sessions need not go on.
                for run in runs:
                    if run.prompt:
                        run.prompt.process.kill()
                raise
    finally:
        for place in copies:
            place.close()
    return sorted(problems, key=line_number)


def line_number(problem):
    return int(re.search(r" line (\d+)", problem)[1])


def test_lesson_holds(chapter, course, place, tmp_path, request):
    if request.config.getoption("--dir"):
        pytest.skip("the lesson is about the chapter's own folder")
    readme = place.folder / "README.md"
    expect(readme.is_file(), f"chapters/{chapter} should have a README.md: its lesson.")
    problems = run_lesson(Lesson(readme), place, course, tmp_path)
    expect(not problems, "\n".join(problems))


# What a chapter keeps of the chapter before, as the lesson is not about it, and what it only adds to.
KEPT = {
    "3-project-tree": ["celeryconfig.py"],
    "4-libs-split": ["celeryconfig.py", "tasks/__init__.py", "tasks/celery.py"],
    "5-canvas": ["celeryconfig.py", "tasks/__init__.py", "tasks/celery.py", "libs/__init__.py"],
}
ADDED_TO = {"5-canvas": ["libs/math.py", "tasks/math.py"]}


def test_difference_is_the_lesson(chapter):
    if len(CHAPTERS) == 1:
        pytest.skip("needs the chapter before: this is the tag of one")
    before = ROOT / "chapters" / CHAPTERS[CHAPTERS.index(chapter) - 1]
    for signs, files in ("+-", KEPT.get(chapter, [])), ("-", ADDED_TO.get(chapter, [])):
        for file in files:
            old, new = (folder / file for folder in (before, ROOT / "chapters" / chapter))
            changes = ndiff(old.read_text().splitlines(), new.read_text().splitlines())
            strange = next((line for line in changes if line[0] in signs), None)
            expect(
                not strange,
                f"{short(new)} should have the lines of {before.name}; it differs in {strange!r}.",
            )


def test_worker_starts(worker):
    worker.assert_log_exists(" ready.")


def test_course_readme_holds():
    if len(CHAPTERS) == 1:
        pytest.skip("needs the course's README: this is the tag of one chapter, and has its lesson there")
    if not (ROOT / "README.md").is_file():
        pytest.skip("the course has no README.md yet")
    lesson = Lesson(ROOT / "README.md")
    sessions, problems = lesson.sessions()
    for session in sessions:
        for block in session.blocks:
            if block.language not in ("console", "mermaid", "python"):
                problems.append(
                    f"{block.where()}: the course's README has no prompt and no worker for {block.language}."
                )
    place = type("Root", (), {"folder": ROOT, "workers": [], "env": child_environment()})
    blocks = [block for block in sessions[0].blocks if block.language in ("console", "python")]
    run = Run(sessions[0], place, problems)
    for block in blocks:
        getattr(run, block.language)(block)
    expect(not problems, "\n".join(problems))


def test_names_in_prose_exist(chapter):
    expect_names_exist(ROOT / "chapters" / chapter / "README.md")


def test_names_in_the_course_readme_exist():
    if len(CHAPTERS) == 1:
        pytest.skip("needs the course's README: this is the tag of one chapter, and has its lesson there")
    expect_names_exist(ROOT / "README.md")


def expect_names_exist(path):
    """Fail unless the links, files and make targets that a README's prose names are there."""
    lesson, problems = Lesson(path), []
    for number, line in enumerate(lesson.prose.splitlines(), 1):
        where = f"{lesson.name} line {number}"
        for link in LINK.findall(line):
            target = link.partition("#")[0]
            if (
                target
                and "://" not in link
                and not link.startswith("mailto:")
                # From the root, as links from a lesson must be that stand in a tag too.
                and not (ROOT / target[1:] if target[0] == "/" else path.parent / target).exists()
            ):
                problems.append(f"{where}: the link {link} should lead to a file.")
        for code in CODE.findall(line):
            problems += [f"{where}: `make {target}` should be a target." for target in unknown_targets(code)]
            if NAME_OF_FILE.fullmatch(code) and not any((base / code).exists() for base in bases(path)):
                problems.append(f"{where}: the file {code} should exist.")
    expect(not problems, "\n".join(problems))


def bases(path):
    """Where a name in a lesson may be: its folder, the course, or the chapter before."""
    yield path.parent
    yield ROOT
    yield from (ROOT / "chapters").glob("[0-9]*")
