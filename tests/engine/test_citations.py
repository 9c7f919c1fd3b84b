"""Marks in an answer, however it is cut into deltas."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsocket.engine.base import Citation, Source
from ragsocket.engine.citations import CitationMarks

SOURCES = [Source(f"p{n}", f"file_{n}", f"{n}.md", f"text {n}", 0.5) for n in (1, 2, 3)]


def cited(*deltas: str) -> list[tuple[int, int]]:
    """Feed the deltas; return (number of the source, index) for each citation."""
    marks = CitationMarks(SOURCES)
    found = [citation for delta in deltas for citation in marks.feed(delta)]
    return [(SOURCES.index(citation.source) + 1, citation.index) for citation in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is open [1].", [(1, 14)]),
        ("It is open[1].", [(1, 13)]),
        ("[1][2]", [(1, 3), (2, 6)]),
        ("[1, 3] and [2;1]", [(1, 6), (3, 6), (2, 16), (1, 16)]),
        ("twice [1, 1]", [(1, 12)]),
        ("a [1] b [1]", [(1, 5), (1, 11)]),
        ("开门【2】", [(2, 5)]),
        ("🐕 allowed [1]", [(1, 13)]),
        ("[[1]]", [(1, 4)]),
        ("as [1](http://example.org) says", [(1, 6)]),
    ],
)
def test_a_mark_cites_its_sources_where_it_ends(text: str, expected: list[tuple[int, int]]) -> None:
    """The index counts code points from the start of the answer to the end of the mark."""
    assert cited(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "nothing [0] [4] [12345678]",
        "a note [^1], a word [see 1], empty [] and [ , ]",
        r"escaped \[1]",
        "`a[1]` and ``b[2]``",
        "```python\nx = a[1]\n\ny = a[2]\n```",
        "````\n```\na[1]\n````",
        "【1]",
        "[" + "1" * 100 + "]",
    ],
)
def test_what_is_no_mark_cites_nothing(text: str) -> None:
    """Numbers of no source, other things in brackets, and code are left alone."""
    assert cited(text) == []


def test_code_ends_where_its_backticks_do() -> None:
    """Marks count again after code, after a fence, and after a line with a stray backtick."""
    assert cited("`a[1]` [1]") == [(1, 10)]
    assert cited("```\na[1]\n```\n[2]") == [(2, 16)]
    assert cited("a ` b [1]\n[2]") == [(2, 13)]


def test_a_citation_comes_with_the_delta_that_closes_its_mark() -> None:
    """Nothing is held back and nothing is foretold."""
    marks = CitationMarks(SOURCES)
    assert marks.feed("open [") == []
    assert marks.feed("2") == []
    assert marks.feed("], closed") == [Citation(SOURCES[1], 8, 2)]


def test_without_sources_nothing_is_cited() -> None:
    """An answer from the conversation alone has no citations."""
    assert CitationMarks([]).feed("as said [1]") == []


@given(st.data())
def test_any_split_gives_the_same_citations(data: st.DataObject) -> None:
    """How the model's text is cut into deltas makes no difference."""
    text = data.draw(st.text(st.sampled_from("[]【】`\\\n123, ;a("), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    edges = [0, *cuts, len(text)]
    deltas = [text[a:b] for a, b in pairwise(edges)]
    assert cited(*deltas) == cited(text)
