"""The engine: retrieval, our own messages, and the model's stream, in the task that answers.

Nothing is awaited inside the loop over the model's stream but that stream, so a cancel closes the
model's connection at once, and every event is handed on as it comes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from llama_index.core.base.embeddings.base import BaseEmbedding

from ragsocket.engine.base import (
    EngineEvent,
    LimitReached,
    Question,
    Searching,
    Source,
    Sources,
    TextDelta,
    Usage,
)
from ragsocket.engine.citations import CitationMarks
from ragsocket.engine.extractive import (
    NO_DOCUMENTS,
    answer_text,
    conversation_text,
    extract,
    spoken,
)
from ragsocket.engine.gate import REFUSAL, about_conversation, answerable, leans_on_history
from ragsocket.engine.index import Index, SearchResult
from ragsocket.engine.ingestion import Progress, Report, run_ingestion
from ragsocket.engine.late import EXTRACTIVE
from ragsocket.engine.prompt import build_messages, count_messages, question_of, search_query
from ragsocket.engine.synthesis import synthesize
from ragsocket.engine.token_stream import TokenStream
from ragsocket.settings import Settings

logger = logging.getLogger("ragsocket.engine")

Parts = AsyncGenerator[TextDelta | Usage | LimitReached]


class RagEngine:
    """Answers from an index, through a model or, without one, by extracts.

    Args:
        index: what is searched; opened.
        tokens: the model; None for extracts.
        settings: the operator's choices.
        embed_model: given where passages are embedded by an object of this process.
        closes: closed after everything else by `aclose`.
    """

    def __init__(
        self,
        index: Index,
        tokens: TokenStream | None,
        settings: Settings,
        *,
        embed_model: BaseEmbedding | None = None,
        closes: AsyncExitStack | None = None,
    ) -> None:
        self._index = index
        self._tokens = tokens
        self._settings = settings
        self._embed_model = embed_model
        self._closes = closes
        self._ingested = False

    @property
    def models(self) -> Sequence[str]:
        """See `Engine.models`."""
        return self._tokens.models if self._tokens is not None else (EXTRACTIVE,)

    @property
    def index(self) -> Index:
        """What is searched."""
        return self._index

    def readiness(self) -> Mapping[str, str]:
        """See `Engine.readiness`: a folder was named, and nothing of it can be found yet."""
        if self._settings.data is None or self._ingested or self._index.revision:
            return {}
        return {"documents": "not read yet"}

    async def ingest(
        self, root: Path, *, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> Report:
        """Bring the default store in line with a folder, and answer from it.

        Raises:
            ConfigError: the folder or the index cannot be used.
            EngineError: the ingestion broke; the index is as it was before.
        """
        report = await run_ingestion(
            self._settings, root, on_progress=on_progress, embed_model=self._embed_model
        )
        await self.refresh()
        self._ingested = True
        return report

    async def refresh(self) -> int:
        """Search what was published since, and return its revision; running answers go on.

        Raises:
            ConfigError: the index is damaged; what was loaded before stays.
        """
        return await self._index.refresh()

    async def aclose(self) -> None:
        """Close the model's connections and the index; no answer may follow."""
        try:
            if self._tokens is not None:
                await self._tokens.aclose()
            if self._closes is not None:
                await self._closes.aclose()
        finally:
            self._index.close()

    async def answer(self, question: Question) -> AsyncGenerator[EngineEvent]:
        """See `Engine.answer`.

        Raises:
            RequestError: the question is missing or too long, or the search cannot be done.
            EngineError: the answer cannot be produced or completed.
        """
        asked = question_of(question.turns)
        retrieval = question.retrieval
        found: SearchResult | None = None
        query = ""
        if self._searches(question):
            query = search_query(question.turns)
            yield Searching([query])
            found = await self._index.search(
                query,
                owner=question.owner,
                vector_store_ids=retrieval.vector_store_ids,
                top_k=retrieval.similarity_top_k or self._settings.similarity_top_k,
                mode=retrieval.mode,
            )
            yield Sources(found.sources, found.revision)
        if retrieval.response_mode == "no_text":
            return
        parts: Parts
        if found is not None and not answerable(
            asked,
            query,
            found.sources,
            found.snapshot,
            min_score=self._settings.gate_min_score,
            min_coverage=self._settings.gate_min_coverage,
        ):
            parts = spoken(REFUSAL)
        elif self._tokens is None:
            parts = spoken(self._extracts(question, asked, query, found))
        else:
            parts = self._model(question, found.sources if found else (), self._tokens)
        marks = CitationMarks(found.sources if found else ())
        async with aclosing(parts) as events:
            async for event in events:
                yield event
                if isinstance(event, TextDelta):
                    for citation in marks.feed(event.text):
                        yield citation

    def _searches(self, question: Question) -> bool:
        retrieval = question.retrieval
        return (
            retrieval.search
            and retrieval.mode != "none"
            and not about_conversation(question.turns)
            and not self._is_empty(question)
        )

    def _is_empty(self, question: Question) -> bool:
        ids = question.retrieval.vector_store_ids
        return not self._index.snapshot(question.owner, ids).passages

    def _extracts(
        self, question: Question, asked: str, query: str, found: SearchResult | None
    ) -> str:
        if found is not None:
            leans = leans_on_history(asked, found.snapshot)
            extracts = extract(query if leans else asked, found.sources, found.snapshot)
            return answer_text(extracts) if extracts else REFUSAL
        if question.retrieval.search and not about_conversation(question.turns):
            if self._is_empty(question):
                return NO_DOCUMENTS
        return conversation_text(question.turns)

    def _model(self, question: Question, sources: Sequence[Source], tokens: TokenStream) -> Parts:
        mode = question.retrieval.response_mode
        if sources and (mode == "refine" or mode == "tree_summarize"):
            return synthesize(
                question,
                sources,
                tokens,
                mode=mode,
                context_tokens=self._settings.context_tokens,
                max_output_tokens=self._settings.max_output_tokens,
                operator_instructions=self._settings.instructions,
            )
        return self._compact(question, sources, tokens)

    async def _compact(
        self, question: Question, sources: Sequence[Source], tokens: TokenStream
    ) -> Parts:
        messages = build_messages(
            question,
            sources,
            budget_tokens=self._settings.context_tokens,
            operator_instructions=self._settings.instructions,
        )
        yield Usage(count_messages(messages), 0, estimated=True)
        stream = tokens.stream(messages, model=question.model, sampling=question.sampling)
        async with aclosing(stream) as events:
            async for event in events:
                yield event
