"""The pages, lists and locks of the course agree with each other and with what is there."""

import importlib
import re
import subprocess
import tomllib

import pytest
from support.overlays import find_overlays
from support.times import exercise_minutes, read_minutes

from course.chapters import CHAPTERS, ROOT, number_of
from course.environment import PROGRAMS, environment
from course.lesson import Lesson

LESSONS = {name: ROOT / "chapters" / name / "README.md" for name in CHAPTERS}
OTHERS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("chapters/*.md")]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PIN = re.compile(r"^([\w.-]+==[\w.]+)", re.MULTILINE)
# Files that a reader makes, or that are in a tag only.
MADE = ("mean.py", "tasks/text.py", "LESSON.md", "test_N_name.py")
each_chapter = pytest.mark.parametrize("path", LESSONS.values(), ids=CHAPTERS)


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_targets():
    """Return the targets of the Makefile and maintain.mk, those of a chapter with % for N."""
    text = (ROOT / "Makefile").read_text() + (ROOT / "maintain.mk").read_text()
    return re.findall(r"^(?:\$\(call each,[a-z]+\): )?([a-z%-]+):", text, re.MULTILINE)


@pytest.mark.parametrize(
    "path", [*LESSONS.values(), *OTHERS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_a_page_names_is_there(path):
    text, where = path.read_text(), path.relative_to(ROOT)
    prose = FENCE.sub("", text)
    names = find_targets()
    numbers = ["N", *map(number_of, CHAPTERS)]
    targets = {name.replace("%", str(number)) for name in names for number in numbers}
    typed = re.findall(r"`(make [^`]+)`", prose) + re.findall(r"^\$ (make .+)$", text, re.MULTILINE)
    for target in re.findall(r"make (?:[A-Z_]+=\S+ )*([a-z]\S*)", "\n".join(typed)):
        assert target in targets, f"{where}: `make {target}` should be a target of the Makefile."
    for link in re.findall(r"\]\(([^)\s:]+)\)", prose):
        # A badge is a workflow's.
        link = re.sub(r"^\.\./\.\./actions(/workflows/\w+\.yml).*", r"/.github\1", link)
        name, _, anchor = link.partition("#")
        target = ROOT / name[1:] if name.startswith("/") else path.parent / name if name else path
        assert target.exists(), f"{where}: the link {link} should lead to a file."
        assert not anchor or anchor in anchors(target), (
            f"{where}: the link {link} should lead to a heading."
        )
    folders = [path.parent, ROOT, ROOT / "tools", *(lesson.parent for lesson in LESSONS.values())]
    for name in re.findall(r"`([\w./-]+\.(?:py|toml|txt|yml|sh|md))`", prose):
        found = name.endswith(MADE) or any((folder / name).exists() for folder in folders)
        assert found, f"{where}: the file {name} should exist."


def marked_steps(chapter, mark_name):
    """Return text and anchor of each of a chapter's tests with this mark, in their order."""
    marked = []
    for file in sorted((ROOT / "tests").glob(f"test_{number_of(chapter)}_*.py")):
        try:
            module = importlib.import_module(file.stem)
        except pytest.skip.Exception:
            continue  # it needs a browser
        for test in vars(module).values():
            for mark in getattr(test, "pytestmark", []):
                if mark.name == mark_name:
                    marked.append(mark.args)
    return marked


@each_chapter
@pytest.mark.parametrize("mark, bullet", [("step", r"\d+\."), ("star", "- ★")])
def test_the_exercise_lists_what_is_checked(path, mark, bullet):
    """The steps that tests check are those of the exercise, and each leads into the lesson."""
    chapter = path.parent.name
    steps = marked_steps(chapter, mark)
    wanted = list(dict(steps))
    exercise = path.read_text().partition("\n## Your turn\n")[2]
    listed = re.findall(rf"^{bullet} (.+)$", exercise, re.MULTILINE)
    assert listed == wanted, (
        f"The exercise in {chapter} should list these {mark}s: {wanted}, but it lists {listed}."
    )
    missing = {anchor for _, anchor in steps} - anchors(path)
    assert not missing, (
        f"The {mark}s of {chapter} should lead to headings of its lesson, not to {missing}."
    )


STAR_SUITE = """
import pytest

@pytest.mark.star("a sum", "a-sum")
def test_star_sum(app, folder):
    found = app.tasks["tasks.math.add_request"].name + (folder / "answer.txt").read_text()
    assert found == "tasks.math.add_request4", {message}
"""


def run_star_suite(folder, message):
    """Run STAR_SUITE, whose test fails with this message, on the overlays in a folder."""
    suite = folder / "test_4_sum.py"
    suite.write_text(STAR_SUITE.format(message=message))
    command = [PROGRAMS / "python", "-m", "pytest", "-n", "0", "-p", "conftest", suite]
    env = environment() | {"PYTHONPATH": "tests", "PYTEST_ADDOPTS": "-c pyproject.toml"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return run.stdout


def test_a_star_step_passes_on_right_answers_and_fails_on_wrong_ones(tmp_path):
    for name, text in (("right", "4"), ("wrong_number", "5"), ("wrong_but_it_passes", "4")):
        overlay = tmp_path / "test_4_sum" / f"sum_{name}"
        overlay.mkdir(parents=True)
        (overlay / "answer.txt").write_text(text)
    output = run_star_suite(tmp_path, message="'The file answer.txt should have 4.'")
    for sentence in ("wrong_but_it_passes should fail, but it passes.", "1 failed, 2 passed"):
        assert sentence in output, f"The suite should print {sentence!r}:\n{output}"
    output = run_star_suite(tmp_path, message="5")
    sentence = "wrong_number should fail with a sentence, but its message is '5'."
    assert sentence in output, f"The suite should print {sentence!r}:\n{output}"
    with pytest.raises(pytest.Collector.CollectError, match="needs the overlays"):
        find_overlays(tmp_path / "test_4_sum.py", "test_star_mean")


@each_chapter
def test_a_lesson_says_how_long_it_takes(path):
    lesson = Lesson(path)
    read, exercise = read_minutes(lesson), exercise_minutes(lesson)
    wanted = f"Read and type: {read} minutes. Exercise: {exercise} minutes."
    head = lesson.text.partition("\n## ")[0]
    assert wanted in head.splitlines(), (
        f"The head of the lesson in {path.parent.name} should have the line: {wanted}"
    )


def test_readme_lists_the_chapters():
    text = (ROOT / "README.md").read_text()
    row = r"^\| \[.+?\]\(chapters/(.+?)/README.md\) \|.+\| (\d+) \| (\d+) \|$"
    rows = re.findall(row, text, re.MULTILINE)
    wanted = []
    for name, path in LESSONS.items():
        lesson = Lesson(path)
        wanted.append((name, str(read_minutes(lesson)), str(exercise_minutes(lesson))))
    assert rows == wanted, (
        f"README.md should list these chapters, with the minutes to read and to exercise: {wanted}"
    )
    assert text.count("\n") <= 100, "README.md should have at most 100 lines."


def test_readme_shows_what_chapter_2_changes():
    text = (ROOT / "README.md").read_text()
    first, second = list(LESSONS.values())[:2]
    old = first.with_name("tasks.py").read_text().splitlines()
    new = second.with_name("tasks.py").read_text().splitlines()
    for line in re.search(r"```diff\n(.*?)```", text, re.DOTALL)[1].splitlines():
        lines = old if line.startswith("-") else new
        assert line[1:] in lines, (
            f"The diff in README.md should have lines of the first two chapters, not {line!r}."
        )


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_labels_and_directives_of_a_page(path):
    lesson = Lesson(path)
    problems = [sentence for _, sentence in lesson.problems if "one is diff" not in sentence]
    assert not problems, "\n".join(problems)


def test_a_misspelt_directive_is_told(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- wokers: 3 -->\n\n<!-- without -->\n\n```pycon\n>>> 1\n1\n```\n")
    lesson = Lesson(page)
    assert not lesson.blocks and len(lesson.problems) == 3, f"Three problems, not {lesson.problems}"


def test_requirements_are_current():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    stacks = re.findall(
        r"celery(?:\[redis\])?==(\d+\.\d+)", "\n".join(groups["pinned"] + groups["latest"])
    )
    versions = " and ".join(stacks)
    for page, text in (
        ("README.md", f"![Celery {versions}]"),
        ("docs/celery.svg", f">{versions}<"),
    ):
        assert text in (ROOT / page).read_text(), f"The badge in {page} should say {versions}."
    listed = PIN.findall((ROOT / "requirements.txt").read_text())
    locked = PIN.findall((ROOT / "tools/locks/pinned-test.txt").read_text())
    assert listed == locked, (
        "requirements.txt should have what tools/locks/pinned-test.txt has: type make lock."
    )
    missing = {*groups["pinned"], *groups["pinned-web"], *groups["test"], "redis==3.2.0"} - set(
        listed
    )
    assert not missing, (
        f"requirements.txt should have {missing}, as pyproject.toml does: type make lock."
    )


def test_tables_are_those_of_the_last_run():
    check = [PROGRAMS / "python", "-m", "tools.bench", "check"]
    done = subprocess.run(
        check, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
