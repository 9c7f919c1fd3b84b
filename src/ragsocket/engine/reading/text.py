"""Reads files that are text: prose, Markdown, source code, tables, JSON and notebooks."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from ragsocket.engine.reading.document import Limits, Part, Unreadable

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# Characters that show nothing, and that some programs act on.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_TABLE_ROW = re.compile(r"[ \t]*\|.*\|")
_TABLE_RULE = re.compile(r"[ \t]*\|?[ \t:|-]*-[ \t:|-]*\|?[ \t]*$")

_WORDS = (
    "export|default|public|private|protected|internal|static|final|abstract|async|pub|const"
    "|override|virtual|inline|extern|unsafe|open|data|sealed|partial|create|or|replace"
)
_DEFINES = (
    "def|class|func|function|fn|struct|enum|interface|trait|impl|type|module|namespace|object"
    "|record|protocol|extension|message|service|table|view|procedure|trigger|defmodule|resource"
)
_DEFINITION = re.compile(
    rf"([ \t]*)(?:(?:{_WORDS})(?:\([^)]*\))?[ \t]+)*(?:{_DEFINES})\b[ \t]+[`\"'(*]*"
    r"([A-Za-z_$][\w$.:-]*)",
    re.IGNORECASE,
)
_BELONGS_BELOW = re.compile(r"[ \t]*(?:@|#|//|/\*|\*|--|\[)")

_CSV_SEPARATORS = ",;\t|"
# So many characters to a line are more than a person wrote.
_MINIFIED = 1000
_MAX_OUTPUT = 4000


def decoded(content: bytes) -> str:
    """Return a text file as text, without what cannot be seen.

    Raises:
        Unreadable: it is not UTF-8, nor UTF-16 that says so, or binary.
    """
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise Unreadable("is binary data, not text")
    return cleaned(text)


def cleaned(text: str) -> str:
    """Return a text with one kind of line end, and no characters that stand for nothing."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROLS.sub("", text)
    # Half a pair of surrogates cannot be written anywhere.
    return text if text.isascii() else text.encode(errors="replace").decode()


def prose(text: str) -> Iterator[Part]:
    """Read plain text."""
    yield Part(text, counted="lines")


def markdown(text: str) -> Iterator[Part]:
    """Read Markdown: its headings and tables; it stays as it was written."""
    yield Part(text, counted="lines", marks=markdown_headings(text), tables=_markdown_tables(text))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and text of each line, without its end."""
    offset = 0
    for line in text.split("\n"):
        yield offset, line
        offset += len(line) + 1


def markdown_headings(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return the marks of a Markdown text, see `Part`."""
    marks = Outline()
    fence = ""
    before, before_at = "", 0
    for offset, line in _lines(text):
        opened = _FENCE.match(line)
        if fence:
            if opened and opened[1].startswith(fence):
                fence = ""
        elif opened:
            fence = opened[1]
        elif heading := _ATX.match(line):
            marks.add(offset, len(heading[1]), heading[2])
        elif before.strip() and not _TABLE_ROW.match(before) and (under := _SETEXT.match(line)):
            marks.add(before_at, 1 if under[1][0] == "=" else 2, before)
        before, before_at = ("" if fence or opened else line), offset
    return marks.found


def _markdown_tables(text: str) -> list[tuple[int, int, str]]:
    tables = []
    lines = [*_lines(text), (len(text), "")]
    begin = None
    for (offset, line), (_, below) in pairwise(lines):
        if begin is None:
            if _TABLE_ROW.match(line) and _TABLE_RULE.match(below):
                begin = (offset, f"{line.strip()}\n{below.strip()}")
        elif not _TABLE_ROW.match(line):
            tables.append((begin[0], offset, begin[1]))
            begin = None
    if begin is not None:
        tables.append((begin[0], len(text), begin[1]))
    return tables


class Outline:
    """Collects headings, each below those of a smaller level that came before it.

    Attributes:
        found: the marks so far, see `Part`.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, tuple[str, ...]]] = []
        self._open: list[tuple[int, str]] = []

    def add(self, offset: int, level: int, title: str) -> None:
        """Add a heading; one without a title only begins a section."""
        title = " ".join(title.split()).strip("*_` ")
        self._open = [(above, name) for above, name in self._open if above < level]
        if title:
            self._open.append((level, title))
        self.found.append((offset, tuple(name for _, name in self._open)))


def code(text: str) -> Iterator[Part]:
    """Read source code: it is cut before definitions, with what stands right above them."""
    marks = Outline()
    above: int | None = None
    for offset, line in _lines(text):
        if defined := _DEFINITION.match(line):
            indent = len(defined[1].expandtabs(4))
            marks.add(offset if above is None else above, indent + 1, defined[2].rstrip(":.-"))
            above = None
        elif not _BELONGS_BELOW.match(line):
            above = None
        elif above is None:
            above = offset
    yield Part(text, counted="lines", marks=marks.found, is_code=True)


def table(text: str, limits: Limits) -> Iterator[Part]:
    """Read comma-separated values, or those parted by semicolons, tabs or bars."""
    csv.field_size_limit(limits.text_bytes)
    first = text.partition("\n")[0]
    separator = max(_CSV_SEPARATORS, key=first.count)
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        yield rows_as_part(((number, row) for number, row in enumerate(rows, 1)), None)
    except csv.Error as error:
        raise Unreadable(f"broken table ({error})") from None


def rows_as_part(rows: Iterator[tuple[int, list[str]]], place: str | None) -> Part:
    """Return the rows of a sheet, one line each, empty ones left out.

    Args:
        rows: number from 1 and cells of each row.
        place: what the sheet is called.
    """
    lines, numbers = [], []
    for number, cells in rows:
        line = " | ".join(" ".join(cell.split()) for cell in cells).rstrip(" |")
        if line.strip():
            lines.append(line)
            numbers.append(number)
    text = cleaned("\n".join(lines))
    tables = [(0, len(text), lines[0])] if len(lines) > 1 else []
    return Part(text, place, counted="rows", numbers=numbers, tables=tables)


def json_text(text: str) -> Iterator[Part]:
    """Read JSON as it was written, or indented if it was written for programs alone."""
    if len(text) <= _MINIFIED * (text.count("\n") + 1):
        yield Part(text, counted="lines", is_code=True)
        return
    try:
        value = json.loads(text)
    except ValueError:
        yield Part(text, counted="lines", is_code=True)
    else:
        yield Part(cleaned(json.dumps(value, indent=1, ensure_ascii=False)), is_code=True)


def notebook(text: str, unit_done: Callable[[], None]) -> Iterator[Part]:
    """Read a Jupyter notebook: the cells that people wrote, and what they printed.

    Args:
        text: the JSON.
        unit_done: called for each cell.

    Raises:
        Unreadable: it is not a notebook.
    """
    try:
        cells = json.loads(text)["cells"]
        language = "markdown"
        for number, cell in enumerate(cells, 1):
            source, language = _joined(cell["source"]), cell["cell_type"]
            place = f"cell {number}"
            if language == "code":
                printed = "\n".join(filter(None, map(_printed, cell.get("outputs", ()))))
                source = "\n\n".join(filter(None, (source, printed[:_MAX_OUTPUT])))
                yield Part(cleaned(source), place, is_code=True)
            else:
                source = cleaned(source)
                marks, tables = markdown_headings(source), _markdown_tables(source)
                yield Part(source, place, marks=marks, tables=tables)
            unit_done()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreadable("broken notebook, or one of another kind") from None


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "".join(text)


def _printed(output: dict[str, Any]) -> str:
    """Return what a cell printed, as text."""
    if "text" in output:
        return _joined(output["text"])
    return _joined(output.get("data", {}).get("text/plain", ""))
