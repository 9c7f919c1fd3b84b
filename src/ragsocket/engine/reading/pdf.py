"""Reads PDF files, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from pypdf import PdfReader

from ragsocket.engine.reading.document import Limits, Part, Unreadable
from ragsocket.engine.reading.text import cleaned


def pages(stream: BinaryIO, limits: Limits, unit_done: Callable[[], None]) -> Iterator[Part]:
    """Yield the pages of a PDF that have text.

    Args:
        stream: the file.
        limits: how many pages there may be.
        unit_done: called for each page.

    Raises:
        Unreadable: it is encrypted, or has too many pages.
    """
    reader = PdfReader(stream)
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("encrypted PDF")
    count = len(reader.pages)
    if count > limits.units:
        raise Unreadable(f"has {count} pages; {limits.units} are allowed")
    for number in range(count):
        # Fonts without a proper table yield characters that no encoding can carry.
        yield Part(cleaned(reader.pages[number].extract_text()), f"page {number + 1}")
        unit_done()
