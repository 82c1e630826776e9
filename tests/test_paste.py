"""Each block of a lesson's prompt can be pasted into a real one."""

from codeop import compile_command

import pytest

from course.chapters import CHAPTERS
from course.lesson import read_lesson


def find_bad_line(source):
    """Return the line of a block at which a prompt has no statement or half of one, or None."""
    typed = []
    for line in [*source.splitlines(), "the end"]:
        if typed and not line.startswith("..."):
            return line
        if typed or line.startswith(">>> "):
            typed.append(line[4:])
            try:
                statement = compile_command("\n".join(typed))
            except SyntaxError:
                return line
            if statement:
                typed = []
    return None


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_blocks_of_the_prompt_can_be_pasted(chapter):
    for block in read_lesson(chapter).blocks:
        if block.language == "pycon":
            line = find_bad_line(block.source)
            assert not line, (
                f"{chapter}, line {block.line}: no statement should be open or wrong at {line!r}."
            )
