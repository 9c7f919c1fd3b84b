"""Whether to search, and whether the documents can answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from material import write_files

from ragsocket.engine.base import Turn
from ragsocket.engine.gate import (
    REFUSAL,
    about_conversation,
    answerable,
    wants_detail,
    wants_it_shorter,
)
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.query import search_query

FILES: dict[str, str | bytes] = {
    "huts.md": "Mirefoot has forty beds. Highspur has twelve beds and a view of the glacier.",
    "dogs.md": "Two dogs may stay at Mirefoot. No dogs may stay at Highspur.",
    "prices.md": "A tent costs sixteen euros a day. A stove costs five euros a day.",
    "soup.md": "The soup at Twelve Pines is made of lentils and carrots.",
    "bus.md": "The bus to Mirefoot leaves the station every hour in summer.",
}
HISTORY = [Turn("user", "How many beds has Mirefoot?"), Turn("assistant", "Forty [1].")]


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


@pytest.mark.parametrize(
    "text",
    [
        "shorter",
        "Can you make that shorter, please?",
        "Translate that into French",
        "and in German?",
        "Please summarise what you said.",
        "Explain it in simple words.",
        "as a bullet list",
        "What did I ask first?",
        "What was my last question?",
        "Give me a summary of our conversation",
        "What have we talked about so far?",
        "in other words?",
    ],
)
def test_wishes_about_the_answer_are_about_the_conversation(text: str) -> None:
    """With an answer there is nothing to search; without one they are questions."""
    turn = Turn("user", text)
    assert about_conversation([*HISTORY, turn])
    assert not about_conversation([turn])


@pytest.mark.parametrize(
    "text", ["Hello!", "hi there", "Thank you very much.", "ok, thanks", "Danke"]
)
def test_greetings_and_thanks_never_need_documents(text: str) -> None:
    """They are about the conversation even where it begins."""
    assert about_conversation([Turn("user", text)])
    assert about_conversation([*HISTORY, Turn("user", text)])


@pytest.mark.parametrize(
    "text",
    [
        "And Highspur?",
        "What about dogs?",
        "Is that allowed in winter?",
        "Translate the hut rules into French",
        "Thanks, and what does a tent cost?",
        "Summarise the annual report",
        "tell me more",
        "go on",
        "Give me the list of huts",
        "What did the meeting say?",
        "in January?",
        "shorter " * 30,
        "",
    ],
)
def test_questions_are_not_taken_for_small_talk(text: str) -> None:
    """Missing a wish costs a search; missing a question costs the answer."""
    assert not about_conversation([*HISTORY, Turn("user", text)])


def test_only_the_last_turn_of_the_user_counts() -> None:
    """Nothing, and an answer, are about nothing."""
    assert not about_conversation([])
    assert not about_conversation([Turn("user", "thanks"), Turn("assistant", "shorter")])


def test_shorter_is_told_from_other_wishes() -> None:
    """The answerer without a model can do the one and not the others."""
    assert wants_it_shorter("Make it shorter!")
    assert wants_it_shorter("in one sentence")
    assert not wants_it_shorter("Translate that into French")


async def passes(index: Index, *turns: Turn, score: float = 0.18, coverage: float = 0.5) -> bool:
    """Search for a conversation as the engine does, and ask the gate."""
    query = search_query(turns)
    found = await index.search(query, owner="local", top_k=3)
    return answerable(
        turns[-1].text,
        query,
        found.sources,
        found.snapshot,
        min_score=score,
        min_coverage=coverage,
    )


@pytest.mark.parametrize(
    "text",
    [
        "How many beds does Highspur have?",
        "What does it cost to rent a tent?",
        "dogs?",
        "What is in the soup at Twelve Pines?",
    ],
)
async def test_what_the_documents_say_is_let_through(index: Index, text: str) -> None:
    """Questions in other words than the documents' pass as well."""
    assert await passes(index, Turn("user", text))


@pytest.mark.parametrize(
    "text",
    [
        "Who won the football world championship in Brazil?",
        "Explain the second law of thermodynamics",
        "Which helicopter company supplies the kitchen with fresh vegetables?",
    ],
)
async def test_what_the_documents_do_not_say_is_refused(index: Index, text: str) -> None:
    """Neither a good passage nor the question's words were found."""
    assert not await passes(index, Turn("user", text))


async def test_a_follow_up_is_judged_with_what_came_before(index: Index) -> None:
    """It names nothing itself, so the earlier turns speak for it."""
    follow_up = Turn("user", "And how many of them in winter?")
    assert await passes(index, *HISTORY, follow_up, score=0.99)
    assert not await passes(index, follow_up, score=0.99)


async def test_either_measure_alone_lets_a_question_through(index: Index) -> None:
    """Only where both are low is a question refused, and zero switches the gate off."""
    foreign = Turn("user", "Which tent won the football championship in Brazil?")
    assert not await passes(index, foreign, score=0.99, coverage=0.99)
    assert await passes(index, foreign, score=0.0, coverage=0.99)
    assert await passes(index, foreign, score=0.99, coverage=0.0)


async def test_nothing_found_is_refused(index: Index) -> None:
    """There is nothing to answer from."""
    assert not await passes(index, Turn("user", "xylophone quartet"), score=0.0, coverage=0.0)


async def test_a_question_without_content_words_is_not_refused(index: Index) -> None:
    """Its words cannot speak against the passages."""
    found = await index.search("Mirefoot", owner="local", top_k=3)
    assert answerable(
        "what is it?", "", found.sources, found.snapshot, min_score=1.1, min_coverage=0.9
    )


def test_the_refusal_has_no_mark() -> None:
    """It cites nothing."""
    assert "[" not in REFUSAL


@pytest.mark.parametrize(
    ("text", "detailed"),
    [
        ("Explain how the stove is lit.", True),
        ("Describe the traverse day by day", True),
        ("List all the benefits of members.", True),
        ("When does the ferry leave?", False),
        ("How much is a bed for all?", False),
    ],
)
def test_a_wish_for_more_than_a_fact_is_seen(text: str, detailed: bool) -> None:
    """Explanations, summaries and whole lists get more room."""
    assert wants_detail(text) is detailed
