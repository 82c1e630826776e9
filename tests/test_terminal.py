"""What makes the terminal's commands work in every folder, and with every prompt of Python."""

import sys
import types

import pytest

from course import stale_prompt
from course.chapters import CHAPTERS, ROOT
from course.stale_prompt import StalePrompt


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_chapter_has_the_forwarding_makefile(name):
    first = ROOT / "chapters" / CHAPTERS[0] / "Makefile"
    path = ROOT / "chapters" / name / "Makefile"
    same = path.exists() and path.read_bytes() == first.read_bytes()
    assert same, f"chapters/{name}/Makefile should be a copy of {first.relative_to(ROOT)}."


@pytest.fixture
def prompt(tmp_path, monkeypatch):
    """A prompt that has loaded one file, which was then edited."""
    path = tmp_path / "edited.py"
    path.write_text("1")
    module = types.ModuleType("edited")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "edited", module)
    prompt = StalePrompt(str(tmp_path))
    path.write_text("2")
    return prompt


def test_basic_prompt_warns_once(prompt):
    shown = [str(prompt), str(prompt)]
    assert "edited.py changed" in shown[0], f"The first prompt should warn, but it is {shown[0]!r}."
    assert shown[1] == ">>> ", f"The second prompt should be plain, but it is {shown[1]!r}."


def test_new_prompt_gets_the_same_text_at_each_key(prompt, monkeypatch):
    readline = types.ModuleType("_pyrepl.readline")
    readline.get_current_history_length = lambda: 0
    monkeypatch.setitem(sys.modules, "_pyrepl.readline", readline)
    assert "\n" not in prompt, "A prompt that isn't shown should be one line."
    keys = {f"{prompt}", f"{prompt}"}
    assert len(keys) == 1 and "changed" in keys.pop(), "Each key should get the same warning."
    readline.get_current_history_length = lambda: 1
    shown = f"{prompt}"
    assert shown == ">>> ", f"The next input's prompt should be plain, but it is {shown!r}."


def test_pasted_lines_look_at_the_disk_once_a_second(prompt, monkeypatch):
    looks = []
    monkeypatch.setattr(stale_prompt, "changed_files", lambda *words: looks.append(words))
    monkeypatch.setattr(stale_prompt, "time", types.SimpleNamespace(monotonic=lambda: 100))
    for _ in range(50):
        str(prompt)
    assert len(looks) == 1, f"Fifty prompts should look at the files once, not {len(looks)} times."
