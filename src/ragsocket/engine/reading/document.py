"""What a reader makes of a file, what it is asked, and what it may use. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024


class Unreadable(Exception):
    """A file that cannot be taken in; the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may cost. A file that needs more is refused by name.

    Attributes:
        file_bytes: size of the file.
        memory_bytes: address space of the process that reads; held where the system can.
        first_s: seconds to the first page, slide, sheet or cell, and to the end of a file that
            has none of those.
        unit_s: seconds that each page, slide, sheet or cell adds.
        text_bytes: text of a file, in UTF-8.
        unpacked_bytes: what all of an Office file that is read unpacks to.
        ratio: how many times its size a part of an Office file may unpack to, above a mebibyte.
        entries: parts of an Office file.
        depth: elements within each other, in an Office file.
        units: pages, slides, sheets or cells.
    """

    file_bytes: int = 64 * MIB
    memory_bytes: int = 512 * MIB
    first_s: float = 8.0
    unit_s: float = 0.2
    text_bytes: int = 20 * MIB
    unpacked_bytes: int = 256 * MIB
    ratio: int = 200
    entries: int = 10_000
    depth: int = 200
    units: int = 5_000


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a document that passages do not cross: a page, a slide, a sheet, or all of it.

    Attributes:
        text: what people read, lines parted by a line feed.
        place: what the stretch is called, `page 3`; None for a whole document.
        counted: what its lines are called where people can count them.
        first: number of the first line.
        numbers: number of every line, where they do not simply go on from `first`.
        marks: offset and heading path of everything that has a heading, in order.
        tables: begin and end, and the line that says what the columns are, which every passage
            from the table repeats.
        is_code: indented lines belong to the line above.
    """

    text: str
    place: str | None = None
    counted: Literal["lines", "rows"] | None = None
    first: int = 1
    numbers: Sequence[int] | None = None
    marks: Sequence[tuple[int, tuple[str, ...]]] = ()
    tables: Sequence[tuple[int, int, str]] = ()
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage to be.

    Attributes:
        text: without white space around it.
        place: where it stands in the file, for people: headings, page, lines.
    """

    text: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a reader is started with.

    Attributes:
        chunk_tokens: size of a passage, about four bytes each.
        chunk_overlap_tokens: overlap of two passages.
    """

    limits: Limits
    chunk_tokens: int
    chunk_overlap_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """A file to read.

    Attributes:
        path: where it is.
        name: what people call it; its suffix tells one kind of text from another.
        root: the folder that the file must be in, resolved; None for anywhere.
    """

    path: str
    name: str
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One line from a reader: how far it is, or what came of the file.

    Attributes:
        units: pages, slides, sheets or cells that are read; more lines follow.
        pieces: the passages of the file.
        refused: why there are none.
        is_last: the reader ends now, having used up much of its memory.
    """

    units: int | None = None
    pieces: Sequence[Piece] | None = None
    refused: str | None = None
    is_last: bool = False
