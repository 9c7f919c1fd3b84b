"""What an engine is given, and what it yields. Pure: no event loop, no `llama_index`.

The runner hands an engine one `Question` and iterates its engine events. It cancels the task
that iterates; an engine must therefore let cancellation through every await and close the
model's connection on the way out.

Over 400 lines because it is the whole vocabulary between the runner and an engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

Role = Literal["system", "user", "assistant", "tool"]
RetrievalMode = Literal["hybrid", "dense", "sparse", "none"]
QueryFrom = Literal["turns", "last", "model"]
ResponseMode = Literal["compact", "refine", "tree_summarize", "no_text"]
Attributes = Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, for models that take them.

    Attributes:
        url: where it is, or a data URL that holds it.
        detail: how closely the model looks at it.
    """

    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model called.

    Attributes:
        call_id: what the output names; the model's server chose it.
        name: the function.
        arguments: JSON, as the model wrote it.
    """

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation.

    Attributes:
        role: who said it; `tool` is the output of a function.
        text: exactly what was said, or, for a stopped answer, exactly what was seen of it.
        cut: True for an answer that was stopped before it was whole.
        images: pictures beside a user's text.
        calls: functions that an assistant called, none of them half.
        call_id: of a tool, the call that this is the output of.
    """

    role: Role
    text: str
    cut: bool = False
    images: Sequence[Image] = ()
    calls: Sequence[Call] = ()
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A filter that compares one attribute of a file.

    Attributes:
        key: the attribute; every file has `file_id` and `file_name`.
        type: how it is compared.
        value: what with; several for `in` and `nin`.
    """

    key: str
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    value: str | float | bool | Sequence[str | float | bool]


@dataclass(frozen=True, slots=True)
class Combination:
    """A filter that asks for all (`and`) or at least one (`or`) of others."""

    type: Literal["and", "or"]
    filters: Sequence[Filter]


Filter: TypeAlias = "Comparison | Combination"
"""Which files may be found."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How to search for one question.

    Attributes:
        search: False answers from the conversation alone.
        insist: True searches even for a question that seems to need no documents.
        mode: which indexes are asked; `none` is the same as `search=False`.
        similarity_top_k: passages to use, at least 1; None for the operator's default.
        response_mode: how an answer is made of the passages.
        vector_store_ids: the stores to search; empty means the default store.
        filters: which files may be found; None for all.
        query: what the search query is made of: the last user turns, the last one alone, or the
            conversation by the model; None for the operator's choice.
        rerank: whether a reranker orders what was found; None for one if the operator has one.
    """

    search: bool = True
    insist: bool = False
    mode: RetrievalMode = "hybrid"
    similarity_top_k: int | None = None
    response_mode: ResponseMode = "compact"
    vector_store_ids: Sequence[str] = ()
    filters: Filter | None = None
    query: QueryFrom | None = None
    rerank: bool | None = None


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer is JSON.

    Attributes:
        name: of the schema; None for any object.
        schema: a JSON schema.
        description: what it is for.
        strict: whether the model is held to it.
    """

    name: str | None = None
    schema: Mapping[str, object] | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is passed on to the model; None leaves the model's own default.

    Attributes:
        temperature: 0 to 2.
        top_p: 0 to 1.
        max_output_tokens: upper bound of generated tokens, at least 1.
        stop: texts at which the model stops, without saying them.
        seed: makes the same request likely to give the same answer.
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        reasoning_effort: how much the model thinks before it answers.
        verbosity: how much it says.
        format: what the text of the answer is; None for plain text.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    format: JsonFormat | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call.

    Attributes:
        name: what it is called by.
        description: what it does.
        parameters: JSON schema of its arguments.
        strict: whether the model is held to that schema.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Functions:
    """What the model may call.

    Attributes:
        offered: the functions, at least one.
        insist: True if the model must call one of them.
        parallel: False if it may call one at most.
    """

    offered: Sequence[Function]
    insist: bool = False
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """Everything an engine needs to answer.

    Attributes:
        turns: the conversation, oldest first, without system turns; it ends with the user's
            question, or with the outputs of the functions that the last answer called.
        owner: whose documents may be searched.
        model: the model asked for, one of `Engine.models`.
        instructions: extra instructions for the model, or None.
        functions: what the model may call, or None.
        may_trim: whether old turns that do not fit the prompt may be left out.
    """

    turns: Sequence[Turn]
    owner: str
    model: str
    instructions: str | None = None
    retrieval: Retrieval = field(default_factory=Retrieval)
    sampling: Sampling = field(default_factory=Sampling)
    functions: Functions | None = None
    may_trim: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """A retrieved passage.

    Attributes:
        passage_id: stable id of the passage in its vector store.
        file_id: stable id of the file, `file_…`.
        file_name: path of the file relative to the ingested folder, or as it was uploaded.
        text: the passage.
        score: relevance between 0 and 1.
        place: where in the file, for people: `page 3`, `lines 10-24`; None if unknown.
        attributes: what the file's owner says about it.
    """

    passage_id: str
    file_id: str
    file_name: str
    text: str
    score: float
    place: str | None = None
    attributes: Attributes = field(default_factory=dict)


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
        query: what the search query was made of.
        reranked: whether a reranker ordered them; False if it failed, None if none was asked.
    """

    sources: Sequence[Source]
    index_revision: int
    query: QueryFrom = "turns"
    reranked: bool | None = None


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
class ReasoningDelta:
    """More of what the model thinks before it answers; no part of the answer's text.

    Attributes:
        text: what came in one read from the model, not empty.
        tokens: how many tokens the model sent for it (our count).
    """

    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model begins to call a function; the call before it, if any, is whole.

    Attributes:
        call_id: what the output will name.
        name: the function.
    """

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of the call that was begun last.

    Attributes:
        text: what came in one read from the model, not empty.
        tokens: how many tokens the model sent for it (our count).
    """

    text: str
    tokens: int = 1


ModelDelta = TextDelta | ReasoningDelta | CallBegun | CallArguments


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark in the text so far that names a source, or a sentence that one holds.

    Attributes:
        source: the source meant.
        index: where mark or sentence ends, in Unicode code points from the start of the answer.
        number: which of the sources it is, from 1.
        matched: True if the model set no mark, and the sentence was found in the source's words.
    """

    source: Source
    index: int
    number: int
    matched: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; a later one replaces an earlier one.

    Attributes:
        input_tokens: what the model read.
        output_tokens: what it wrote; while `estimated`, without the deltas that were yielded, which
            whoever reads them counts.
        estimated: True while the numbers are our own count, not the model's.
        cached_tokens: what of the input the model had read before.
        reasoning_tokens: what of the output was reasoning.
    """

    input_tokens: int
    output_tokens: int
    estimated: bool
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the counts of two calls together; an estimate if the second one is."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            other.estimated,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The model stopped by itself before the answer was whole."""

    reason: Literal["max_output_tokens", "content_filter"]


ModelEvent = ModelDelta | Usage | LimitReached
"""What a model's stream yields."""

EngineEvent = Searching | Sources | ModelEvent | Citation


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
