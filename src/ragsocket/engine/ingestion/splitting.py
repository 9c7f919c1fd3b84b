"""Cuts a text into passages of about equal size that begin and end between sentences.

LlamaIndex's SentenceSplitter does the packing. Its own tokenizer and sentence finder cost about
ten seconds per megabyte, so it is given cheaper ones: four bytes count as a token, and sentences
are found by one regular expression.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from llama_index.core.node_parser import SentenceSplitter

BYTES_PER_TOKEN = 4

# After the end of a sentence, an empty line, or before a line that begins a list item, a heading,
# a table row or a quotation.
_BOUNDARY = re.compile(
    r"[.!?…][\"')\]”»]*\s+|[。！？]|\n\s*\n\s*|\n(?=[ \t]*(?:[-*+#|>•]|\d{1,3}[.)]\s))"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text.

    Attributes:
        text: the stretch, without white space around it.
        first_line: line of the text where it begins, from 1.
        last_line: line where it ends.
    """

    text: str
    first_line: int
    last_line: int


class Splitter:
    """Splits texts into pieces of at most `chunk_tokens`, overlapping by whole sentences.

    Every character that is not white space is in some piece.
    """

    def __init__(self, chunk_tokens: int, chunk_overlap_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._overlap_chars = chunk_overlap_tokens * BYTES_PER_TOKEN
        self._splitter = SentenceSplitter(
            chunk_size=chunk_tokens,
            chunk_overlap=chunk_overlap_tokens,
            tokenizer=_tokens,
            chunking_tokenizer_fn=self._sentences,
        )

    def split(self, text: str) -> Iterator[Piece]:
        """Yield the pieces of a text in order; none for white space alone."""
        newlines = [match.start() for match in re.finditer("\n", text)]
        start, end = -1, 0
        for piece in self._splitter.split_text(text):
            # Not before the earliest place an overlap can reach: text may repeat itself.
            found = text.find(piece, max(start + 1, end - self._overlap_chars))
            start = found if found >= 0 else end
            end = start + len(piece)
            yield Piece(
                piece, bisect_right(newlines, start - 1) + 1, bisect_right(newlines, end - 1) + 1
            )

    def _sentences(self, text: str) -> list[str]:
        # Half a passage at most, so that packing leaves little room unused; a character of other
        # scripts takes up to four bytes.
        limit = self._chunk_tokens * (2 if text.isascii() else 1)
        sentences: list[str] = []
        start = 0
        for end in [*(match.end() for match in _BOUNDARY.finditer(text)), len(text)]:
            while end - start > limit:
                cut = _last_gap(text, start, start + limit)
                sentences.append(text[start:cut])
                start = cut
            if end > start:
                sentences.append(text[start:end])
                start = end
        return sentences


def _tokens(text: str) -> range:
    return range(-(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN))


def _last_gap(text: str, start: int, end: int) -> int:
    for gap in ("\n", " "):
        cut = text.rfind(gap, start, end)
        if cut > start:
            return cut
    return end
