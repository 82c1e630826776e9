"""Draws when calls were sent, waited and ran, as `make messages` shows it. `make picture` draws a lesson's pictures again."""

import os
import re

import pytest
from course import ROOT, folder, wait_until
from grading import ready
from lessons import Lesson
from nodes import WorkerProcess

# With STARTED, `make messages` shows when a run begins, and in which process.
APP = {"slow_tasks": True, "settings": {"task_track_started": True}}
PUSHED = re.compile(r"^ *(\S+)  \w+ → broker   \S+?(\(.*\)) (\w+) waits in queue ", re.MULTILINE)
STORED = re.compile(r"^ *(\S+)  worker → backend  (\w+) (.*) for (\w+), kept", re.MULTILINE)
WIDTH = 400  # narrow, for phones
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
 font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13">
<style>
svg {{ --paper: #fff; --ink: #1f2328; --line: #d1d9e0; --wait: #59636e; --run: #aceebb; --edge: #1a7f37; --fail: #cf222e }}
@media (prefers-color-scheme: dark) {{
svg {{ --paper: #0d1117; --ink: #f0f6fc; --line: #3d444d; --wait: #9198a1; --run: #185c2a; --edge: #3fb950; --fail: #f85149 }}
}}
text {{ fill: var(--ink) }} .head {{ font-weight: bold }} .mid {{ text-anchor: middle }} .call {{ font: 12px ui-monospace, Menlo, monospace }}
.paper {{ fill: var(--paper); stroke: var(--line) }} .grid {{ stroke: var(--line) }} .run {{ fill: var(--run); stroke: var(--edge) }}
.wait {{ fill: none; stroke: var(--wait); stroke-width: 2 }} .fail {{ fill: none; stroke: var(--fail); stroke-width: 3 }}
</style>
<rect class="paper" x=".5" y=".5" width="{right}" height="{bottom}" rx="6"/>
{shapes}
</svg>
"""


TEXT = '<text class="{}" x="{:g}" y="{:g}">{}</text>'
SENT = '<circle class="wait" cx="{:g}" cy="{:g}" r="4"/>'
WAITS = '<path class="wait" d="M{:g} {:g}H{:g}"/>'
RUNS = '<rect class="run" x="{:g}" y="{:g}" width="{:g}" height="18" rx="3"/>'
FAILS = '<path class="fail" d="M{:g} {:g}l10 10m-10 0l10 -10"/>'
GRID = '<path class="grid" d="M{:g} {:g}V{:g}"/>'


def is_current(name, drawn):
    """Write a picture where `make picture` asks for it; fail unless docs has it as it is drawn now."""
    picture = ROOT / "docs" / name
    if os.environ.get("PICTURE") == "write":
        picture.write_text(drawn)
    shown = picture.read_text() if picture.exists() else "nothing"
    assert shown == drawn, f"docs/{name} should show what a run gives now: type make picture."


class Timeline:
    """Sections of rows, one for each call. Times are rounded to a unit, in seconds, so that each run gives the same."""

    def __init__(self, app, number, unit, sign=None):
        """With a sign, the app gets the changes and workers of the session of the lesson that shows it, and sleeps a unit."""
        if os.environ.get("DIR"):
            pytest.skip("a picture is of the course's own chapter")
        lesson = Lesson(folder(number) / "README.md")
        for session in lesson.sessions() if sign else ():
            if any(sign in block.source for block in session.blocks):
                for edit in session.edits:
                    edit.source = re.sub(r"sleep\(.+\)", f"sleep({unit})", edit.source)
                    lesson.change(app.folder, edit)
                for options in session.workers:
                    app.add_worker(options.split())
        command = ["python", ROOT / "tools/messages.py", app.broker.celeryconfig["host_url"]]
        app.others.append(WorkerProcess(app.nodes.reaper, "timeline", app.nodes.folder, command, ROOT, {}))
        self.log, self.unit, self.sections = app.others[-1].logs, unit, []
        for worker in app.workers:
            ready(worker)
        wait_until(self.log)

    def section(self, title, call, count):
        """Call what makes this number of calls, and wait until they have ended; {} in the title is the number of processes."""
        before = len(self.log())
        call()
        wait_until(lambda: len(re.findall("(SUCCESS|FAILURE) .* for ", self.log()[before:])) == count)
        sent, states = (pattern.findall(self.log()[before:]) for pattern in (PUSHED, STORED))
        begin, rows = float(sent[0][0]), {}
        for at, arguments, id in sent:
            if id not in rows:
                own = [(float(time), state, value) for time, state, value, of in states if of == id]
                rows[id] = (arguments, *self.rounded(float(at), begin, own))
        processes = {value for _, state, value, _ in states if state == "STARTED"}
        self.sections.append((title.format(len(processes)), list(rows.values())))

    def rounded(self, last, begin, states):
        """Return when a call was sent, and its runs: from, to, state, value. Each step is rounded, so that delays don't add up."""
        sent = now = round((last - begin) / self.unit) * self.unit
        times = []
        for at, *_ in states:
            now += round((at - last) / self.unit) * self.unit
            last = at
            times.append(now)
        ends = [each[1:] for each in states[1::2]]
        return sent, [(*run, *end) for *run, end in zip(times[::2], times[1::2], ends, strict=True)]

    def drawn(self):
        """Return the sections as a picture."""
        rows = [row for _, rows in self.sections for row in rows]
        left = 42 + 7.3 * max(len(arguments) for arguments, *_ in rows)
        last = max(end for *_, runs in rows for _, end, *_ in runs)
        scale = (WIDTH - left - 38) / last
        y, shapes = 4, []
        for title, rows in self.sections:
            y += 22
            shapes.append(TEXT.format("head", 14, y, title))
            for arguments, now, runs in rows:
                y += 26
                shapes.append(TEXT.format("call", 14, y + 4, arguments))
                shapes.append(SENT.format(left + now * scale - 8, y))
                for start, end, state, value in runs:
                    x, width = left + start * scale, (end - start) * scale
                    if start > now:
                        shapes.append(WAITS.format(left + now * scale, y, x))
                        shapes.append(
                            TEXT.format("mid", left + (now + start) / 2 * scale, y - 4, f"{start - now:g} s")
                        )
                    shapes.append(
                        RUNS.format(x, y - 9, max(width, 8)) if state == "SUCCESS" else FAILS.format(x, y - 5)
                    )
                    place = (x + width / 2, y + 4, value) if width else (x + 5, y + 21, state)
                    shapes.append(TEXT.format("mid", *place))
                    now = end
                y += 14 * any(start == end for start, end, *_ in runs)
            y += 8
        for second in range(int(last) + 1):
            x = left + second * scale
            shapes.insert(0, GRID.format(x, 14, y))
            shapes.append(TEXT.format("mid", x, y + 14, f"{second} s"))
        y += 36
        legend = {"sent": SENT.format(20, y - 4), "waits": WAITS.format(72, y - 4, 92)}
        legend |= {"runs": RUNS.format(150, y - 13, 20), "fails": FAILS.format(225, y - 9)}
        for at, (word, sign) in zip((30, 98, 176, 241), legend.items(), strict=True):
            shapes += [sign, TEXT.format("", at, y, word)]
        size = {"width": WIDTH, "height": y + 12, "right": WIDTH - 1, "bottom": y + 11}
        return FRAME.format(**size, shapes="\n".join(shapes))
