"""What happens to an answer's events on their way: another text, more counts, citations."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from anyio import to_thread

from ragsocket.engine.base import Citation, ModelDelta, ModelEvent, TextDelta, Usage
from ragsocket.engine.citations import CitationMarks
from ragsocket.engine.extractive import spoken, without_quotes
from ragsocket.engine.index import SearchResult
from ragsocket.engine.matching import match
from ragsocket.errors import EngineError

logger = logging.getLogger("ragsocket.engine")

Parts = AsyncGenerator[ModelEvent]


async def counted_with(spent: Usage, parts: Parts) -> Parts:
    """Yield an answer whose token counts include those of the search query."""
    async with aclosing(parts) as events:
        async for event in events:
            yield spent + event if isinstance(event, Usage) else event


async def or_else(parts: Parts, text: Callable[[], str]) -> Parts:
    """Yield an answer; or, if the model fails before its first word, another text."""
    begun = False
    try:
        async with aclosing(parts) as events:
            async for event in events:
                begun = begun or isinstance(event, ModelDelta)
                yield event
        return
    except EngineError as error:
        if begun:
            raise
        logger.warning("extracts answer in place of the model: %s", error.code)
    async with aclosing(spoken(text())) as words:
        async for word in words:
            yield word


async def cited(
    parts: Parts, found: SearchResult | None, *, matches: bool
) -> AsyncGenerator[ModelEvent | Citation]:
    """Yield an answer with its citations, each after the delta that closes its mark.

    If the model set no mark, its sentences are matched to the passages at the end. What the
    documents say, which may stand below a small model's answer, has marks of ours.

    Args:
        parts: the answer.
        found: what it is answered from, or None.
        matches: whether a model speaks, whose sentences may be matched.
    """
    if found is None or not found.sources:
        async with aclosing(parts) as events:
            async for event in events:
                yield event
        return
    marks = CitationMarks(found.sources)
    # The text since it last began, where that is, and the first mark in it.
    text: list[str] = []
    start = length = 0
    first_mark: int | None = None
    async with aclosing(parts) as events:
        async for event in events:
            yield event
            if isinstance(event, TextDelta):
                text.append(event.text)
                length += len(event.text)
                for citation in marks.feed(event.text):
                    first_mark = first_mark or citation.index
                    yield citation
            elif isinstance(event, ModelDelta):
                # Another item; the next text is a message of its own.
                text, start, first_mark = [], length, None
    if not matches or not text:
        return
    said = without_quotes("".join(text))
    if first_mark is None or first_mark > start + len(said):
        for citation in await to_thread.run_sync(_match, said, found, start):
            yield citation


def _match(text: str, found: SearchResult, start: int) -> list[Citation]:
    return match(text, found.sources, found.snapshot, start=start)
