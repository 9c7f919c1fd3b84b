"""What becomes of an answer that the model gives no word of."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from ragsocket.engine.base import EngineEvent, Question, TextDelta, Turn
from ragsocket.engine.extractive import LABEL
from ragsocket.engine.load import load_engine
from ragsocket.errors import EngineError
from ragsocket.settings import Settings
from upstream import Script, Upstream


async def answer(state: Path, upstream: Upstream, **settings: str) -> str:
    """Ask about the ferry, and return the text."""
    chosen = Settings.model_validate(
        {
            "state_dir": state,
            "llm_url": upstream.url,
            "llm_model": "scripted",
            "embed_model": "none",
            **settings,
        }
    )
    engine = await load_engine(chosen)
    try:
        question = Question(
            (Turn("user", "When does the ferry to Holm leave?"),), owner="local", model="scripted"
        )
        events: list[EngineEvent] = []
        async with aclosing(engine.answer(question)) as stream:
            async for event in stream:
                events.append(event)
        return "".join(event.text for event in events if isinstance(event, TextDelta))
    finally:
        await engine.aclose()


async def test_extracts_take_the_place_of_a_model_that_fails_before_its_first_word(
    state: Path, upstream: Upstream
) -> None:
    """They are labelled for what they are; without the setting the answer fails."""
    upstream.queue(Script(status=503))
    assert (await answer(state, upstream, llm_fallback="extracts")).startswith(LABEL)
    upstream.queue(Script(status=503))
    with pytest.raises(EngineError):
        await answer(state, upstream)


async def test_an_answer_that_has_begun_is_not_begun_anew(state: Path, upstream: Upstream) -> None:
    """What was seen of it stays, and the failure is told."""
    upstream.queue(Script(tokens=("one ", "two "), error_at=1))
    with pytest.raises(EngineError):
        await answer(state, upstream, llm_fallback="extracts")
