"""Reads Office files (.docx, .pptx, .xlsx): archives of XML, of which the text is taken.

They are unpacked in memory, part by part and under limits; nothing is ever written, and names in
the archive are only compared.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import IO, BinaryIO

from ragsocket.engine.reading.document import MIB, Limits, Part, Unreadable
from ragsocket.engine.reading.markup import Event, events
from ragsocket.engine.reading.text import Outline, cleaned, rows_as_part

_MAX_CELLS = 2_000_000
_MAX_COLUMNS = 1_000
# So many rows count as a unit of time, see `Limits`.
_ROWS_OF_A_UNIT = 1_000
_HEADING_STYLE = re.compile(r"heading (\d)", re.IGNORECASE)
# Number formats of Excel's own that are dates or times.
_DATE_FORMATS = {*range(14, 23), *range(45, 48)}
_DATE_CODE = re.compile(r"[dmyhs]", re.IGNORECASE)
_NOT_CODE = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.')

UnitDone = Callable[[], None]


def office(stream: BinaryIO, limits: Limits, unit_done: UnitDone) -> Iterator[Part]:
    """Yield the parts of an Office file.

    Args:
        stream: the file.
        limits: what it may unpack to.
        unit_done: called for each slide or sheet.

    Raises:
        Unreadable: it is broken, encrypted, too large, or an archive of another kind.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            package = _Package(archive, limits)
            for name, read in _READERS.items():
                if main := package.main(name):
                    yield from read(package, main, unit_done)
                    return
        raise Unreadable("an archive (zip) that is no Office file: unpack it")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zipfile.LargeZipFile) as error:
        raise Unreadable(f"broken Office file ({error})") from None


class _Package:
    """The parts of an Office file by name, and what each refers to.

    Attributes:
        limits: what the file may cost.
    """

    def __init__(self, archive: zipfile.ZipFile, limits: Limits) -> None:
        entries = archive.infolist()
        if len(entries) > limits.entries:
            raise Unreadable(f"has {len(entries)} parts; {limits.entries} are allowed")
        if any(entry.flag_bits & 1 for entry in entries):
            raise Unreadable("encrypted archive")
        self._archive = archive
        self._entries = {entry.filename: entry for entry in entries}
        self.limits = limits
        self._left = limits.unpacked_bytes

    def main(self, kind: str) -> str | None:
        """Return the name of the document itself if it is of a kind, `word`, `ppt` or `xl`."""
        for target in self.references("").values():
            if target.startswith(f"{kind}/") and target in self._entries:
                return target
        return None

    def references(self, name: str) -> dict[str, str]:
        """Return what a part refers to, by the key that it uses; links out of it are left out."""
        folder, file = posixpath.split(name)
        found = {}
        for event in self.events(posixpath.join(folder, "_rels", f"{file}.rels")):
            if event.begins("Relationship") and event.attributes.get("TargetMode") != "External":
                target = event.attributes.get("Target", "")
                target = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
                found[event.attributes.get("Id", "")] = target
        return found

    def events(self, name: str) -> Iterator[Event]:
        """Yield what stands in a part; nothing if it is not there."""
        entry = self._entries.get(name)
        if entry is None:
            return
        if entry.file_size > max(MIB, entry.compress_size * self.limits.ratio):
            raise Unreadable(
                f"unpacks to more than {self.limits.ratio} times its size ({name[:60]})"
            )
        with self._archive.open(entry) as part:
            yield from events(self._counted(part), self.limits.depth)

    def _counted(self, part: IO[bytes]) -> Iterator[bytes]:
        while chunk := part.read(64 * 1024):
            self._left -= len(chunk)
            if self._left < 0:
                most = self.limits.unpacked_bytes // MIB
                raise Unreadable(f"unpacks to more than {most} MiB")
            yield chunk


def _word(package: _Package, main: str, unit_done: UnitDone) -> Iterator[Part]:
    """Read a Word file: paragraphs with their headings, tables row by row, footnotes at the end."""
    references = package.references(main)
    levels: dict[str, int] = {}
    style = ""
    for target in references.values():
        if posixpath.basename(target) == "styles.xml":
            for event in package.events(target):
                if event.begins("style"):
                    style = event.attributes.get("styleId", "")
                elif event.begins("name"):
                    if heading := _HEADING_STYLE.fullmatch(event.attributes.get("val", "")):
                        levels[style] = int(heading[1])
                    elif event.attributes.get("val", "").lower() == "title":
                        levels[style] = 0
    text = _Paragraphs(levels)
    text.read(package.events(main))
    for target in references.values():
        if posixpath.basename(target) in ("footnotes.xml", "endnotes.xml"):
            text.read(package.events(target))
    yield text.part()


class _Paragraphs:
    """Collects the text of a Word or PowerPoint part."""

    def __init__(self, levels: dict[str, int]) -> None:
        self._levels = levels
        self._outline = Outline()
        self._tables: list[tuple[int, int, str]] = []
        self._blocks: list[str] = []
        self._length = 0

    def _add(self, block: str, *, close: bool = False) -> int:
        """Add a block and return where it begins; `close` puts no empty line above it."""
        gap = ("\n" if close else "\n\n") if self._blocks else ""
        begin = self._length + len(gap)
        self._blocks.append(gap + block)
        self._length = begin + len(block)
        return begin

    def part(self, place: str | None = None) -> Part:
        """Return all that was read."""
        return Part("".join(self._blocks), place, marks=self._outline.found, tables=self._tables)

    def read(self, source: Iterator[Event]) -> None:
        """Read a part; text of text boxes counts once, deleted text not at all."""
        words: list[str] = []
        level: int | None = None
        row: list[str] | None = None
        cell: list[str] = []
        table: tuple[int, str] | None = None
        tables = alternatives = 0
        is_item = is_furniture = False
        for event in source:
            match event.name:
                case "Fallback":
                    alternatives += 1 if event.is_begin else -1
                case _ if alternatives:
                    pass
                case "t" if event.text is not None:
                    words.append(event.text)
                case "tab" | "br" | "cr" if event.is_begin:
                    words.append("\t" if event.name == "tab" else "\n")
                case "pStyle" if event.is_begin:
                    level = self._levels.get(event.attributes.get("val", ""))
                case "outlineLvl" if event.is_begin:
                    number = event.attributes.get("val", "9")
                    level = int(number) + 1 if number in "012345678" else None
                case "ph" if event.is_begin:
                    kind = event.attributes.get("type", "")
                    level = 0 if kind in ("title", "ctrTitle") else None
                    is_furniture = kind in ("sldNum", "dt", "ftr", "hdr")
                case "numPr" if event.is_begin:
                    is_item = True
                case "sp" if event.is_begin:
                    level, is_furniture = None, False
                case "p" if event.is_end:
                    paragraph = "" if is_furniture else cleaned("".join(words)).strip()
                    words.clear()
                    if row is not None:
                        cell.append(paragraph)
                    elif paragraph and level is not None:
                        self._outline.add(self._add(paragraph), level, paragraph)
                    elif paragraph:
                        self._add(f"- {paragraph}" if is_item else paragraph, close=is_item)
                    is_item = False
                    # A slide's title may have several paragraphs, a heading has one.
                    level = None if "wordprocessingml" in event.space else level
                case "tbl":
                    tables += 1 if event.is_begin else -1
                    if event.is_end and tables == 0 and table is not None:
                        self._tables.append((table[0], self._length, table[1]))
                        table = None
                case "tr" if tables == 1:
                    if event.is_begin:
                        row = []
                    elif row is not None:
                        line = " | ".join(row).rstrip(" |")
                        if line.strip():
                            begin = self._add(line, close=table is not None)
                            table = table or (begin, line)
                        row = None
                case "tc" if tables == 1 and row is not None and event.is_end:
                    row.append(" ".join(" ".join(cell).split()))
                    cell.clear()
                case _:
                    pass


def _slides(package: _Package, main: str, unit_done: UnitDone) -> Iterator[Part]:
    """Read a PowerPoint file: each slide with its title, tables and the speaker's notes."""
    references = package.references(main)
    names = [
        references.get(event.attributes.get("r:id", ""), "")
        for event in package.events(main)
        if event.begins("sldId")
    ]
    if len(names) > package.limits.units:
        raise Unreadable(f"has {len(names)} slides; {package.limits.units} are allowed")
    for number, name in enumerate(names, 1):
        text = _Paragraphs({})
        text.read(package.events(name))
        for target in package.references(name).values():
            if posixpath.basename(target).startswith("notesSlide"):
                text.read(package.events(target))
        yield text.part(f"slide {number}")
        unit_done()


def _sheets(package: _Package, main: str, unit_done: UnitDone) -> Iterator[Part]:
    """Read an Excel file: each sheet row by row, values as they were computed last."""
    references = package.references(main)
    sheets: list[tuple[str, str]] = []
    base = datetime(1899, 12, 30)
    for event in package.events(main):
        if event.begins("sheet"):
            target = references.get(event.attributes.get("r:id", ""), "")
            sheets.append((event.attributes.get("name", ""), target))
        elif event.begins("workbookPr") and event.attributes.get("date1904") in ("1", "true"):
            base = datetime(1904, 1, 1)
    by_file = {posixpath.basename(target): target for target in references.values()}
    shared = _shared_strings(package, by_file.get("sharedStrings.xml", ""))
    dates = _date_styles(package, by_file.get("styles.xml", ""))
    cells = _Cells(shared, dates, base)
    for name, target in sheets:
        if not posixpath.basename(posixpath.dirname(target)).startswith("chart"):
            title = " ".join(cleaned(name).split())
            rows = cells.rows(package.events(target))
            yield rows_as_part(_told(rows, unit_done), f"sheet {title}")


def _told(
    rows: Iterator[tuple[int, list[str]]], unit_done: UnitDone
) -> Iterator[tuple[int, list[str]]]:
    for done, row in enumerate(rows, 1):
        yield row
        if done % _ROWS_OF_A_UNIT == 0:
            unit_done()
    unit_done()


def _shared_strings(package: _Package, name: str) -> list[str]:
    strings: list[str] = []
    words: list[str] = []
    phonetic = False
    for event in package.events(name):
        if event.name == "rPh":
            phonetic = event.is_begin
        elif event.name == "t" and event.text is not None and not phonetic:
            words.append(event.text)
        elif event.name == "si" and event.is_end:
            strings.append("".join(words))
            words.clear()
    return strings


def _date_styles(package: _Package, name: str) -> set[str]:
    """Return the styles of cells whose numbers are dates, as cells name them."""
    formats = set(map(str, _DATE_FORMATS))
    styles: list[str] = []
    inside = False
    for event in package.events(name):
        if event.begins("numFmt"):
            if _DATE_CODE.search(_NOT_CODE.sub("", event.attributes.get("formatCode", ""))):
                formats.add(event.attributes.get("numFmtId", ""))
        elif event.name == "cellXfs":
            inside = event.is_begin
        elif inside and event.begins("xf"):
            styles.append(event.attributes.get("numFmtId", ""))
    return {str(number) for number, style in enumerate(styles) if style in formats}


class _Cells:
    """Reads the cells of sheets."""

    def __init__(self, shared: list[str], dates: set[str], base: datetime) -> None:
        self._shared = shared
        self._dates = dates
        self._base = base
        self._left = _MAX_CELLS

    def rows(self, source: Iterator[Event]) -> Iterator[tuple[int, list[str]]]:
        """Yield number and cells of the rows of a sheet that have any."""
        number = 0
        cells: list[str] = []
        kind = style = ""
        words: list[str] = []
        for event in source:
            if event.name in ("v", "t") and event.text is not None:
                words.append(event.text)
            elif event.begins("row"):
                given = event.attributes.get("r", "")
                number = int(given) if given.isdecimal() else number + 1
                cells = []
            elif event.begins("c"):
                kind, style = event.attributes.get("t", "n"), event.attributes.get("s", "")
                column = _column(event.attributes.get("r", ""), len(cells))
                cells += [""] * (column - len(cells))
                words.clear()
            elif event.name == "c":
                self._left -= 1
                if self._left < 0:
                    raise Unreadable(f"has more than {_MAX_CELLS} cells")
                if len(cells) < _MAX_COLUMNS:
                    cells.append(self._value("".join(words), kind, style))
            elif event.name == "row" and event.is_end and cells:
                yield number, cells

    def _value(self, raw: str, kind: str, style: str) -> str:
        if kind == "s":
            known = raw.isdecimal() and int(raw) < len(self._shared)
            return self._shared[int(raw)] if known else ""
        if kind == "b":
            return "true" if raw == "1" else "false"
        if kind == "n" and raw:
            try:
                number = float(raw)
                if style in self._dates:
                    return self._date(number)
                return f"{number:.15g}"
            except (ValueError, OverflowError):
                return raw
        return raw

    def _date(self, days: float) -> str:
        moment = self._base + timedelta(seconds=round(days * 86400))
        if days < 1:
            return f"{moment:%H:%M}"
        return f"{moment:%Y-%m-%d}" if days == int(days) else f"{moment:%Y-%m-%d %H:%M}"


def _column(reference: str, otherwise: int) -> int:
    """Return the column of a cell such as `AB12`, from 0."""
    letters = reference.rstrip("0123456789")
    if not letters.isalpha() or not letters.isascii() or len(letters) > 3:
        return otherwise
    column = 0
    for letter in letters.upper():
        column = column * 26 + ord(letter) - ord("A") + 1
    return min(max(column - 1, otherwise), _MAX_COLUMNS)


_READERS = {"word": _word, "ppt": _slides, "xl": _sheets}
