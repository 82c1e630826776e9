"""Draws when calls were sent, waited and ran, as `make messages` shows it. `make picture` draws a lesson's pictures again."""

import os
import re

import pytest
from course import ROOT, folder, wait_until
from grading import ready
from lessons import Lesson

# With STARTED, `make messages` shows when a run begins, and in which process.
APP = {"slow_tasks": True, "settings": {"task_track_started": True}}
PUSHED = re.compile(r"^ *(\S+)  \w+ → broker   [\w.]+\W(.*)\W (\w+) waits in queue ", re.MULTILINE)
STORED = re.compile(r"^ *(\S+)  worker → backend  (\w+) (.*) for (\w+), kept", re.MULTILINE)
WIDTH, LEFT, RIGHT = 400, 132, 72  # narrow, for phones
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 {height}" width="400" height="{height}"
 font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13">
<style>
svg {{ --paper: #fff; --ink: #1f2328; --line: #d1d9e0; --wait: #59636e; --run: #aceebb; --edge: #1a7f37; --fail: #cf222e }}
@media (prefers-color-scheme: dark) {{
svg {{ --paper: #0d1117; --ink: #f0f6fc; --line: #3d444d; --wait: #9198a1; --run: #185c2a; --edge: #3fb950; --fail: #f85149 }}
}}
text {{ fill: var(--ink) }} .mid {{ text-anchor: middle }} .call {{ font: 12px ui-monospace, Menlo, monospace }}
.head {{ font-weight: bold; paint-order: stroke; stroke: var(--paper); stroke-width: 5px }}
.paper {{ fill: var(--paper); stroke: var(--line) }} .grid {{ stroke: var(--line) }} .run {{ fill: var(--run); stroke: var(--edge) }}
.wait {{ fill: none; stroke: var(--wait); stroke-width: 2 }} .fail {{ fill: none; stroke: var(--fail); stroke-width: 3 }}
</style>
<rect class="paper" x="1" y="1" width="398" height="{paper}" rx="6"/>
{shapes}
<g transform="translate(14 {legend})">
<circle class="wait" cx="6" r="4"/><text x="16" y="4">sent</text><path class="wait" d="M58 0h20"/><text x="84" y="4">waits</text>
<rect class="run" x="136" y="-9" width="18" height="18" rx="3"/><text x="160" y="4">runs</text>
<path class="fail" d="M207 -5l10 10m-10 0l10 -10"/><text x="224" y="4">fails</text></g>
</svg>
"""


def is_current(name, draw):
    """Write a picture where `make picture` asks for it; fail unless docs has what one of three runs of draw() gives."""
    picture = ROOT / "docs" / name
    if os.environ.get("PICTURE") == "write":
        picture.write_text(draw())
    else:
        current = any(draw() == picture.read_text() for _ in range(3))
        assert current, f"docs/{name} should show what a run gives now: type make picture."


class Timeline:
    """Sections of rows, one for each call. Each step is rounded to a unit, so that each run gives the same picture."""

    def __init__(self, app, number, unit, length, sign=None):
        """The unit and the length of the picture are in seconds.

        With a sign, the app gets the changes and workers of the session of the lesson that shows it, and sleeps a unit.
        """
        if os.environ.get("DIR") or not os.environ.get("PICTURE"):
            pytest.skip("its times need an idle machine: make picture, or make test-resilience")
        lesson = Lesson(folder(number) / "README.md")
        for session in lesson.sessions():
            if sign and any(sign in block.source for block in session.blocks):
                for edit in session.edits:
                    edit.source = re.sub(r"sleep\(.+\)", f"sleep({unit})", edit.source)
                    lesson.change(app.folder, edit)
                for options in session.workers:
                    app.add_worker(options.split())
        self.unit, self.length = unit, length
        self.log = app.start("python", ROOT / "tools/messages.py", app.broker.celeryconfig["host_url"]).logs
        for worker in app.workers:
            ready(worker)
        wait_until(self.log)

    def section(self, title, call, count):
        """Draw what call() sends, which is this number of calls; {} in the title is how many processes run them."""
        before = len(self.log())
        call()
        wait_until(lambda: len(re.findall("(SUCCESS|FAILURE) .* for ", self.log()[before:])) == count)
        sent, states = (pattern.findall(self.log()[before:]) for pattern in (PUSHED, STORED))
        processes = {value for _, state, value, _ in states if state == "STARTED"}
        self.y += 22
        self.text("head", 14, self.y, title.format(len(processes)))
        known = [(float(sent[0][0]), 0)]
        first = {id: (float(at), arguments) for at, arguments, id in reversed(sent)}
        for id, (at, arguments) in sorted(first.items(), key=lambda item: item[1]):
            own = [(float(end), state, value) for end, state, value, of in states if of == id]
            # A chain sends a call when the one before it ends: what is near counts, so that small delays don't add up.
            near, place = min(known, key=lambda each: abs(each[0] - at))
            known += self.row(arguments, place + self.rounded(at - near), at, own)
        self.y += 8

    def row(self, arguments, begin, at, states):
        """Draw a call that is sent at `begin` in the picture, which is `at` in the log; return both times of each state."""
        self.y += 29
        y, known, draw = self.y, [], self.shapes.append
        self.text("call", 14, y + 4, f"({arguments})")
        draw(f'<circle class="wait" cx="{self.x(begin) - 14:g}" cy="{y}" r="4"/>')
        for time, state, value in states:
            end = begin + self.rounded(time - at)
            x, to, middle = self.x(begin), self.x(end), self.x((begin + end) / 2)
            if state == "STARTED" and to > x:
                draw(f'<path class="wait" d="M{x:g} {y}H{to:g}"/>')
                self.text("mid", middle, y - 7, f"{end - begin:g} s")
            elif state == "SUCCESS":
                run, width = (x, to - x) if to > x else (x - 4, 8)
                draw(f'<rect class="run" x="{run:g}" y="{y - 9}" width="{width:g}" height="18" rx="3"/>')
            elif state != "STARTED":
                draw(f'<path class="fail" d="M{x - 5:g} {y - 5}l10 10m-10 0l10 -10"/>')
            if state == "SUCCESS" and to > x:
                self.text("mid", middle, y + 4, value)
            elif state in ("SUCCESS", "FAILURE"):
                self.text("end", x + 10, y + 4, state)
            begin, at = end, time
            known.append((at, begin))
        return known

    def text(self, style, x, y, text):
        self.shapes.append(f'<text class="{style}" x="{x:g}" y="{y}">{text}</text>')

    def rounded(self, seconds):
        return round(seconds / self.unit) * self.unit

    def x(self, seconds):
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.length, 1)

    def drawn(self, *sections):
        """Return a picture of these sections."""
        self.y, self.shapes, grid = 4, [], []
        for each in sections:
            self.section(*each)
        for number in range(round(self.length / self.unit) + 1):
            x = self.x(number * self.unit)
            grid.append(f'<path class="grid" d="M{x:g} 14V{self.y}"/>')
            self.text("mid", x, self.y + 14, f"{number * self.unit:g} s")
        shapes = "\n".join(grid + self.shapes)
        return FRAME.format(shapes=shapes, legend=self.y + 34, paper=self.y + 50, height=self.y + 52)
