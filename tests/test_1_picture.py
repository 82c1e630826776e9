"""README's picture: what three terminals show of the lesson's first call. `make picture` draws it again."""

import os
import re
import tempfile
from pathlib import Path

from pygments import highlight
from pygments.formatters import SvgFormatter
from pygments.lexers import PythonConsoleLexer, TextLexer
from support.assertions import wait_until_ready
from support.lessons import PATIENCE, SessionRunner

from course.chapters import ROOT
from course.lesson import Session
from course.waiting import wait_until

# What differs from run to run, and what it becomes.
NORMAL = {
    r"\b([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}": r"\1",  # an id is cut to what `make messages` shows of it
    r"\d{4}-\d\d-\d\d [\d:]+[.,]\d+": "12:00:00",
    r"^ *\d+\.\d+  ": "",
    r"in [\d.e-]+s": "in 0.001s",
    r"ForkPoolWorker-\d+": "ForkPoolWorker-1",
}
STYLE, WIDTH, STEP = "github-dark", 730, 21
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" fill="#e6edf3"
 font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">
{panes}</svg>
"""
PANE = """<rect x="1" y="{top}" width="{width}" height="{height}" rx="6" fill="#0d1117" stroke="{colour}"/>
<text x="14" y="{title}" fill="{colour}"><tspan font-weight="bold">{label}</tspan> · {command}</text>
{lines}"""
COLOURS = {"Prompt": "#79c0ff", "Worker": "#7ee787", "Messages": "#d2a8ff"}


class Recorded(SessionRunner):
    """A session that keeps what the prompt shows, where a lesson's is compared."""

    def compare(self, line, typed, wanted, found):
        self.shown = [*getattr(self, "shown", []), f">>> {typed}", *found.splitlines()]


def recorded(lesson):
    """Run the lesson's first call; return the lines of each terminal, the same in each run."""
    top = Path(tempfile.mkdtemp(dir=lesson.folder))
    session = Recorded(lesson.page, Session(), lesson.app, top)
    prompts = [block for block in lesson.page.blocks if block.language == "pycon"]
    block = next(block for block in prompts if "add.delay" in block.source)
    worker = wait_until_ready(lesson.app.workers[0])
    begun = len(worker.logs())
    try:
        session.watch_messages()
        messages = session.terminals["Messages"]
        session.run_prompt(block)
        signs = ("succeeded", "is acknowledged", "SUCCESS")
        wait_until(
            lambda: all(sign in worker.logs()[begun:] + messages.logs() for sign in signs), PATIENCE
        )
        log, seen = worker.logs()[begun:], messages.logs().partition("\n")[2]
    finally:
        session.close()
    # A task as quick as this one may have its result before its message is acknowledged.
    seen = sorted(seen.splitlines(), key=lambda line: "SUCCESS" in line)
    panes = dict(zip(COLOURS, ("\n".join(session.shown), log, "\n".join(seen)), strict=True))
    for pattern, normal in NORMAL.items():
        panes = {
            label: re.sub(pattern, normal, text, flags=re.MULTILINE)
            for label, text in panes.items()
        }
    number = re.search("AsyncResult: (.+)>", panes["Prompt"])[1]
    return {label: text.replace(number, "3f9c2d1e").strip() for label, text in panes.items()}


def drawn(lesson, panes):
    top, shown = 1, ""
    for label, text in panes.items():
        blocks = [block for block in lesson.page.blocks if block.language == "console"]
        made = [block for block in blocks if block.source.startswith("$ make ")]
        command = next(block.source for block in made if block.label == label)
        lexer = PythonConsoleLexer() if label == "Prompt" else TextLexer()
        lines = SvgFormatter(nowrap=True, style=STYLE, xoffset=14, yoffset=top + 46, ystep=STEP)
        height = 40 + STEP * (text.count("\n") + 1)
        place = {"top": top, "title": top + 22, "height": height, "width": WIDTH - 2}
        place |= {
            "label": label,
            "colour": COLOURS[label],
            "command": command.removeprefix("$ ").strip(),
        }
        shown += PANE.format(**place, lines=highlight(text, lexer, lines))
        top += height + 10
    return FRAME.format(width=WIDTH, height=top - 9, panes=shown)


def is_current(name, draw):
    """Write a picture where `make picture` asks for it; fail unless docs has what one of three runs of draw() gives."""
    picture = ROOT / "docs" / name
    if os.environ.get("PICTURE") == "write":
        picture.write_text(draw())
        return
    current = any(draw() == picture.read_text() for _ in range(3))
    assert current, f"docs/{name} should show what a run gives now: type make picture."


def test_picture_is_what_the_blocks_give(lesson):
    is_current("picture.svg", lambda: drawn(lesson, recorded(lesson)))
