"""The answers to star steps: overlays, folders of files that are laid over a copy of the chapter.

The answers to the star test `test_star_mean` of test_5_canvas.py are the folders
`test_5_canvas/mean_right*`, on which it must pass, and `test_5_canvas/mean_wrong_*`, on which it
must fail with a sentence.
"""

import pytest


def find_overlays(module, function):
    """Return the overlays of a star test, from the path of its module and the name of its function.

    Raises a CollectError unless there is a right one and a wrong one.
    """
    name = function.removeprefix("test_star_")
    folder = module.with_suffix("")
    right = sorted(folder.glob(f"{name}_right*"))
    wrong = sorted(folder.glob(f"{name}_wrong_*"))
    if not right or not wrong:
        raise pytest.Collector.CollectError(
            f"{function} needs the overlays {folder.name}/{name}_right and "
            f"{folder.name}/{name}_wrong_REASON beside {module.name}."
        )
    return right + wrong


def is_wrong(overlay):
    """Return whether a star test must fail on this overlay."""
    return "_wrong_" in overlay.name


def assert_sentence(overlay, message):
    """Fail unless the message with which an overlay has failed begins with a sentence."""
    first_line = message.partition("\n")[0]
    assert len(first_line.split()) > 2, (
        f"The wrong answer {overlay.name} should fail with a sentence, "
        f"but its message is {message!r}."
    )
