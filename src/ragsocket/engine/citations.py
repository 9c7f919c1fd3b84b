r"""Finds the marks `[n]` in an answer while it streams. Pure.

What is a mark:

- `[1]`, `[1, 2]`, `[1; 2]`, `[1][2]` and the full-width `【1】`, also glued to a word (`snow[1]`),
  as models like to write them.
- Nothing inside code is one: between backticks, or in a fenced block. So `` `a[1]` `` is an
  expression. A single or double backtick that is never closed ends with its line.
- `\[1]` is not one, nor anything that holds more than numbers (`[^1]`, `[see 1]`).
- `[1](http://…)` is one: whether a link follows is not known when the mark closes, and a link
  whose text is the number of a source means that source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragsocket.engine.base import Citation, Source

# Longer than any list of sources worth reading.
_LONGEST_MARK = 64

_CLOSING = {"[": "]", "【": "】"}
_INSIDE = frozenset("0123456789,; ")
_NUMBER = re.compile("[0-9]{1,4}")
_SPECIAL = re.compile(r"[\[【`\\]")


class CitationMarks:
    """Reads one answer, delta by delta.

    Args:
        sources: best first; `[n]` means `sources[n - 1]`. Other numbers mean nothing.
    """

    __slots__ = ("_closing", "_code", "_escaped", "_inside", "_length", "_run", "_sources")

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._length = 0
        self._closing = ""
        self._inside = ""
        self._escaped = False
        # Backticks read in a row, and how many opened the code that we are in.
        self._run = 0
        self._code = 0

    def feed(self, delta: str) -> list[Citation]:
        """Return the citations whose marks `delta` closes, in the order of the text."""
        before = self._length
        self._length += len(delta)
        if not self._sources:
            return []
        if (
            not (self._closing or self._run or self._code or self._escaped)
            and _SPECIAL.search(delta) is None
        ):
            return []
        found: list[Citation] = []
        for index, character in enumerate(delta, before + 1):
            if character == "`" and not self._escaped:
                self._run += 1
                self._closing = ""
                continue
            if self._run:
                self._end_run()
            if self._code:
                if character == "\n" and self._code < 3:
                    self._code = 0
            elif self._escaped:
                self._escaped = False
            elif character in _CLOSING:
                self._closing, self._inside = _CLOSING[character], ""
            elif self._closing and character == self._closing:
                found += self._named(index)
                self._closing = ""
            elif self._closing and character in _INSIDE and len(self._inside) < _LONGEST_MARK:
                self._inside += character
            else:
                self._closing = ""
                self._escaped = character == "\\"
        return found

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if not self._code:
            self._code = run
        elif run == self._code or (self._code >= 3 and run > self._code):
            self._code = 0

    def _named(self, index: int) -> list[Citation]:
        numbers = dict.fromkeys(int(number) for number in _NUMBER.findall(self._inside))
        return [
            Citation(self._sources[number - 1], index, number)
            for number in numbers
            if 1 <= number <= len(self._sources)
        ]
