"""The pages, lists and locks of the course agree with each other and with what is there."""

import json
import math
import os
import re
import subprocess
import sys
import tomllib

import pytest
from course import CHAPTERS, PROGRAMS, ROOT, environment
from lessons import Lesson

LESSONS = {name: ROOT / "chapters" / name / "README.md" for name in CHAPTERS}
OTHERS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("chapters/*.md")]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
TARGET = re.compile(r"\bmake +((?:[A-Z]+=\S+ +)*)([a-z][\w-]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|toml|txt|yml|sh|md))`")
# Files that a reader makes.
MADE = ("mean.py", "tasks/text.py", "LESSON.md")


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def minutes_of(path):
    """Return the minutes that a lesson says it takes."""
    return int(re.search(r"It takes (\d+) minutes", path.read_text())[1])


@pytest.mark.parametrize("path", [*LESSONS.values(), *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_is_there(path):
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z][\w%-]*)(?: [\w%-]+)*:(?!=)", makefile, re.MULTILINE)) | {"logs", "down"}
    numbers = [name.partition("-")[0] for name in CHAPTERS] + ["N"]
    targets = {name.replace("%", number) for name in known for number in numbers}
    prose = FENCE.sub("", text)
    typed = re.findall(r"`(make [^`]+)`", prose) + re.findall(r"^\$ (make .+)$", text, re.MULTILINE)
    for _, target in TARGET.findall("\n".join(typed)):
        assert target in targets, f"{path.name}: `make {target}` should be a target of the Makefile."
    for link in LINK.findall(prose):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = ROOT / name[1:] if name.startswith("/") else path.parent / name if name else path
            assert target.exists(), f"{path.name}: the link {link} should lead to a file."
            assert not anchor or anchor in anchors(target), (
                f"{path.name}: the link {link} should lead to a heading."
            )
    bases = [path.parent, ROOT, ROOT / "tools", *(lesson.parent for lesson in LESSONS.values())]
    for name in FILE.findall(prose):
        found = any((base / name).exists() for base in bases) or name.endswith(MADE) or "_N_" in name
        assert found, f"{path.name}: the file {name} should exist."


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_exercise_lists_what_is_checked(chapter, request):
    """The steps of a chapter's tests, in their order, are those of the exercise; each leads to a place in the lesson."""
    number = chapter.partition("-")[0]
    collect = [sys.executable, "-c", "import check, sys; check.steps(sys.argv[1], '--collect-only')", number]
    reader, writer = os.pipe()
    env = os.environ | {"CHECK_PIPE": str(writer), "PYTHONPATH": str(ROOT / "tests"), "DIR": ""}
    subprocess.run(
        collect, env=env, pass_fds=[writer], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    with os.fdopen(reader) as lines:
        steps = json.loads(lines.readline() or "[]")
    lesson = LESSONS[chapter]
    listed = re.findall(
        r"^\d+\. (.+)$", lesson.read_text().partition("## Your turn")[2].partition("## Next")[0], re.MULTILINE
    )
    assert listed == [text for text, _, _ in steps], (
        f"The exercise of chapter {number} should list these steps: {steps}"
    )
    missing = {anchor for _, anchor, _ in steps} - anchors(lesson)
    assert not missing, f"The steps of chapter {number} lead to places that its lesson has not: {missing}"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_minutes_are_counted(chapter):
    """200 words a minute, and a quarter of a minute for each restart of worker and prompt."""
    text = COMMENT.sub("", LESSONS[chapter].read_text())
    wanted = math.ceil(len(text.split()) / 200 + text.count("$ git restore ") / 4)
    assert minutes_of(LESSONS[chapter]) == wanted, (
        f"The lesson of {chapter} should say that it takes {wanted} minutes."
    )


def test_readme_lists_the_chapters():
    text = (ROOT / "README.md").read_text()
    for name, path in LESSONS.items():
        minutes = minutes_of(path)
        row = re.search(rf"^\| \[(.+?)\]\(chapters/{name}/README.md\) \|.+\| (\d+) \|$", text, re.MULTILINE)
        assert row, f"README.md should have a row for {name}."
        assert int(row[2]) == minutes, (
            f"README.md should say that {name} takes {minutes} minutes, as its lesson does."
        )
    assert len(text.splitlines()) <= 100, "README.md should have at most 100 lines."
    diff = re.search(r"```diff\n(.*?)```", text, re.DOTALL)[1].splitlines()
    old, new = ((ROOT / "chapters" / name / "tasks.py").read_text().splitlines() for name in CHAPTERS[:2])
    wrong = [line for line in diff if line[1:] not in (old if line[0] == "-" else new)]
    assert not wrong, f"The diff in README.md should have lines of the chapters, these are none: {wrong}"


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_labels_and_directives_of_a_page(path):
    lesson = Lesson(path)
    blocks = [found for name, found in lesson.blocks() if name is None]
    problems = [sentence for _, sentence in lesson.problems if "one is diff" not in sentence]
    assert not problems, "\n".join(problems)
    assert blocks or path.name not in ("README.md", "when-it-goes-wrong.md"), (
        f"{path.name} should have blocks."
    )


def test_a_misspelt_directive_is_told(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- wokers: 3 -->\n\n<!-- without -->\n\n```pycon\n>>> 1\n1\n```\n")
    lesson = Lesson(page)
    assert not list(lesson.blocks()) and len(lesson.problems) == 3, (
        f"Three problems should be told: {lesson.problems}"
    )


def test_requirements_are_current():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    listed = re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    locked = re.findall(
        r"^([\w.-]+==[\w.]+)", (ROOT / "tools/locks/pinned-test.txt").read_text(), re.MULTILINE
    )
    assert listed == locked, (
        "requirements.txt should have the versions of tools/locks/pinned-test.txt: type make lock."
    )
    missing = {*wanted["pinned"], *wanted["test"]} - set(listed)
    assert not missing, f"requirements.txt should have {missing}, as pyproject.toml does: type make lock."
    assert "redis==3.2.0" in listed, "The client should be redis 3.2.0."


def test_tables_are_those_of_the_last_run():
    done = subprocess.run(
        [PROGRAMS / "python", ROOT / "tools/bench.py", "check"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
