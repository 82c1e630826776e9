"""What a chapter takes over from the one before is still there, unless its lesson changes it."""

import ast

import pytest
from support.carried import (
    carried_settings,
    find_chapters_with_settings,
    listed_code,
    listed_settings,
    listed_tasks,
    read_settings,
    read_tasks,
)

from course.chapters import PREVIOUS, ROOT, number_of

# Until chapter 3, the app is the module tasks.py.
CHAPTERS_WITH_TREES = [chapter for chapter in PREVIOUS if number_of(chapter) > 3]
# What decides on an option of a task that doesn't set it itself.
SETTING_OF_OPTION = {
    "acks_late": "task_acks_late",
    "queue": "task_routes",
    "reject_on_worker_lost": "task_reject_on_worker_lost",
    "soft_time_limit": "task_soft_time_limit",
    "time_limit": "task_time_limit",
}
each_chapter = pytest.mark.parametrize("chapter", find_chapters_with_settings())


def describe(settings, name):
    if name in settings:
        return f"sets it to {settings[name]!r}"
    return "doesn't set it"


@each_chapter
def test_settings_are_carried(chapter):
    found = read_settings(chapter)
    for name, wanted in carried_settings(chapter).items():
        assert name in found and found[name] == wanted, (
            f"celeryconfig.py of {chapter} should set {name} to {wanted!r}, as {PREVIOUS[chapter]}"
            f" does and no listing changes, but it {describe(found, name)}."
        )


def assignments(code):
    """Return the value of each assignment at the top level of code, as text, by its name."""
    values = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign):
            values[node.targets[0].id] = ast.unparse(node.value)
    return values


@each_chapter
def test_settings_are_those_of_the_lesson(chapter):
    wanted = assignments(listed_code(chapter, "celeryconfig.py"))
    found = assignments((ROOT / "chapters" / chapter / "celeryconfig.py").read_text())
    for name in listed_settings(chapter):
        assert found.get(name) == wanted[name], (
            f"celeryconfig.py of {chapter} should set {name} to {wanted[name]}, as the lesson"
            f" lists, but it {describe(found, name)}."
        )


def changed_settings(chapter):
    """Return the names of the settings that a chapter has otherwise than the one before."""
    before = read_settings(PREVIOUS[chapter])
    settings = read_settings(chapter)
    names = {*before, *settings}
    return {name for name in names if before.get(name) != settings.get(name)}


@pytest.mark.parametrize("chapter", CHAPTERS_WITH_TREES)
def test_options_of_tasks_are_carried(chapter):
    found = read_tasks(chapter)
    changed = changed_settings(chapter)
    for name, wanted in read_tasks(PREVIOUS[chapter]).items():
        if name in listed_tasks(chapter) or f"{name}_request" in found:
            continue
        assert name in found, f"{chapter} should have the task {name}, as {PREVIOUS[chapter]} has."
        for option, value in wanted.items():
            if SETTING_OF_OPTION.get(option) in changed:
                continue
            assert found[name][option] == value, (
                f"{name} of {chapter} should have {option}={value!r}, as in {PREVIOUS[chapter]},"
                f" but it has {found[name][option]!r}."
            )
