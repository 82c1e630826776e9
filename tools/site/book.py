"""The whole course as one page, of which a browser makes a book."""

from posixpath import dirname, join, normpath
from urllib.parse import urldefrag

from bs4 import BeautifulSoup

from course.chapters import CHAPTERS, number_of

LEFT_OUT = ".views, .headerlink, .replay"


def place_of(page):
    """Return the beginning of the ids of a page's parts in the book, or "" if it isn't there."""
    for chapter in CHAPTERS:
        if page == f"chapters/{chapter}/README.html":
            return f"chapter-{number_of(chapter)}"
    return ""


def move_link(tag, name, page):
    """Let a link or a picture of a lesson lead to the same place from the book."""
    target, anchor = urldefrag(tag[name])
    if ":" in target:
        return
    target = normpath(join(dirname(page), target)) if target else page
    place = place_of(target)
    if place:
        tag[name] = f"#{place}-{anchor}" if anchor else f"#{place}"
    else:
        tag[name] = f"{target}#{anchor}" if anchor else target


def bind(folder):
    """Return the lessons that were written to a folder as the HTML of one page."""
    html = "<h1>Celery, one step at a time</h1>"
    for chapter in CHAPTERS:
        page = f"chapters/{chapter}/README.html"
        soup = BeautifulSoup((folder / page).read_text(), "html.parser")
        lesson = soup.select_one("article")
        for tag in lesson.select(LEFT_OUT):
            tag.decompose()
        for tag in lesson.select("[id]:not(svg, svg *)"):
            tag["id"] = f"{place_of(page)}-{tag['id']}"
        for tag in lesson.select("[href]:not(svg *)"):
            move_link(tag, "href", page)
        for tag in lesson.select("[src]"):
            move_link(tag, "src", page)
        for level in (3, 2, 1):
            for tag in lesson.select(f"h{level}"):
                tag.name = f"h{level + 1}"
        for tag in lesson.select("details"):
            tag["open"] = ""
        html += f'<div class="chapter" id="{place_of(page)}">{lesson.decode_contents()}</div>'
    return html
