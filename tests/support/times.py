"""How long a lesson takes: a model of what its reader reads, types and waits for."""

import difflib
import math
import re

from course.chapters import (
    NOT_CODE,
    OTHER_WAYS_TO_RUN,
    PREVIOUS,
    ROOT,
    find_files,
    find_no_steps,
    number_of,
)
from course.lesson import UNDO, prose_of

# Seconds.
WORD = 60 / 200
LISTED_LINE = 2
PROMPT_LINE = 4  # at least
TYPED_CHARACTER = 0.3
SHELL_COMMAND = 8
EDITED_LINE = 6
RESTART = 20  # of the worker and the prompt
STEP = 20
WRONG_ANSWER = 80

EXERCISE = re.compile(r"\n## Your turn\n(.*?)(?=\n## |\Z)", re.DOTALL)
STEP_LINE = re.compile(r"^\d+\. ", re.MULTILINE)
# A reader copies or skips these.
NOT_TYPED = ("README.md", "*.html", "*.svg", *OTHER_WAYS_TO_RUN, *NOT_CODE)


def read_minutes(lesson):
    """Return the minutes that it takes to read a lesson and to type what it shows.

    A line at the prompt takes as long as its characters do, at 200 a minute. The exercise at the
    end of the lesson is not included.
    """
    seconds = count_words(EXERCISE.sub("", lesson.text)) * WORD
    first, last = exercise_lines(lesson)
    for block in lesson.blocks:
        if not first <= block.line <= last:
            seconds += block_seconds(block)
    changed_sessions = lesson.sessions()[1:]
    seconds += len(changed_sessions) * RESTART
    return math.ceil(seconds / 60)


def exercise_minutes(lesson):
    """Return the minutes that it takes to do the exercise of a lesson, with its star steps.

    A star step takes longer than its few lines do, because there are more ways to get it wrong. So
    it counts by the wrong answers that its test knows. With that, chapters 1 to 5 take as long as
    they took a person, give or take a quarter.
    """
    text = EXERCISE.search(lesson.text)[1]
    seconds = count_words(text) * WORD
    seconds += len(STEP_LINE.findall(text)) * STEP
    name = lesson.path.parent.name
    code = read_code(ROOT / "chapters" / name)
    previous_code = {}
    if name in PREVIOUS:
        previous_code = read_code(ROOT / "chapters" / PREVIOUS[name])
    seconds += count_added_lines(previous_code, code) * EDITED_LINE
    seconds += count_wrong_answers(name) * WRONG_ANSWER
    return math.ceil(seconds / 60)


def count_wrong_answers(chapter):
    """Return the number of wrong answers to the star steps of a chapter that its suites know."""
    folders = (ROOT / "tests").glob(f"test_{number_of(chapter)}_*/*_wrong_*")
    return len(list(folders))


def exercise_lines(lesson):
    """Return the first and the last line of the section "Your turn"."""
    found = EXERCISE.search(lesson.text)
    first = lesson.text.count("\n", 0, found.start(1)) + 1
    return first, first + found[1].count("\n")


def count_words(text):
    """Return the number of words outside of blocks and directives."""
    return len(prose_of(text).split())


def block_seconds(block):
    """Return the seconds that it takes to type a block, and to read what it prints."""
    seconds = 0
    for line in block.source.splitlines():
        if block.language == "console" and line.startswith("$ "):
            seconds += SHELL_COMMAND
        elif block.language == "pycon" and line.startswith((">>> ", "... ")):
            seconds += max(PROMPT_LINE, len(line[4:]) * TYPED_CHARACTER)
        elif block.language == "diff" and line.startswith("+"):
            seconds += EDITED_LINE
        elif block.language != "diff":
            seconds += LISTED_LINE
    if block.language == "console" and UNDO.search(block.source):
        seconds += RESTART
    return seconds


def read_code(folder):
    """Return the files of code in a folder, and their lines that aren't blank, by their paths."""
    no_steps = [pattern.rpartition("/")[2] for pattern in find_no_steps()]
    files = {}
    for name in find_files(folder, (*NOT_TYPED, *no_steps)):
        lines = (folder / name).read_text().splitlines()
        files[str(name)] = [line for line in lines if line.strip()]
    return files


def count_added_lines(old_files, new_files):
    """Return the number of lines that are new or changed, in files that may have moved."""
    gone = [lines for name, lines in old_files.items() if name not in new_files]
    count = 0
    for name, lines in new_files.items():
        sources = [old_files[name]] if name in old_files else gone
        kept = max((count_kept_lines(source, lines) for source in sources), default=0)
        count += len(lines) - kept
    return count


def count_kept_lines(old, new):
    """Return the number of lines that two lists of lines share in the same order."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return sum(match.size for match in matcher.get_matching_blocks())
