"""Cutting documents into passages: nothing lost, nothing too long, along headings and tables."""

from __future__ import annotations

import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from ragsocket.engine.reading.document import Part, Piece
from ragsocket.engine.reading.splitting import Splitter
from ragsocket.engine.reading.text import code, markdown


def lines_of(piece: Piece) -> tuple[int, int]:
    """Return the first and the last line that a piece names."""
    found = re.search(r"lines (\d+)-(\d+)$", piece.place or "")
    assert found is not None
    return int(found[1]), int(found[2])


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=300),
            st.sampled_from(["Word. ", "\n\n", "- item\n", "\u6f22\u5b57\u3002", "a" * 700, ", "]),
        ),
        max_size=30,
    ).map("".join),
    st.sampled_from([32, 64]),
)
def test_splitting_loses_and_invents_nothing(text: str, chunk_tokens: int) -> None:
    """Without overlap the passages together are the text, but for white space; none is too long."""
    pieces = list(Splitter(chunk_tokens, 0).split(Part(text, counted="lines")))
    assert "".join("".join(p.text for p in pieces).split()) == "".join(text.split())
    last_line = text.count("\n") + 1
    for piece in pieces:
        assert len(piece.text.encode()) <= chunk_tokens * 4
        first, last = lines_of(piece)
        assert 1 <= first <= last <= last_line


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([" ", ". ", "\n", "\n\n", ", ", "\u3002", "\n- "]), max_size=400),
    st.sampled_from([(32, 8), (32, 31), (64, 16)]),
)
def test_overlapping_passages_hold_every_word(gaps: list[str], sizes: tuple[int, int]) -> None:
    """With overlap every word is in some passage, and each passage knows its first line."""
    text = "".join(f"w{i}x{gap}" for i, gap in enumerate(gaps))
    pieces = list(Splitter(*sizes).split(Part(text, counted="lines")))
    words = {word for piece in pieces for word in re.findall(r"w\d+x", piece.text)}
    assert words == {f"w{i}x" for i in range(len(gaps))}
    for piece in pieces:
        assert lines_of(piece)[0] == text.count("\n", 0, text.index(piece.text)) + 1


def test_splitting_a_giant_line_does_not_crawl() -> None:
    """Two megabytes without a space or a line end are split in seconds."""
    started = time.perf_counter()
    pieces = [piece.text for piece in Splitter(256, 32).split(Part("x" * 2_000_000))]
    assert sum(map(len, pieces)) >= 2_000_000
    assert time.perf_counter() - started < 5


def sentences(about: str, count: int) -> str:
    """Return a paragraph."""
    return " ".join(f"Sentence {n} says something about {about}." for n in range(count))


def test_a_section_begins_a_passage_unless_that_is_half_empty() -> None:
    """Small sections share a passage; a passage that is half full ends before a heading."""
    text = "\n\n".join(
        [
            *("# Huts", "## Bed", sentences("beds", 2), "## Soup", sentences("soup", 2)),
            *("## Dogs", sentences("dogs", 6), "## Cats", sentences("cats", 2)),
        ]
    )
    (part,) = markdown(text)
    pieces = list(Splitter(64, 0).split(part))
    assert [piece.text.splitlines()[0] for piece in pieces] == ["# Huts", "## Dogs", "## Cats"]
    assert [piece.place for piece in pieces] == [
        "lines 1-9",
        "Dogs, lines 11-13",
        "Cats, lines 15-17",
    ]


def test_a_long_section_names_its_headings_in_every_passage() -> None:
    """Where a passage stands under is said by its place, however far down it is."""
    text = f"# Huts\n\n# Rules\n\n## Dogs\n\n{sentences('dogs', 20)}\n"
    (part,) = markdown(text)
    places = [piece.place for piece in Splitter(64, 8).split(part)]
    assert len(places) > 3
    assert set(places[1:]) == {"Rules > Dogs, lines 7-7"}


def test_a_table_repeats_its_first_row_in_every_passage() -> None:
    """A price without the name of its column is no price; rows stay whole."""
    rows = "\n".join(f"| Tent {n} | {n} euros |" for n in range(40))
    head = "| What | Price |\n|---|---|"
    (part,) = markdown(f"Prices.\n\n{head}\n{rows}\n\nAfter the table.\n")
    pieces = list(Splitter(64, 8).split(part))
    assert len(pieces) > 3
    for piece in pieces[1:-1]:
        assert piece.text.startswith(head)
        assert all(row.endswith("|") for row in piece.text.splitlines())
    assert all(len(piece.text.encode()) <= 256 for piece in pieces)
    found = re.findall(r"Tent (\d+) ", "\n".join(piece.text for piece in pieces))
    assert set(map(int, found)) == set(range(40))


def test_code_is_cut_before_definitions() -> None:
    """A function stays whole where it fits, with the comment above it, and gives its name."""
    functions = "\n\n\n".join(
        f"# About {n}.\ndef function_{n}(a, b):\n"
        + "    a += b  # and again\n" * 6
        + "    return a"
        for n in range(6)
    )
    (part,) = code(functions)
    pieces = list(Splitter(64, 16).split(part))
    assert [piece.text.splitlines()[0] for piece in pieces] == [f"# About {n}." for n in range(6)]
    assert pieces[2].place == "function_2, lines 23-31"


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            [
                *("# A\n", "## B\n", "| a | b |\n", "|---|---|\n", "| \u6f22 | 2 |\n", "```\n"),
                *("Title\n===\n", "words and words. ", "\n", "x" * 10 + "\n", "- item\n"),
            ]
        ),
        max_size=60,
    ).map("".join),
    st.sampled_from([(32, 0), (32, 16), (64, 8)]),
)
def test_markdown_of_any_shape_keeps_the_rules(text: str, sizes: tuple[int, int]) -> None:
    """Headings and tables change where passages end, never what is in them."""
    (part,) = markdown(text)
    pieces = list(Splitter(*sizes).split(part))
    assert all(len(piece.text.encode()) <= sizes[0] * 4 for piece in pieces)
    assert {w for p in pieces for w in p.text.split()} == set(text.split())
    places = [lines_of(piece) for piece in pieces]
    assert places == sorted(places)
