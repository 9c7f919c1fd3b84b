"""The engine: retrieval, our own messages, and the model's stream, in the task that answers.

Nothing is awaited inside the loop over the model's stream but that stream, so a cancel closes the
model's connection at once, and every event is handed on as it comes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import anyio
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragsocket.engine.answer_events import Parts, cited, counted_with, or_else
from ragsocket.engine.base import (
    EngineEvent,
    QueryFrom,
    Question,
    Searching,
    Source,
    Sources,
    Usage,
)
from ragsocket.engine.extractive import (
    NO_DOCUMENTS,
    SENTENCES,
    SENTENCES_IN_DETAIL,
    answer_text,
    conversation_text,
    extract,
    spoken,
)
from ragsocket.engine.gate import (
    REFUSAL,
    about_conversation,
    answerable,
    leans_on_history,
    wants_detail,
)
from ragsocket.engine.grounded import SmallModel
from ragsocket.engine.index import Index, SearchResult
from ragsocket.engine.ingestion import Progress, Report
from ragsocket.engine.late import EXTRACTIVE
from ragsocket.engine.models.local import LocalModel
from ragsocket.engine.prompt import (
    Profile,
    build_messages,
    count_functions,
    count_messages,
    question_of,
)
from ragsocket.engine.query import Query, last_turn, make_query, search_query
from ragsocket.engine.synthesis import synthesize
from ragsocket.engine.token_stream import TokenStream
from ragsocket.engine.uploads import Uploads
from ragsocket.errors import RequestError
from ragsocket.settings import Settings

logger = logging.getLogger("ragsocket.engine")


class RagEngine:
    """Answers from an index, through a model or, without one, by extracts.

    Args:
        index: what is searched; opened.
        tokens: the model; None for extracts.
        settings: the operator's choices.
        embed_model: given where passages are embedded by an object of this process.
        profile: how prompts are made; None as for a model that reads fast.
        uploads: the files and vector stores beside the folder, or None for the folder alone.
        closes: closed after everything else by `aclose`.
    """

    def __init__(
        self,
        index: Index,
        tokens: TokenStream | None,
        settings: Settings,
        *,
        embed_model: BaseEmbedding | None = None,
        profile: Profile | None = None,
        uploads: Uploads | None = None,
        closes: AsyncExitStack | None = None,
    ) -> None:
        self._index = index
        self._tokens = tokens
        self._settings = settings
        self._embed_model = embed_model
        self._profile = profile or Profile.usual(settings.context_tokens)
        self._uploads = uploads
        self._closes = closes
        self._ingested = False
        # A small model here would take longer than its answer, for a query worse than the turns.
        self._writes_queries = tokens is not None and not self._profile.is_small

    @property
    def models(self) -> Sequence[str]:
        """See `Engine.models`."""
        return self._tokens.models if self._tokens is not None else (EXTRACTIVE,)

    @property
    def index(self) -> Index:
        """What is searched."""
        return self._index

    @property
    def uploads(self) -> Uploads | None:
        """The files and vector stores beside the folder."""
        return self._uploads

    def readiness(self) -> Mapping[str, str]:
        """See `Engine.readiness`: what is missing of `documents` and of `model`.

        Documents are missing while a folder was named and nothing of it can be found yet; a model
        on this machine while it does not run, unless extracts answer in its place.
        """
        missing = {}
        if self._settings.data is not None and not self._ingested and not self._index.revision:
            missing["documents"] = "not read yet"
        if isinstance(self._tokens, LocalModel) and (state := self._tokens.state) is not None:
            if not self._falls_back or state == "loading":
                missing["model"] = state
        return missing

    @property
    def _falls_back(self) -> bool:
        chosen = self._settings.llm_fallback
        return chosen == "extracts" or (chosen is None and isinstance(self._tokens, LocalModel))

    async def run(self) -> None:
        """Keep a model on this machine running and take uploads in, until cancelled.

        With neither to do, end at once.
        """
        async with anyio.create_task_group() as tasks:
            if isinstance(self._tokens, LocalModel):
                tasks.start_soon(self._tokens.run)
            if self._uploads is not None:
                tasks.start_soon(self._uploads.run)

    async def ingest(
        self,
        root: Path,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        on_refreshed: Callable[[], None] = lambda: None,
    ) -> Report:
        """Bring the default store in line with a folder, and answer from what it publishes.

        Args:
            root: folder of documents.
            on_progress: called on the event loop.
            on_refreshed: called whenever a newly published revision can be searched; before
                there are vectors, it is by words.

        Raises:
            ConfigError: the folder or the index cannot be used.
            EngineError: the ingestion broke; what was published by then stays.
        """

        async def follow() -> None:
            on_refreshed()

        report = await self._index.take_in(
            self._settings,
            root,
            embed_model=self._embed_model,
            on_progress=on_progress,
            on_refreshed=follow,
        )
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
        before = search_query(question.turns)
        self._check(question)
        found: SearchResult | None = None
        spent: Usage | None = None
        if self._searches(question):
            query = Query(before, "turns")
            steps = make_query(
                question,
                self._query_from(question),
                self._tokens,
                within_s=self._settings.query_timeout_s,
            )
            async with aclosing(steps) as made:
                async for step in made:
                    if isinstance(step, Query):
                        query = step
                    else:
                        # An estimate until the answer is counted as well.
                        spent = replace(step, estimated=True)
                        yield spent
            yield Searching([query.text])
            found = await self._find(question, query.text)
            yield Sources(found.sources, found.revision, query.made_of, found.reranked)
        if question.retrieval.response_mode == "no_text":
            return
        parts: Parts
        needs_model = _needs_model(question)
        speaks = self._tokens is not None
        if (
            found is not None
            and not needs_model
            and not answerable(
                asked,
                before,
                found.sources,
                found.snapshot,
                min_score=self._settings.gate_min_score,
                min_coverage=self._settings.gate_min_coverage,
            )
        ):
            speaks = False
            parts = spoken(REFUSAL)
        elif self._tokens is None:
            parts = spoken(self._extracts(question, asked, before, found))
        else:
            parts = self._model(question, found, self._tokens)
            if self._falls_back and not needs_model:
                parts = or_else(parts, lambda: self._extracts(question, asked, before, found))
        if spent is not None:
            parts = counted_with(spent, parts)
        async with aclosing(cited(parts, found, matches=speaks)) as events:
            async for event in events:
                yield event

    def _query_from(self, question: Question) -> QueryFrom:
        return question.retrieval.query or self._settings.query

    def _check(self, question: Question) -> None:
        """Refuse what the model or the documents here cannot do.

        Raises:
            RequestError: names what it is.
        """
        if not self._settings.llm_images and any(turn.images for turn in question.turns):
            raise _unsupported("input_image", "the model here takes no pictures.", "input")
        if self._tokens is None:
            if question.functions is not None:
                raise _unsupported("tools", "there is no model here to call functions.", "tools")
            if question.sampling.format is not None:
                raise _unsupported("text.format", "there is no model here to write JSON.", "text")
        if question.retrieval.query == "model" and not self._writes_queries:
            raise _unsupported(
                "query",
                "no model here can write search queries (a server's can); say turns or last.",
                "retrieval.query",
            )
        retrieval = question.retrieval
        unknown = self._index.unknown(question.owner, retrieval.vector_store_ids)
        if retrieval.search and unknown:
            raise RequestError(
                "vector_store_not_found",
                f"there is no vector store {unknown[0][:64]!r}; leave vector_store_ids out to "
                "search the documents of this server.",
                param="tools",
                status=404,
            )

    async def _search(self, question: Question) -> SearchResult | None:
        """Find what the last turn is answered from; None if it is not searched for."""
        if not self._searches(question):
            return None
        turns = question.turns
        is_last = self._query_from(question) == "last"
        return await self._find(question, last_turn(turns) if is_last else search_query(turns))

    async def _find(self, question: Question, query: str) -> SearchResult:
        retrieval = question.retrieval
        return await self._index.search(
            query,
            owner=question.owner,
            vector_store_ids=retrieval.vector_store_ids,
            top_k=retrieval.similarity_top_k or self._settings.similarity_top_k,
            mode=retrieval.mode,
            filters=retrieval.filters,
            rerank=retrieval.rerank,
        )

    def _searches(self, question: Question) -> bool:
        retrieval = question.retrieval
        return (
            retrieval.search
            and retrieval.mode != "none"
            and (retrieval.insist or not about_conversation(question.turns))
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
            extracts = extract(
                asked,
                found.sources,
                found.snapshot,
                before=query if leans else "",
                most=SENTENCES_IN_DETAIL if wants_detail(asked) else SENTENCES,
            )
            return answer_text(extracts) if extracts else REFUSAL
        if question.retrieval.search and not about_conversation(question.turns):
            if self._is_empty(question):
                return NO_DOCUMENTS
        return conversation_text(question.turns)

    def _model(self, question: Question, found: SearchResult | None, tokens: TokenStream) -> Parts:
        mode = question.retrieval.response_mode
        asks = question.turns[-1].role == "user"
        if found is not None and asks and (mode == "refine" or mode == "tree_summarize"):
            return synthesize(
                question,
                found.sources,
                tokens,
                mode=mode,
                context_tokens=self._profile.context_tokens,
                max_output_tokens=self._settings.max_output_tokens,
                operator_instructions=self._settings.instructions,
            )
        if self._profile.is_small and not _needs_model(question):
            small = SmallModel(tokens, self._profile, self._settings, self._search)
            return small.answer(question, found)
        return self._compact(question, found.sources if found else (), tokens)

    async def _compact(
        self, question: Question, sources: Sequence[Source], tokens: TokenStream
    ) -> Parts:
        messages = build_messages(
            question,
            sources,
            budget_tokens=self._profile.context_tokens,
            most_tokens=self._profile.most_context_tokens,
            first_instructions=self._profile.instructions,
            operator_instructions=self._settings.instructions,
        )
        asked = count_messages(messages) + count_functions(question.functions)
        yield Usage(asked, 0, estimated=True)
        stream = tokens.stream(
            messages,
            model=question.model,
            sampling=question.sampling,
            functions=question.functions,
        )
        async with aclosing(stream) as events:
            async for event in events:
                yield event


def _needs_model(question: Question) -> bool:
    """True if the model's words alone can be the answer: no fixed text, no extracts."""
    return (
        question.functions is not None
        or question.sampling.format is not None
        or any(turn.images or turn.role == "tool" for turn in question.turns)
    )


def _unsupported(name: str, why: str, param: str) -> RequestError:
    return RequestError("unsupported_parameter", f"{name} is not supported: {why}", param=param)
