"""README's picture of three terminals during a first call. `make picture` draws it anew."""

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

PICTURE = ROOT / "docs" / "picture.svg"
# What differs from run to run, and what the picture has instead. An id is cut, as in make messages.
NORMAL = {
    r"\b([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}": r"\1",
    r"\d{4}-\d\d-\d\d [\d:]+[.,]\d+": "12:00:00",
    r"^ *\d+\.\d+  ": "",
    r"in [\d.e-]+s": "in 0.001s",
    r"ForkPoolWorker-\d+": "ForkPoolWorker-1",
}
NORMAL_ID = "3f9c2d1e"
STYLE = "github-dark"
WIDTH = 730
LINE_HEIGHT = 21
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" fill="#e6edf3"
 font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14">
{panes}</svg>
"""
PANE = """<rect x="1" y="{top}" width="{width}" height="{height}" rx="6" \
fill="#0d1117" stroke="{colour}"/>
<text x="14" y="{title}" fill="{colour}">\
<tspan font-weight="bold">{label}</tspan> · {command}</text>
{lines}"""
COLOURS = {"Prompt": "#79c0ff", "Worker": "#7ee787", "Messages": "#d2a8ff"}


def test_picture_shows_what_a_run_shows(lesson):
    if os.environ.get("PICTURE") == "write":
        PICTURE.write_text(draw(lesson, record(lesson)))
        return
    # On a busy machine, lines may come in another order.
    for _ in range(3):
        if draw(lesson, record(lesson)) == PICTURE.read_text():
            return
    raise AssertionError(f"docs/{PICTURE.name} should show what a run shows: type make picture.")


class Recorder(SessionRunner):
    """A session that keeps what the prompt shows, instead of comparing it with the lesson."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shown = []

    def compare(self, line, typed, wanted, found):
        self.shown += [f">>> {typed}", *found.splitlines()]


def record(lesson):
    """Run the lesson's first call; return what each terminal shows, the same in each run."""
    top = Path(tempfile.mkdtemp(dir=lesson.folder))
    session = Recorder(lesson.page, Session(), lesson.app, top)
    prompts = [block for block in lesson.page.blocks if block.language == "pycon"]
    calls = [block for block in prompts if "add.delay" in block.source]
    worker = wait_until_ready(lesson.app.workers[0])
    start = len(worker.logs())

    def is_complete():
        shown = worker.logs()[start:] + session.terminals["Messages"].logs()
        return "succeeded" in shown and "is acknowledged" in shown and "SUCCESS" in shown

    try:
        session.watch_messages()
        session.run_prompt(calls[0])
        wait_until(is_complete, PATIENCE)
        log = worker.logs()[start:]
        messages = session.terminals["Messages"].logs().splitlines()[1:]
    finally:
        session.close()
    # A result may come before the acknowledgement, because the task is so quick.
    messages.sort(key=lambda line: "SUCCESS" in line)
    panes = {"Prompt": "\n".join(session.shown), "Worker": log, "Messages": "\n".join(messages)}
    panes = {label: normalize(text) for label, text in panes.items()}
    id = re.search("AsyncResult: (.+)>", panes["Prompt"])[1]
    return {label: text.replace(id, NORMAL_ID) for label, text in panes.items()}


def normalize(text):
    """Replace what differs from run to run."""
    for pattern, normal in NORMAL.items():
        text = re.sub(pattern, normal, text, flags=re.MULTILINE)
    return text.strip()


def draw(lesson, panes):
    """Return the picture of these texts of terminals as SVG."""
    top = 1
    shown = ""
    for label, text in panes.items():
        height = 40 + LINE_HEIGHT * (text.count("\n") + 1)
        shown += PANE.format(
            top=top,
            title=top + 22,
            width=WIDTH - 2,
            height=height,
            label=label,
            colour=COLOURS[label],
            command=find_command(lesson, label),
            lines=draw_lines(label, text, top + 46),
        )
        top += height + 10
    return FRAME.format(width=WIDTH, height=top - 9, panes=shown)


def draw_lines(label, text, top):
    """Return the lines of a terminal as SVG."""
    lexer = TextLexer()
    if label == "Prompt":
        lexer = PythonConsoleLexer()
    formatter = SvgFormatter(nowrap=True, style=STYLE, xoffset=14, yoffset=top, ystep=LINE_HEIGHT)
    return highlight(text, lexer, formatter)


def find_command(lesson, label):
    """Return the make command with which the lesson starts the program of this label."""
    for block in lesson.page.blocks:
        if block.label == label and block.source.startswith("$ make "):
            return block.source.removeprefix("$ ").strip()
    raise AssertionError(f"The lesson should start {label} in a block.")
