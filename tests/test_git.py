"""`make tags` and `make carry`, on a small course; and the rule that a chapter differs from the one before by its lesson."""

import os
import shutil
import subprocess
from difflib import SequenceMatcher

import pytest

from course.chapters import PREVIOUS, ROOT
from course.lesson import Lesson

TEXT = "".join(f"{number}\n" for number in range(1, 21))
# The app's file in each chapter, and what is in it.
COURSE = {
    "1-a": ("app.py", TEXT),
    "2-b": ("app/main.py", TEXT),
    "10-c": ("app/main.py", "ten" + TEXT[1:]),
}
TAGS = ["chapter-1", "chapter-2", "chapter-10"]
SHARED = {".gitattributes", ".gitignore", "LICENSE", "requirements.txt"}
# Without the user's git settings.
ENV = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
ENV |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
ENV |= {
    f"GIT_{who}_{what}": "a@localhost"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


def run(folder, command, status=0, **env):
    """Run a command; return the lines that it printed."""
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command.split(), cwd=folder, env=ENV | env, check=False, **to)
    assert done.returncode == status, f"{command} should end with {status}, and said: {done.stdout}"
    return done.stdout.splitlines()


@pytest.fixture
def course(tmp_path):
    folder = tmp_path / "a course"
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHARED:
        shutil.copy(ROOT / name, folder)
    for chapter, (app, text) in COURSE.items():
        files = {"README.md": f"# {chapter}\n", app: text, ".gitignore": "db\n", "gone.py": "x\n"}
        files["Makefile"] = "x\n"  # no tag has it
        for name, content in files.items():
            path = folder / "chapters" / chapter / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    run(folder, "git init --quiet")
    run(folder, "git add --all")
    run(folder, "git commit --quiet --message x")
    return folder


def test_tags_are_the_same_everywhere_and_move_with_their_chapters(course, tmp_path):
    first = run(course, "sh tools/tags.sh")
    made = [line.split()[::2] for line in first]
    assert made == [[tag, "made"] for tag in TAGS], f"It should make {TAGS}, it said {first}."
    run(tmp_path, f"git clone --quiet --depth=1 --no-tags {course.as_uri()} shallow")
    other = run(tmp_path / "shallow", "sh tools/tags.sh", TZ="Asia/Tokyo", GIT_AUTHOR_NAME="B")
    assert other == first, "A shallow clone, another user and time zone should give the same tags."
    for (app, _), tag in zip(COURSE.values(), TAGS, strict=True):
        held = set(run(course, f"git ls-tree -r --name-only {tag}"))
        assert held == SHARED | {"README.md", "LESSON.md", app, "gone.py"}, f"{tag} holds {held}."
        ignored = set(run(course, f"git show {tag}:.gitignore"))
        assert {"db", "__pycache__/"} <= ignored, f"{tag} should ignore what we and the chapter do."
    for here in "HEAD", "chapter-10":
        run(course, f"git checkout --quiet {here}")
        diff = run(course, "git diff chapter-1 chapter-2")
        wanted = {"Binary files a/LESSON.md and b/LESSON.md differ", "rename to app/main.py"}
        assert wanted <= set(diff), (
            f"A plain git diff of two tags should have the lines {wanted}: {diff}"
        )
    run(course, "git checkout --quiet -")

    def words():
        return [line.split()[-1] for line in run(course, "sh tools/tags.sh")]

    (course / "chapters/2-b/new.py").write_text("new\n")
    found = words()
    assert found == ["chapters/2-b/new.py", *["unchanged"] * 3], (
        f"It should name the new file: {found}"
    )
    run(course, "git add --all")
    run(course, "git commit --quiet --message x")
    found = words()
    assert found == ["unchanged", "moved", "moved"], (
        f"Its chapter's tag and later ones should move: {found}"
    )
    run(course, "git tag --force chapter-2")
    said = run(course, "sh tools/tags.sh", status=1)
    assert said[-1].startswith("The tag chapter-2 is not ours"), f"It said {said}."
    assert run(course, "git rev-parse HEAD") == run(course, "git rev-parse chapter-2"), (
        "It should stay."
    )


def test_a_change_is_carried(course):
    (course / "chapters/1-a/gone.py").unlink()
    for name, text in {
        "app.py": "one" + TEXT[1:],
        "new.py": "new\n",
        "README.md": "# New\n",
    }.items():
        (course / "chapters/1-a" / name).write_text(text)

    def state():
        return {path: path.read_bytes() for path in (course / ".git").rglob("*") if path.is_file()}

    before = state()
    said = run(course, "sh tools/carry.sh 1")
    assert state() == before, "make carry should leave .git alone."
    wanted = [
        "changed chapters/2-b/app/main.py",
        "removed chapters/2-b/gone.py",
        "made    chapters/2-b/new.py",
        "removed chapters/10-c/gone.py",
        "made    chapters/10-c/new.py",
        "left    chapters/10-c/app/main.py: the change of 2-b does not fit, so make it by hand",
    ]
    assert said == wanted, f"It should name what it did: {said}"
    carried = (course / "chapters/2-b/app/main.py").read_text()
    assert carried == "one" + TEXT[1:], "A renamed file should be followed."
    touched = {
        line[3:] for line in run(course, "git status --porcelain -uall") if "/1-a/" not in line
    }
    assert touched == {line[8:] for line in said[:-1]}, (
        f"What is named should change, and no more: {touched}"
    )


@pytest.mark.parametrize("after, before", PREVIOUS.items())
def test_the_difference_is_the_lesson(before, after):
    """A file that the lesson lists may differ. Where it lists only what was added to one, all else is as before."""
    lesson = Lesson(ROOT / "chapters" / after / "README.md")
    blocks = [block for block in lesson.blocks if block.language in ("python", "yaml")]
    ours = set(run(ROOT, "git ls-files --cached --others --exclude-standard chapters"))
    compare = f"git diff --no-index --name-status chapters/{before} chapters/{after}"
    for kind, *paths in (line.split("\t") for line in run(ROOT, compare, status=1)):
        name = paths[-1].split("/", 2)[2]
        if paths[-1] not in ours or name == "README.md":
            continue
        listings = [block.source for block in blocks if block.label == name]
        named = f"`{name}`" in lesson.text
        if kind != "M":
            why = "git diff should follow it, or " if kind == "D" else ""
            assert listings or named, (
                f"{paths[-1]} ({kind}): {why}the lesson of {after} should list or name it."
            )
        elif not listings:
            told = named and not name.endswith(".py")
            assert told, (
                f"{paths[-1]} is not listed in the lesson of {after}: it should be as in {before}."
            )
        else:
            files = (ROOT / "chapters" / each / name for each in (before, after))
            old, new = (file.read_text().splitlines(keepends=True) for file in files)
            changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            added = [
                "".join(new[start:end]) for change, *_, start, end in changes if change == "insert"
            ]
            lost = [old[start] for change, start, *_ in changes if change in ("replace", "delete")]
            only_adds = all(any(block in part for part in added) for block in listings)
            assert not (only_adds and lost), (
                f"{name} should only add to that of {before}; it lacks {lost}."
            )
