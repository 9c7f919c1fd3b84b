"""Reads web pages: what people read of them, not the tags."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag

from ragsocket.engine.reading.document import Part
from ragsocket.engine.reading.text import Outline, cleaned

_FURNITURE = ["script", "style", "nav", "header", "footer", "aside", "noscript", "template", "svg"]
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_BLOCKS = ["p", "div", "section", "article", "main", *_HEADINGS, "ul", "ol"]
_BLOCKS += ["dl", "table", "blockquote", "pre", "figure", "hr"]
_LINES = ["li", "dt", "dd", "tr"]

# Stand in the text for what it loses, until it is read; no page can hold them after `cleaned`.
_HEADING, _TABLE, _TABLE_ENDS = "\x01", "\x02", "\x03"


def web_page(content: bytes) -> Part:
    """Return the readable text of a web page: its title, then one line per block.

    Scripts, styles, navigation, page headers and footers and asides are left out; a header inside
    an article or the main part belongs to the text.
    """
    soup = BeautifulSoup(content, "html.parser")
    title = cleaned(" ".join(soup.title.get_text().split())) if soup.title else ""
    if soup.head:
        soup.head.decompose()
    for tag in soup.find_all(_FURNITURE):
        if not tag.decomposed and not (
            tag.name in ("header", "footer") and tag.find_parent(["article", "main"])
        ):
            tag.decompose()
    for string in soup.find_all(string=True):
        if type(string) is not NavigableString:
            string.extract()  # comments, doctype, CDATA
        elif not string.find_parent("pre"):
            string.replace_with(re.sub(r"\s+", " ", cleaned(string)))
        else:
            string.replace_with(cleaned(string))
    for tag in soup.find_all("table"):
        _mark_table(tag)
    for level, name in enumerate(_HEADINGS, 1):
        for tag in soup.find_all(name):
            tag.insert(0, f"{_HEADING}{level}")
    for names, gap in ((_BLOCKS, "\n\n"), (_LINES, "\n")):
        for tag in soup.find_all(names):
            tag.insert_before(gap)
            tag.insert_after(gap)
    # In front alone: end tags of cells may be missing, and a line break has none.
    for names, gap in ((["td", "th"], " "), (["br"], "\n")):
        for tag in soup.find_all(names):
            tag.insert_before(gap)
    lines = [line.strip() for line in soup.get_text().splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    if title and not text.lstrip(f"{_HEADING}123456").startswith(title):
        text = f"{title}\n\n{text}".strip()
    return _without_signs(text)


def _mark_table(tag: Tag) -> None:
    """Bar the columns of a table that names them, and say where it begins and ends."""
    if tag.find("th") is None or tag.find("table") is not None:
        return
    is_first = True
    # In order of coming: where end tags are missing, cells stand in each other.
    for part in tag.find_all(["tr", "td", "th"]):
        if part.name != "tr" and not is_first:
            part.insert_before(" |")
        is_first = part.name == "tr"
    first = tag.find("tr")
    if first is not None:
        first.insert(0, _TABLE)
        tag.append(_TABLE_ENDS)


def _without_signs(text: str) -> Part:
    outline, tables = Outline(), []
    lines: list[str] = []
    offset, begin = 0, None
    for line in text.split("\n"):
        plain = line.replace(_TABLE, "").replace(_TABLE_ENDS, "")
        level = 0
        if plain.startswith(_HEADING):
            level, plain = int(plain[1]), plain[2:].strip()
        plain = re.sub(f"{_HEADING}[1-6]", "", plain).strip()
        if _TABLE in line:
            begin = (offset, plain)
        if level and plain:
            outline.add(offset, level, plain)
        if plain or (lines and lines[-1]):
            lines.append(plain)
            offset += len(plain) + 1
        if _TABLE_ENDS in line and begin is not None:
            tables.append((begin[0], offset - 1, begin[1]))
            begin = None
    return Part("\n".join(lines), marks=outline.found, tables=tables)
