"""Lines break between words however the text is cut into pieces, and nothing is held back."""

from __future__ import annotations

import re
import textwrap

from hypothesis import given
from hypothesis import strategies as st

from ragsocket.cli.wrapping import Wrapping


def screen(sent: str) -> str:
    """What a terminal shows: `n` cells back and clear, the only command that is used."""
    shown = ""
    for text, back in re.findall(r"([^\x1b]*)(?:\x1b\[(\d+)D\x1b\[K)?", sent):
        shown += text
        if back:
            shown = shown[: -int(back)]
    return shown


def wrap(pieces: list[str], width: int) -> str:
    """Feed the pieces, and return what is shown at the end."""
    wrapping = Wrapping(lambda: width)
    return screen("".join(wrapping.feed(piece) for piece in pieces))


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=30), st.data())
def test_the_pieces_make_no_difference(words: list[str], data: st.DataObject) -> None:
    """A text in pieces is shown as `textwrap` would break the whole of it."""
    text = " ".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = textwrap.fill(text, 19, break_long_words=False)
    # A space that fits at the end of a line is sent; nobody sees it.
    assert re.sub(r" +$", "", wrap(pieces, 20), flags=re.MULTILINE) == expected


def test_wide_characters_take_two_cells() -> None:
    """Columns are counted as terminals count them."""
    assert wrap(["\u4e2d\u6587 ", "\u4e2d\u6587"], 10) == "\u4e2d\u6587 \u4e2d\u6587"
    assert wrap(["\u4e2d\u6587 ", "\u4e2d\u6587"], 9) == "\u4e2d\u6587 \n\u4e2d\u6587"


def test_newlines_and_words_that_are_too_long() -> None:
    """A newline begins anew; what is longer than a line is left to the terminal."""
    assert wrap(["a\n\nb", "\n"], 5) == "a\n\nb\n"
    assert wrap(["abcdefgh", "ij"], 5) == "abcdefghij"
