"""Breaks the lines of a text between words while it is still coming in."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len

_PIECES = re.compile(r"\n|[^\S\n]+|\S+")


class Wrapping:
    """Turns pieces of a text into what a terminal must be sent, and holds nothing back.

    A word that turns out too long for its line is taken back and written on the next one.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        """Begin at the start of a line; `width` tells the terminal's columns at the time."""
        self._width = width
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """Return what to send for more text, which holds no control characters but newlines."""
        # The last column stays free: there terminals disagree about where the cursor is.
        limit = max(self._width() - 1, 1)
        return "".join(self._place(piece, limit) for piece in _PIECES.findall(text))

    def _place(self, piece: str, limit: int) -> str:
        if piece == "\n":
            self._column, self._word = 0, ""
            return piece
        cells = cell_len(piece)
        if self._column + cells <= limit:
            self._column += cells
            self._word = "" if piece.isspace() else self._word + piece
            return piece
        if piece.isspace():
            self._column, self._word = 0, ""
            return "\n"
        begun = cell_len(self._word)
        if begun == self._column or begun + cells > limit:
            # Longer than a line, so that the terminal may break it where it likes.
            self._column = (self._column + cells) % (limit + 1)
            self._word += piece
            return piece
        back = f"\x1b[{begun}D\x1b[K" if begun else ""
        word = self._word = self._word + piece
        self._column = cell_len(word)
        return f"{back}\n{word}"
