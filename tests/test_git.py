"""`make tags` and `make carry` on a small course; and what may differ between two chapters."""

import os
import shutil
import subprocess
from difflib import SequenceMatcher
from fnmatch import fnmatch

import pytest

from course.chapters import GENERATED, OTHER_WAYS_TO_RUN, PREVIOUS, ROOT
from course.lesson import read_lesson

TEXT = "".join(f"{number}\n" for number in range(1, 21))
# The app's file in each chapter, and what is in it.
COURSE = {
    "1-a": ("app.py", TEXT),
    "2-b": ("app/main.py", TEXT),
    "10-c": ("app/main.py", "ten" + TEXT[1:]),
}
TAGS = ["chapter-1", "chapter-2", "chapter-10"]
TOP_LEVEL = {
    ".ci",
    ".devcontainer",
    ".dockerignore",
    ".gitattributes",
    ".github",
    ".gitignore",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "chapters",
    "course",
    "docker-compose.yml",
    "docs",
    "maintain.mk",
    "pyproject.toml",
    "requirements.txt",
    "tests",
    "tools",
}
SHARED = {".gitattributes", ".gitignore", "LICENSE", "requirements.txt"}
# Without the user's settings of git.
ENV = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
ENV |= {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@localhost",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@localhost",
}
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


def run(folder, command, status=0, **env):
    """Run a command, which must exit with this status; return the lines that it prints."""
    done = subprocess.run(
        command.split(),
        cwd=folder,
        env=ENV | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, (
        f"{command} should exit with {status}, but it exited with {done.returncode}: {done.stdout}"
    )
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


def test_tags_are_the_same_everywhere(course, tmp_path):
    first = run(course, "sh tools/tags.sh")
    for tag, line in zip(TAGS, first, strict=True):
        words = line.split()
        assert words[0] == tag and words[-1] == "made", f"{tag} should be made, not: {line}"
    run(tmp_path, f"git clone --quiet --depth=1 --no-tags {course.as_uri()} shallow")
    other = run(tmp_path / "shallow", "sh tools/tags.sh", TZ="Asia/Tokyo", GIT_AUTHOR_NAME="B")
    assert other == first, "A shallow clone, another user and time zone should give the same tags."


def test_a_tag_holds_its_chapter(course):
    run(course, "sh tools/tags.sh")
    for (app, _), tag in zip(COURSE.values(), TAGS, strict=True):
        files = set(run(course, f"git ls-tree -r --name-only {tag}"))
        wanted = SHARED | {"README.md", "LESSON.md", app, "gone.py"}
        assert files == wanted, f"{tag} should hold {wanted}, but it holds {files}."
        ignored = run(course, f"git show {tag}:.gitignore")
        for pattern in ("db", "__pycache__/"):
            assert pattern in ignored, f"{tag} should ignore {pattern}, but it ignores {ignored}."
    for place in ("HEAD", "chapter-10"):
        run(course, f"git checkout --quiet {place}")
        diff = run(course, "git diff chapter-1 chapter-2")
        for line in ("Binary files a/LESSON.md and b/LESSON.md differ", "rename to app/main.py"):
            assert line in diff, f"git diff of two tags should have the line {line!r}: {diff}"


def test_tags_move_with_their_chapters(course):
    run(course, "sh tools/tags.sh")
    (course / "chapters/2-b/new.py").write_text("new\n")
    outcome = tag_outcomes(course)
    assert outcome == ["chapters/2-b/new.py", "unchanged", "unchanged", "unchanged"], (
        f"make tags should name the file that isn't committed, but it printed {outcome}."
    )
    run(course, "git add --all")
    run(course, "git commit --quiet --message x")
    outcome = tag_outcomes(course)
    assert outcome == ["unchanged", "moved", "moved"], (
        f"The chapter's tag and the later ones should move, but they are {outcome}."
    )
    run(course, "git tag --force chapter-2")
    printed = run(course, "sh tools/tags.sh", status=1)
    assert printed[-1].startswith("The tag chapter-2 is not ours"), f"It printed {printed}."
    assert run(course, "git rev-parse HEAD") == run(course, "git rev-parse chapter-2"), (
        "A tag that somebody else has made should stay."
    )


def tag_outcomes(course):
    """Run `make tags`; return the last word of each line that it prints."""
    return [line.split()[-1] for line in run(course, "sh tools/tags.sh")]


def test_a_change_is_carried(course):
    first = course / "chapters/1-a"
    (first / "gone.py").unlink()
    (first / "app.py").write_text("one" + TEXT[1:])
    (first / "new.py").write_text("new\n")
    (first / "README.md").write_text("# New\n")
    (first / "experiments.py").write_text("new\n")
    before = read_git_folder(course)
    printed = run(course, "sh tools/carry.sh 1")
    assert read_git_folder(course) == before, "make carry should leave .git alone."
    wanted = [
        "changed chapters/2-b/app/main.py",
        "removed chapters/2-b/gone.py",
        "made    chapters/2-b/new.py",
        "removed chapters/10-c/gone.py",
        "made    chapters/10-c/new.py",
        "left    chapters/10-c/app/main.py: the change of 2-b does not fit, so make it by hand",
    ]
    assert printed == wanted, f"make carry should print what it did, but it printed {printed}."
    carried = (course / "chapters/2-b/app/main.py").read_text()
    assert carried == "one" + TEXT[1:], "make carry should follow a renamed file."
    named = {line.split()[1] for line in wanted[:-1]}
    touched = {line.split()[1] for line in run(course, "git status --porcelain -uall")}
    touched_later = {path for path in touched if "/1-a/" not in path}
    assert touched_later == named, f"Only what is named should change, not {touched_later}."


def read_git_folder(course):
    """Return what is in each file of the folder .git."""
    return {path: path.read_bytes() for path in (course / ".git").rglob("*") if path.is_file()}


@pytest.mark.parametrize("after, before", PREVIOUS.items())
def test_the_difference_is_the_lesson(before, after):
    """A lesson lists or names what differs; if it lists only additions, nothing else changes."""
    lesson = read_lesson(after)
    for kind, path in find_differences(before, after):
        name = path.split("/", 2)[2]
        if name == "experiments.py" and kind in "DM":
            continue  # a lesson's experiments stay with it
        if name == ".gitignore":
            continue  # it follows from what the app writes
        if any(fnmatch(name, pattern) for pattern in GENERATED):
            continue
        listings = lesson.listings(name)
        is_named = f"`{name}`" in lesson.text or is_in_named_folder(name, lesson)
        if kind == "M" and listings:
            assert_only_adds(before, after, name, listings)
        elif kind == "M":
            assert is_named and not name.endswith(".py"), (
                f"{name} of {after} should be as in {before}, because the lesson doesn't list it."
            )
        elif kind == "D":
            assert listings or is_named, (
                f"{path} is gone: git diff should find it under another name, "
                f"or the lesson of {after} should name it."
            )
        else:
            assert listings or is_named, (
                f"{path} is new or moved: the lesson of {after} should list or name it."
            )


def test_nothing_else_lies_at_the_top_level():
    found = {path.split("/")[0] for path in run(ROOT, "git ls-files")}
    strays = sorted(found - TOP_LEVEL)
    assert not strays, f"Each file at the top level should earn its place, but there are {strays}."


def find_differences(before, after):
    """Return the letter of git diff and the path of each file that differs between two chapters.

    Lessons and files that git ignores are left out.
    """
    tracked = run(ROOT, "git ls-files --cached --others --exclude-standard chapters")
    differences = []
    compare = f"git diff --no-index --name-status chapters/{before} chapters/{after}"
    for line in run(ROOT, compare, status=1):
        kind, *paths = line.split("\t")
        path = paths[-1]
        if path in tracked and not path.endswith("/README.md"):
            differences.append((kind, path))
    return differences


def is_in_named_folder(name, lesson):
    """Return whether a file is in a folder with a page of its own, to which the lesson leads."""
    folder = name.partition("/")[0]
    return folder in OTHER_WAYS_TO_RUN and f"]({folder}/README.md)" in lesson.text


def assert_only_adds(before, after, name, listings):
    """Fail if the listings show only lines that are added to a file, but others have changed."""
    old = (ROOT / "chapters" / before / name).read_text().splitlines(keepends=True)
    new = (ROOT / "chapters" / after / name).read_text().splitlines(keepends=True)
    added = []
    lost = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for change, old_start, _, new_start, new_end in matcher.get_opcodes():
        if change == "insert":
            added.append("".join(new[new_start:new_end]))
        elif change != "equal":
            lost.append(old[old_start])
    for listing in listings:
        if not any(listing in lines for lines in added):
            return
    assert not lost, f"{name} should only add lines to that of {before}, but it lacks {lost}."
