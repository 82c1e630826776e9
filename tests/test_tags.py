"""`make tags`: a line of commits in which the app evolves in place, the same on every machine."""

import os
import subprocess

import pytest
from course import CHAPTERS, ROOT, expect

TAGS = [f"chapter-{name.partition('-')[0]}" for name in CHAPTERS]


def git(folder, *words, **env):
    """Run git in a folder, with no configuration but the folder's own; return what it printed."""
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", "-C", folder, *words],
        env=os.environ | nobody | env,
        capture_output=True,
        text=True,
        check=False,
    )
    expect(done.returncode == 0, f"git {' '.join(words)} should end well: {done.stderr}")
    return done.stdout


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@localhost", "commit", "--quiet", "--message", "x")


def make_tags(folder, **env):
    """Run the script; return its lines and whether it ended well."""
    done = subprocess.run(
        ["sh", f"{folder}/tools/tags.sh"],
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines(), done.returncode == 0


def ids(folder):
    return git(folder, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines()


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository of the files as they are now."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files are the course's")
    if len(CHAPTERS) == 1:
        pytest.skip("needs all chapters: this is the tag of one")
    folder = tmp_path_factory.mktemp("tags") / "the course"
    folder.mkdir()
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        source, target = ROOT / name, folder / name
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


@pytest.fixture
def repository(origin, tmp_path):
    git(tmp_path, "clone", "--quiet", str(origin), "a clone")
    return tmp_path / "a clone"


def test_the_same_chapters_give_the_same_tags(repository, origin, tmp_path):
    lines, well = make_tags(repository)
    expect(well and len(lines) == len(TAGS), f"make tags should make {len(TAGS)} tags, it said {lines}.")
    lines, _ = make_tags(repository)
    expect(all(line.endswith(" stands") for line in lines), f"A second run should change nothing: {lines}.")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin}", "shallow")
    git(tmp_path / "shallow", "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    make_tags(tmp_path / "tree", TZ="Asia/Tokyo", GIT_AUTHOR_NAME="B", GIT_COMMITTER_EMAIL="b@localhost")
    expect(
        ids(tmp_path / "shallow") == ids(repository),
        "A shallow clone's worktree in another time zone, under another user, should give the same tags.",
    )
    expect(git(repository, "fsck", "--no-dangling") == "", "git fsck should find nothing.")
    expect(git(repository, "status", "--porcelain") == "", "make tags should leave the working tree alone.")


def test_a_tag_holds_the_app_at_the_top(repository):
    make_tags(repository)
    for tag, chapter in zip(TAGS, CHAPTERS, strict=True):
        here = git(repository, "ls-tree", "-r", f"HEAD:chapters/{chapter}").splitlines()
        there = git(repository, "ls-tree", "-r", tag).splitlines()
        missing = [line.partition("\t")[2] for line in here if line not in there]
        expect(not missing, f"{tag} should hold the files of {chapter} at its top; it lacks {missing}.")
    log = git(repository, "log", "--format=%s", TAGS[-1]).splitlines()
    titles = [(ROOT / "chapters" / name / "README.md").open().readline()[2:].strip() for name in CHAPTERS]
    expect(log == titles[::-1], f"git log {TAGS[-1]} should tell the titles of the lessons, it tells {log}.")
    stat = git(repository, "diff", "--stat=200", "-M", "chapter-2", "chapter-3")
    expect("tasks.py => tasks/math.py" in stat, f"tasks.py should be followed to tasks/math.py: {stat}")


def test_uncommitted_changes_are_named_and_left_out(repository):
    make_tags(repository)
    before = ids(repository)
    path = repository / "chapters" / CHAPTERS[1] / "tasks.py"
    path.write_text(path.read_text() + "\n# more\n")
    lines, _ = make_tags(repository)
    expect(f"Not committed, so left out: chapters/{CHAPTERS[1]}/tasks.py" in lines, f"It said {lines}.")
    expect(ids(repository) == before, "Uncommitted changes should not move a tag.")
    commit(repository)
    lines, _ = make_tags(repository)
    moved = [line.partition(" ")[0] for line in lines if line.endswith(" moved")]
    expect(moved == TAGS[1:], f"A commit should move the tags that have it in them, it moved {moved}.")


def test_a_tag_that_is_not_ours_stays(repository):
    git(repository, "tag", "chapter-2")
    lines, well = make_tags(repository)
    expect(
        not well and lines[-1].startswith("The tag chapter-2 is not ours"),
        f"A tag of somebody else should be refused in one line, it said {lines}.",
    )
    here = git(repository, "rev-parse", "HEAD", "chapter-2").split()
    expect(here[0] == here[1], "A tag of somebody else should stay where it is.")
