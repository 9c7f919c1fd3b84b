"""Cuts the parts of a document into passages of about equal size, along what stands in them.

A passage ends before a heading or a definition if it is half full by then, else where a paragraph
ends, else a sentence, else where it must. Four bytes count as a token.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from ragsocket.engine.reading.document import Part, Piece

BYTES_PER_TOKEN = 4
MAX_HEADING = 80

# How strong a boundary is; a smaller number is stronger.
_SECTION, _PARAGRAPH, _SENTENCE, _FORCED = range(4)

_EMPTY_LINE = re.compile(r"\n[ \t]*\n\s*")
# After the end of a sentence, or before a line that begins a list item, a table row or a quotation.
_SENTENCE_END = re.compile(r"[.!?…][\"')\]”»]*\s+|[。！？]|\n(?=[ \t]*(?:[-*+#|>•]|\d{1,3}[.)]\s))")
_LINE_END = re.compile(r"\n")


class Splitter:
    """Splits parts into pieces of at most `chunk_tokens`.

    Two pieces overlap by whole sentences or lines where they were not cut before a heading. Every
    character that is not white space is in some piece.
    """

    def __init__(self, chunk_tokens: int, chunk_overlap_tokens: int) -> None:
        self._limit = chunk_tokens * BYTES_PER_TOKEN
        self._overlap = chunk_overlap_tokens * BYTES_PER_TOKEN

    def split(self, part: Part) -> Iterator[Piece]:
        """Yield the pieces of a part in order; none for white space alone."""
        places = _Places(part)
        for begin, end, head in self._stretches(part):
            stretch = part.text[begin:end]
            text = stretch.strip()
            if text:
                start = begin + len(stretch) - len(stretch.lstrip())
                place = places.of(start, start + len(text))
                yield Piece(f"{head}\n{text}" if head else text, place)

    def _stretches(self, part: Part) -> Iterator[tuple[int, int, str]]:
        """Yield begin, end and the line to be repeated above, for each piece."""
        cuts, strengths = self._segments(part)
        text = part.text
        if text.isascii():
            sizes = cuts
        else:
            lengths = (len(text[a:b].encode()) for a, b in pairwise(cuts))
            sizes = [0, *accumulate(lengths)]
        last = len(cuts) - 1
        first = behind = 0
        while first < last:
            head = self._head(part, cuts[first])
            room = self._limit - len(head.encode()) - bool(head)
            if first < behind and sizes[behind + 1] - sizes[first] > room:
                # The line to be repeated leaves no room for an overlap.
                first = behind
                continue
            end = _end(sizes, strengths, first, behind, room)
            yield cuts[first], cuts[end], head
            if end == last:
                return
            # Back by whole segments, as far as the next one still fits.
            back = end
            most = min(self._overlap, room - (sizes[end + 1] - sizes[end]))
            while (
                back - 1 > first
                and strengths[back] != _SECTION
                and sizes[end] - sizes[back - 1] <= most
            ):
                back -= 1
            first, behind = back, end

    def _head(self, part: Part, start: int) -> str:
        for begin, end, head in part.tables:
            # The table's own first line needs no other above it.
            if begin + len(head) <= start < end:
                return head if len(head.encode()) * 3 <= self._limit else ""
        return ""

    def _segments(self, part: Part) -> tuple[list[int], list[int]]:
        """Return where segments begin and the last one ends, and how strong each boundary is."""
        text = part.text
        found: dict[int, int] = {}
        # From the weakest to the strongest, which stays.
        ends = _LINE_END if part.is_code or part.counted == "rows" else _SENTENCE_END
        found.update((match.end(), _SENTENCE) for match in ends.finditer(text))
        for begin, end, _ in part.tables:
            for inside in [cut for cut in found if begin < cut < end and text[cut - 1] != "\n"]:
                del found[inside]
            found.update((m.end(), _SENTENCE) for m in _LINE_END.finditer(text, begin, end))
        found.update((match.end(), _PARAGRAPH) for match in _EMPTY_LINE.finditer(text))
        found.update((begin, _PARAGRAPH) for begin, _, _ in part.tables)
        found.update((offset, _SECTION) for offset, _ in part.marks)
        found.pop(0, None)
        # Half a passage at most, so that packing leaves little room unused; a character of other
        # scripts takes up to four bytes.
        longest = self._limit // (2 if text.isascii() else 8)
        cuts, strengths = [0], [_SECTION]
        for end in [*sorted(cut for cut in found if cut < len(text)), len(text)]:
            while end - cuts[-1] > longest:
                cuts.append(_last_gap(text, cuts[-1], cuts[-1] + longest))
                strengths.append(_FORCED)
            if end > cuts[-1]:
                cuts.append(end)
                strengths.append(found.get(end, _SECTION))
        return cuts, strengths


def _end(sizes: Sequence[int], strengths: Sequence[int], first: int, behind: int, room: int) -> int:
    """Return the boundary where a piece ends that begins at `first`, behind `behind`."""
    half = sizes[first] + room // 2
    end = first + 1
    while end < len(sizes) - 1 and sizes[end + 1] - sizes[first] <= room:
        if strengths[end] == _SECTION and sizes[end] >= half:
            return end
        end += 1
    end = max(end, behind + 1)
    if end == len(sizes) - 1:
        return end
    good = [cut for cut in range(max(first, behind) + 1, end + 1) if sizes[cut] >= half]
    return min(good, key=lambda cut: (strengths[cut], -cut), default=end)


def _last_gap(text: str, start: int, end: int) -> int:
    for gap in ("\n", " "):
        cut = text.rfind(gap, start, end)
        if cut > start:
            return cut
    return end


class _Places:
    """Where the offsets of a part are, in people's words."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._offsets = [offset for offset, _ in part.marks]
        tops = {path[:1] for _, path in part.marks}
        # A title above everything tells no place from another.
        tells = len(part.marks) > 1 or part.counted == "lines"
        self._skipped = int(len(tops) == 1 and tells)
        self._newlines = (
            [match.start() for match in _LINE_END.finditer(part.text)] if part.counted else []
        )

    def of(self, start: int, end: int) -> str | None:
        """Return the place of a stretch: its headings, its part, its lines."""
        part = self._part
        headings = self._headings(start, end)[self._skipped :]
        told = [" > ".join(heading[:MAX_HEADING] for heading in headings)]
        told.append(part.place or "")
        if part.counted:
            numbers = [bisect_right(self._newlines, offset - 1) for offset in (start, end - 1)]
            first, last = (
                part.numbers[n] if part.numbers is not None else n + part.first for n in numbers
            )
            told.append(f"{part.counted} {first}-{last}")
        return ", ".join(filter(None, told)) or None

    def _headings(self, start: int, end: int) -> tuple[str, ...]:
        """Return the headings that all of a stretch stands under."""
        first = bisect_right(self._offsets, start) - 1
        last = bisect_right(self._offsets, end - 1) - 1
        if first < 0:
            return ()
        common = self._part.marks[first][1]
        for _, path in self._part.marks[first + 1 : last + 1]:
            same = [a == b for a, b in zip(common, path, strict=False)]
            common = common[: same.index(False) if False in same else len(same)]
        return common
