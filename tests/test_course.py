"""The pages, lists and locks of the course agree with each other and with its files."""

import importlib
import json
import re
import subprocess
import tomllib
from datetime import date, datetime

import pytest
from support.commands import run_in
from support.overlays import find_overlays
from support.recordings import assert_recording
from support.times import exercise_minutes, read_minutes

from course.chapters import CHAPTERS, ROOT, number_of
from course.environment import environment
from course.lesson import Lesson, prose_of

LESSONS = {name: ROOT / "chapters" / name / "README.md" for name in CHAPTERS}
PAGES = ("*.md", "docs/*.md", "chapters/*.md", "chapters/*/*/README.md")
OTHERS = [page for pattern in PAGES for page in ROOT.glob(pattern)]
IS_IT_CELERY = ROOT / "chapters" / "is-it-celery.md"
TYPED_MAKE = re.compile(r"`(make [^`]+)`|^\$ (make .+)$", re.MULTILINE)
TARGET = re.compile(r"make (?:[A-Z_]+=\S+ )*([a-z]\S*)")
LINK = re.compile(r"\]\(([^)\s:]+)\)")
FILE_NAME = re.compile(r"`([\w./-]+\.(?:py|toml|txt|yml|sh|md))`")
PIN = re.compile(r"^([\w.-]+==[\w.]+)", re.MULTILINE)
# Files that a reader makes, or that only a tag has.
NOT_HERE = (
    "mean.py",
    "pools.py",
    "stuck.py",
    "tasks/text.py",
    "LESSON.md",
    "test_N_name.py",
    "workflows.py",
)
# Pages that GitHub has of every repository, as README.md links to them.
GITHUB_PAGES = ("../../codespaces", "../../deployments/github-pages")
each_chapter = pytest.mark.parametrize("path", LESSONS.values(), ids=CHAPTERS)
each_page = pytest.mark.parametrize(
    "path", [*LESSONS.values(), *OTHERS], ids=lambda path: str(path.relative_to(ROOT))
)


@pytest.fixture(scope="module")
def targets():
    """The Makefile's targets, for each chapter and for a chapter N."""
    print_database = ["make", "-pRrq", "help"]
    database = subprocess.run(
        print_database, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    targets = set()
    for name in re.findall(r"^([\w%-]+):", database.stdout, re.MULTILINE):
        targets.add(name)
        for number in ("N", *map(number_of, CHAPTERS)):
            targets.add(name.replace("%", str(number)))
            targets.add(re.sub(r"chapter-\d+-", "chapter-N-", name))
    return targets


@each_page
def test_the_commands_of_a_page_are_targets(path, targets):
    typed = " ".join(map("".join, TYPED_MAKE.findall(path.read_text())))
    for target in TARGET.findall(typed):
        assert target in targets, (
            f"{path.relative_to(ROOT)}: `make {target}` should be a target of the Makefile."
        )


@each_page
def test_the_links_of_a_page_lead_to_headings_and_files(path):
    where = path.relative_to(ROOT)
    for link in LINK.findall(prose_of(path.read_text())):
        name, _, anchor = link.partition("#")
        if link in GITHUB_PAGES:
            continue
        if name.startswith("../../actions/"):
            # A badge leads to GitHub's page of a workflow.
            name = f"/.github/{name.removeprefix('../../actions/').removesuffix('/badge.svg')}"
        target = path
        if name.startswith("/"):
            target = ROOT / name[1:]
        elif name:
            target = path.parent / name
        assert target.exists(), f"{where}: the link {link} should lead to a file."
        if anchor:
            assert anchor in Lesson(target).headings(), (
                f"{where}: the link {link} should lead to a heading."
            )


@each_page
def test_the_files_that_a_page_names_exist(path):
    folders = [path.parent, ROOT, ROOT / "tools", *(lesson.parent for lesson in LESSONS.values())]
    for name in FILE_NAME.findall(prose_of(path.read_text())):
        exists = any((folder / name).exists() for folder in folders)
        assert exists or name.endswith(NOT_HERE), (
            f"{path.relative_to(ROOT)}: the file {name} should exist."
        )


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
    missing = {anchor for _, anchor in steps} - Lesson(path).headings().keys()
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
    command = ["python", "-m", "pytest", "-n", "0", "-p", "conftest", suite]
    variables = {"PYTHONPATH": "tests", "PYTEST_ADDOPTS": "-c pyproject.toml"}
    return run_in(ROOT, *command, **variables).stdout


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


def test_events_that_a_run_gives_otherwise_are_named(tmp_path):
    events = json.loads((ROOT / "tests" / "test_1_first_steps" / "call.json").read_text())
    changed = tmp_path / "call.json"
    changed.write_text(json.dumps(events).replace('"8"', '"9"'))
    named = r'A run gives .+: "8".+ and doesn\'t give .+: "9".+call.json'
    with pytest.raises(AssertionError, match=named):
        assert_recording(changed, events)


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


def test_readme_says_what_to_clone():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    address = settings["tool"]["course"]["address"] or "ADDRESS"
    line = f"$ git clone {address} celery-course"
    assert line in (ROOT / "README.md").read_text().splitlines(), (
        f"README.md should have the line that clones the address in pyproject.toml: {line}"
    )


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_labels_and_directives_of_a_page(path):
    problems = Lesson(path).problems
    # README.md shows a diff that isn't a change for the reader to make.
    sentences = [sentence for _, sentence in problems if "one is diff" not in sentence]
    assert not sentences, "\n".join(sentences)


def test_a_misspelt_directive_or_label_is_a_problem(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- wokers: 3 -->\n\n<!-- without -->\n\n```pycon\n>>> 1\n1\n```\n")
    lesson = Lesson(page)
    lines = [line for line, _ in lesson.problems]
    assert lines == [1, 3, 5], f"Lines 1, 3 and 5 should be problems, not {lesson.problems}."
    assert not lesson.blocks, f"A block without a label should not be run: {lesson.blocks}"


def test_the_badge_names_the_versions_of_celery():
    groups = read_dependency_groups()
    pins = "\n".join(groups["pinned"] + groups["latest"])
    versions = " and ".join(re.findall(r"celery(?:\[redis\])?==(\d+\.\d+)", pins))
    for page, text in {
        "README.md": f"![Celery {versions}]",
        "docs/celery.svg": f">{versions}<",
    }.items():
        assert text in (ROOT / page).read_text(), f"The badge in {page} should say {versions}."


def test_requirements_are_current():
    groups = read_dependency_groups()
    listed = PIN.findall((ROOT / "requirements.txt").read_text())
    locked = PIN.findall((ROOT / "tools/locks/pinned-test.txt").read_text())
    assert listed == locked, (
        "requirements.txt should have what tools/locks/pinned-test.txt has: type make lock."
    )
    wanted = {*groups["pinned"], *groups["pinned-web"], *groups["test"], "redis==3.2.0"}
    missing = wanted.difference(listed)
    assert not missing, (
        f"requirements.txt should have {missing}, as pyproject.toml does: type make lock."
    )


@pytest.mark.parametrize(
    "copy, original",
    [
        ("requirements-uv.txt", "locks/uv.txt"),
        ("requirements-pinned.txt", "locks/pinned-web.txt"),
        ("requirements-latest.txt", "locks/latest-web.txt"),
        ("fix_billiard.py", "fix_billiard.py"),
    ],
)
def test_an_image_of_a_chapter_has_the_courses_packages(copy, original):
    copies = list(ROOT.glob(f"chapters/*/{copy}"))
    assert copies, f"A chapter should have {copy}, for an image that its folder alone builds."
    for path in copies:
        assert path.read_bytes() == (ROOT / "tools" / original).read_bytes(), (
            f"{path.relative_to(ROOT)} should equal tools/{original}: type make lock."
        )


def read_dependency_groups():
    """Return the dependency groups of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


LOOKED_UP = re.compile(r"looked up in (\w+ \d{4})")


def month_of(page):
    """Return the first day of the month in which a page says that its facts were looked up."""
    found = LOOKED_UP.search(page.read_text())
    assert found, f"{page.name} should say in which month its facts were looked up."
    return datetime.strptime(found[1], "%B %Y").date()


def test_the_page_of_alternatives_has_a_date():
    month_of(IS_IT_CELERY)


@pytest.mark.dated
def test_the_page_of_alternatives_is_younger_than_a_year():
    month = month_of(IS_IT_CELERY)
    assert date.today() < month.replace(year=month.year + 1), (
        f"{IS_IT_CELERY.name} was looked up in {month:%B %Y}: look its facts up again,"
        " and change its date."
    )
