"""What an engine is given, and what it yields. Pure: no event loop, no `llama_index`.

The runner hands an engine one `Question` and iterates its engine events. It cancels the task
that iterates; an engine must therefore let cancellation through every await and close the
model's connection on the way out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["user", "assistant"]
RetrievalMode = Literal["hybrid", "dense", "sparse", "none"]
ResponseMode = Literal["compact", "refine", "tree_summarize", "no_text"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation.

    Attributes:
        role: who said it.
        text: exactly what was said, or, for a stopped answer, exactly what was seen of it.
        cut: True for an answer that was stopped before it was whole.
    """

    role: Role
    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How to search for one question.

    Attributes:
        search: False answers from the conversation alone.
        mode: which indexes are asked; `none` is the same as `search=False`.
        similarity_top_k: passages to use, at least 1; None for the operator's default.
        response_mode: how an answer is made of the passages.
        vector_store_ids: the stores to search; empty means the default store.
    """

    search: bool = True
    mode: RetrievalMode = "hybrid"
    similarity_top_k: int | None = None
    response_mode: ResponseMode = "compact"
    vector_store_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is passed on to the model; None leaves the model's own default.

    Attributes:
        temperature: 0 to 2.
        top_p: 0 to 1.
        max_output_tokens: upper bound of generated tokens, at least 1.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Everything an engine needs to answer.

    Attributes:
        turns: the conversation, oldest first; the last one is the user's question.
        owner: whose documents may be searched.
        model: the model asked for, one of `Engine.models`.
        instructions: extra instructions for the model, or None.
    """

    turns: Sequence[Turn]
    owner: str
    model: str
    instructions: str | None = None
    retrieval: Retrieval = field(default_factory=Retrieval)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Source:
    """A retrieved passage.

    Attributes:
        passage_id: stable id of the passage in its vector store.
        file_id: stable id of the file, `file_…`.
        file_name: path of the file relative to the ingested folder.
        text: the passage.
        score: relevance between 0 and 1.
        place: where in the file, for people: `page 3`, `lines 10-24`; None if unknown.
    """

    passage_id: str
    file_id: str
    file_name: str
    text: str
    score: float
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Searching:
    """The engine begins to search with these queries."""

    queries: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sources:
    """The search is done. Comes at most once, after Searching, before the first TextDelta.

    Attributes:
        sources: best first; the mark `[n]` in the answer means `sources[n - 1]`.
        index_revision: the revision of the index that was searched.
    """

    sources: Sequence[Source]
    index_revision: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer.

    Attributes:
        text: what came in one read from the model, not empty.
        tokens: how many tokens the model sent for it (our count).
    """

    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in the text so far that names a source.

    Attributes:
        source: the source meant.
        index: where the mark ends, in Unicode code points from the start of the answer.
    """

    source: Source
    index: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; a later one replaces an earlier one.

    Attributes:
        estimated: True while the numbers are our own count, not the model's.
    """

    input_tokens: int
    output_tokens: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The model stopped by itself before the answer was whole."""

    reason: Literal["max_output_tokens", "content_filter"]


EngineEvent = Searching | Sources | TextDelta | Citation | Usage | LimitReached


class Engine(Protocol):
    """Answers questions. One instance serves every response of the application."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models that can be asked for; the first is the default."""

    def answer(self, question: Question) -> AsyncGenerator[EngineEvent]:
        """Yield the answer's engine events.

        Raises:
            EngineError: the answer cannot be produced or completed.
        """

    def readiness(self) -> Mapping[str, str]:
        """What is not ready yet, as part name to reason; empty when questions can be answered."""
