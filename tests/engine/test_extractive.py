"""Answers without a language model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from material import write_files

from ragsocket.engine.base import Turn
from ragsocket.engine.extractive import (
    CLOSEST,
    LABEL,
    ONLY_QUOTES,
    QUOTES,
    UNANSWERED,
    answer_text,
    conversation_text,
    evidence,
    extract,
    spoken,
    without_quotes,
)
from ragsocket.engine.index import Index, SearchResult
from ragsocket.engine.ingestion.pipeline import ingest

FILES: dict[str, str | bytes] = {
    "huts.md": (
        "# Highspur\n\nThe hut stands at 2,310 m. It has twelve beds, e.g. for climbers. "
        "A warden is there in summer.\n\n## Dogs\n\nDogs are welcome at two huts only:\n\n"
        "- **Mirefoot:** two per night.\n- **Twelve Pines:** one per night.\n"
    ),
    "prices.md": "| Item | Day | Week |\n|---|---|---|\n| Tent | 16 | 80 |\n| Stove | 5 | 25 |\n",
    "gear.txt": (
        "Snowshoe Tarrow\n\nWeight\n\n1,920 g\n\nCarries\n\nup to 110 kg\n\nIt was made here.\n"
    ),
    "plain.txt": "The sauna is hot. The sauna opens at six. The sauna is free. The sauna is big. "
    "The sauna is small. Nobody comes.",
}


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    """A small index, words alone."""
    path = tmp_path / "index" / "passages.sqlite3"
    ingest(
        write_files(tmp_path / "documents", FILES),
        path,
        embed=None,
        chunk_tokens=64,
        chunk_overlap_tokens=8,
    )
    index = Index(path)
    await index.open()
    yield index
    index.close()


async def extracts(index: Index, question: str) -> tuple[list[tuple[str, int]], SearchResult]:
    """Search and extract."""
    found = await index.search(question, owner="local", top_k=5)
    return extract(question, found.sources, found.snapshot), found


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("How many beds has Highspur?", "It has twelve beds, e.g. for climbers."),
        ("What does a stove cost for a week?", "Item: Stove; Day: 5; Week: 25"),
        (
            "Which huts welcome dogs?",
            "Dogs are welcome at two huts only: **Mirefoot:** two per night; "
            "**Twelve Pines:** one per night",
        ),
        (
            "How much weight can the Tarrow snowshoe carry?",
            "Snowshoe Tarrow · Weight · 1,920 g · Carries · up to 110 kg",
        ),
    ],
)
async def test_the_sentence_that_answers_comes_with_its_source(
    index: Index, question: str, sentence: str
) -> None:
    """It comes first; rows keep their columns' names, lists what announces them."""
    found, result = await extracts(index, question)
    assert found[0][0] == sentence
    number = found[0][1]
    assert sentence.split()[-1] in result.sources[number - 1].text


async def test_the_last_question_counts_more_than_those_before(index: Index) -> None:
    """A follow-up is answered by what it asks, and not by what was asked before once more."""
    before = "Is the Highspur hut at 2,310 m?"
    found = await index.search(f"and the warden? {before}", owner="local", top_k=5)
    first, *_ = extract("And the warden?", found.sources, found.snapshot, before=before)
    assert first[0] == "A warden is there in summer."


async def test_few_sentences(index: Index) -> None:
    """Four at most, and what does not fit the question is left out."""
    found, _ = await extracts(index, "Tell me about the sauna")
    assert len(found) == 4
    assert "Nobody comes." not in dict(found)


def test_the_answer_says_what_it_is_and_marks_every_extract() -> None:
    """Nobody shall take it for a model's words."""
    assert answer_text([("A.", 2), ("B.", 1)]) == f"{LABEL}\n\n- A. [2]\n- B. [1]"


async def test_a_small_model_reads_the_best_sentences_the_best_passage_last(
    index: Index,
) -> None:
    """They stand in their own order under their heading, and within the room there is."""
    found = await index.search("Which huts welcome dogs?", owner="local", top_k=5)

    def shown(most: int, tokens: int) -> str:
        return evidence(
            "Which huts welcome dogs in summer?",
            found.sources,
            found.snapshot,
            most=most,
            most_tokens=tokens,
            count=lambda text: len(text.split()),
        )

    whole = shown(12, 500)
    assert whole.splitlines()[-2] == "Dogs:"
    assert whole.splitlines()[-1].startswith("Dogs are welcome at two huts only:")
    assert shown(1, 500) == "\n".join(whole.splitlines()[-2:])
    assert shown(12, 1) == shown(1, 500)
    two = "Is the sauna free, and what does a stove cost for a week?"
    found = await index.search(two, owner="local", top_k=5)
    (best, _), *_ = extract(two, found.sources, found.snapshot)
    blocks = evidence(two, found.sources, found.snapshot, most=9, most_tokens=500, count=len).split(
        "\n\n"
    )
    assert len(blocks) > 1
    assert best in blocks[-1]


def test_an_answer_is_told_from_the_quotes_below_it() -> None:
    """Whether they are whole, cut, or not there."""
    quoted = "It is six. " + answer_text([("It opens at six.", 1)], label=QUOTES)
    assert without_quotes(quoted) == "It is six."
    assert without_quotes(quoted[:-9]) == "It is six."
    assert without_quotes("It is six.") == "It is six."
    closest = answer_text([("It opens at six.", 1)], label=CLOSEST)
    assert without_quotes(closest) == UNANSWERED


async def test_nothing_to_read_gives_nothing(index: Index) -> None:
    """No sources, no extracts."""
    assert extract("beds", [], index.snapshot("local")) == []


def test_a_wish_about_the_conversation_is_answered_honestly() -> None:
    """Only "shorter" can be granted, and the mark goes, since it would name nothing here."""
    said = Turn("assistant", answer_text([("It has twelve beds.", 1), ("Or more.", 2)]))
    assert conversation_text([said, Turn("user", "shorter")]) == "It has twelve beds."
    assert conversation_text([said, Turn("user", "in French")]) == ONLY_QUOTES
    assert conversation_text([Turn("assistant", "Hi"), Turn("user", "shorter")]) == ONLY_QUOTES
    assert conversation_text([Turn("user", "hello")]) == ONLY_QUOTES


async def test_it_streams_in_small_pieces_and_can_be_stopped() -> None:
    """Every piece is a chance for others to run, and nothing is lost between pieces."""
    text = answer_text([(f"Sentence {n} with  some words in it.", 1) for n in range(9)])
    pieces = [delta.text async for delta in spoken(text)]
    assert "".join(pieces) == text
    assert len(pieces) > 10
    got: list[str] = []
    with anyio.CancelScope() as scope:
        async for delta in spoken(text):
            got.append(delta.text)
            if len(got) == 3:
                scope.cancel()
    assert got == pieces[:3]
