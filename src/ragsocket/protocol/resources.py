"""Resources on the wire: items, sources, usage, and the Response itself.

The shapes are those of the Responses API, as the `openai` package carries them; what is ours
stands in the extra field `ragsocket`.

Over 400 lines because a Response and everything that stands in it are read as one shape.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]

# What a client sends is what it means: `"1"` and `true` are no numbers, `"yes"` is no flag.
Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]


Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""What a client keeps with a resource."""


def _absent(value: object) -> bool:
    return value is None


class Wire(BaseModel):
    """Base of every shape: unknown fields are refused, instances do not change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # What has a default is always written, and a reader may rely on it.
        json_schema_serialization_defaults_required=True,
    )


class CitationFacts(Wire):
    """What this server adds to a citation.

    Attributes:
        passage: which of the search's results it is, from 1.
        matched: True if the model set no mark there: the sentence that ends there was found in
            the passage's words, afterwards.
    """

    passage: Integer
    matched: Flag


class FileCitation(Wire):
    """A mark in the text that names a retrieved file, or a sentence that was found in one.

    `index` counts Unicode code points from the start of the text to the end of mark or sentence.
    """

    type: Literal["file_citation"] = "file_citation"
    file_id: str
    filename: str
    index: Integer
    ragsocket: Annotated[CitationFacts | None, Field(exclude_if=_absent)] = None


class OutputText(Wire):
    """A text part of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[FileCitation, ...] = ()
    logprobs: tuple[()] = ()


class OutputMessage(Wire):
    """The answer as an item. `incomplete`: it ends at its cut."""

    type: Literal["message"] = "message"
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: tuple[OutputText, ...] = ()


class SearchResult(Wire):
    """A retrieved passage. `[n]` in the answer means the n-th result."""

    file_id: str
    filename: str
    score: Number
    text: str
    attributes: dict[str, str | float | bool] = {}


class FileSearchCall(Wire):
    """One search of the documents; `results` are there when the creator asked for them."""

    type: Literal["file_search_call"] = "file_search_call"
    id: str
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"]
    queries: tuple[str, ...]
    results: tuple[SearchResult, ...] | None = None


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class FunctionCall(Wire):
    """The model asks its client to run a function; the client hands the output in.

    `incomplete`: the answer was stopped in the middle of it, and no prompt repeats it.
    """

    type: Literal["function_call"] = "function_call"
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1, max_length=128)]
    name: FunctionName
    arguments: str
    status: ItemStatus = "completed"


class ReasoningText(Wire):
    """What the model thought, as it came."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(Wire):
    """A summary of what the model thought; this server makes none."""

    type: Literal["summary_text"] = "summary_text"
    text: str


class Reasoning(Wire):
    """What the model thought before it answered; no prompt repeats it."""

    type: Literal["reasoning"] = "reasoning"
    id: str | None = None
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] = ()
    status: ItemStatus = "completed"


OutputItem = Annotated[
    OutputMessage | FileSearchCall | FunctionCall | Reasoning, Field(discriminator="type")
]


class InputTokensDetails(Wire):
    """What of the input came from the model's cache, as far as its server says."""

    cache_write_tokens: int = 0
    cached_tokens: int = 0


class OutputTokensDetails(Wire):
    """What of the output was reasoning."""

    reasoning_tokens: int = 0


class Usage(Wire):
    """Token counts. `response.ragsocket.usage_estimated` says whose count it is."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(Wire):
    """Why a response failed, in the standard's few codes; ours is `response.ragsocket.code`."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Wire):
    """Why a response is incomplete, in the standard's few reasons."""

    reason: Literal["max_output_tokens", "content_filter", "steered"] | None = None


class ConversationRef(Wire):
    """The conversation that a response belongs to."""

    id: str


class PlainFormat(Wire):
    """Text, as the model writes it."""

    type: Literal["text"] = "text"


class JsonObjectFormat(Wire):
    """One JSON object, whatever is in it."""

    type: Literal["json_object"] = "json_object"


class JsonSchemaFormat(Wire):
    """JSON that fits a schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"] = "json_schema"
    name: FunctionName
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: Flag | None = None


Verbosity = Literal["low", "medium", "high"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextConfig(Wire):
    """Settings of the answer's text; `verbosity` is passed on to the model."""

    format: Annotated[
        PlainFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
    ] = PlainFormat()
    verbosity: Annotated[Verbosity | None, Field(exclude_if=_absent)] = None


class ReasoningConfig(Wire):
    """How much the model thinks; `effort` is passed on, `summary` has no effect."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Reason = Literal[
    "completed",
    "cancelled",
    "steered",
    "client_lost",
    "shutdown",
    "worker_lost",
    "max_output_tokens",
    "content_filter",
    "failed",
]


class Feedback(Wire):
    """What somebody thought of an answer; with neither rating nor text it is taken back."""

    rating: Literal["up", "down"] | None = Field(description="Thumbs up or down; null for neither.")
    text: Annotated[str, StringConstraints(max_length=4000)] | None = Field(
        None, description="In words, at most 4,000 characters."
    )


class Facts(Wire):
    """What this server adds to a Response.

    Attributes:
        reason: why it ended; None while it runs.
        code: error code of a failure.
        reference: id under which the log knows the failure.
        retry_after_s: seconds after which to ask again, where the model's server said so.
        resumable: whether its events can be replayed.
        index_revision: revision of the documents it was answered from.
        retrieval_ms: time spent searching, milliseconds.
        query: what was searched for: `turns`, `last`, or what the `model` wrote.
        reranked: True for a reranker's order of the passages, False if it failed.
        ttft_ms: from acceptance to the first text, milliseconds.
        total_ms: from acceptance to the end, milliseconds.
        usage_estimated: True if the token counts are this server's own.
        snapshot: True on an event that stands for all up to its number.
        feedback: what was thought of the answer, if somebody said so; on look-up alone.
    """

    reason: Reason | None = None
    code: str | None = None
    reference: str | None = None
    retry_after_s: Annotated[float | None, Field(exclude_if=_absent)] = None
    resumable: bool = True
    index_revision: int | None = None
    retrieval_ms: float | None = None
    query: Annotated[Literal["turns", "last", "model"] | None, Field(exclude_if=_absent)] = None
    reranked: Annotated[bool | None, Field(exclude_if=_absent)] = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    usage_estimated: bool | None = None
    snapshot: Annotated[bool | None, Field(exclude_if=_absent)] = None
    feedback: Annotated[Feedback | None, Field(exclude_if=_absent)] = None


AttributeKey = Annotated[str, Field(min_length=1, max_length=64)]
AttributeValue = (
    Annotated[str, Field(max_length=512)]
    | Flag
    | Integer
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
)
COMPARISONS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin")
COMBINATIONS = ("and", "or")
MOST_COMPARISONS = 100
MOST_NESTED = 8


class ComparisonFilter(Wire):
    """Which files may be found: those one of whose attributes compares like this."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: AttributeKey
    value: AttributeValue | Annotated[tuple[AttributeValue, ...], Field(max_length=1000)]

    @model_validator(mode="after")
    def _value_fits(self) -> ComparisonFilter:
        if isinstance(self.value, tuple) != (self.type in ("in", "nin")):
            wanted = "a list" if self.type in ("in", "nin") else "one value, not a list"
            raise ValueError(f"the value for {self.type} must be {wanted}")
        if isinstance(self.value, bool) and self.type in ("gt", "gte", "lt", "lte"):
            raise ValueError(f"{self.type} compares texts or numbers; true and false have no order")
        return self


class CompoundFilter(Wire):
    """Which files may be found: those that pass all (`and`) or any (`or`) of these."""

    type: Literal["and", "or"]
    filters: Annotated[
        tuple[AnyFilter, ...],
        Field(min_length=1, max_length=MOST_COMPARISONS),
        # Written out, the schema would hold itself.
        WithJsonSchema({"type": "array", "items": {"type": "object"}, "minItems": 1}),
    ]


AnyFilter = Annotated[ComparisonFilter | CompoundFilter, Field(discriminator="type")]


def _bounded(filter: ComparisonFilter | CompoundFilter) -> ComparisonFilter | CompoundFilter:
    level, comparisons = [filter], 0
    for _ in range(MOST_NESTED):
        comparisons += sum(isinstance(one, ComparisonFilter) for one in level)
        level = [inner for one in level if isinstance(one, CompoundFilter) for inner in one.filters]
    if level or comparisons > MOST_COMPARISONS:
        raise ValueError(
            f"a filter has at most {MOST_COMPARISONS} comparisons, {MOST_NESTED} levels deep"
        )
    return filter


FileFilter = Annotated[AnyFilter, AfterValidator(_bounded)]


class FileSearchTool(Wire):
    """The tool that searches the documents."""

    type: Literal["file_search"] = "file_search"
    vector_store_ids: tuple[str, ...] = ()
    max_num_results: Annotated[int, Field(strict=True, ge=1, le=50)] | None = None
    filters: FileFilter | None = None


class FunctionTool(Wire):
    """A function that the client runs when the model calls it; `parameters` is a JSON schema."""

    type: Literal["function"] = "function"
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


Tool = Annotated[FileSearchTool | FunctionTool, Field(discriminator="type")]


class FunctionChoice(Wire):
    """The answer is a call of this function."""

    type: Literal["function"] = "function"
    name: FunctionName


class FileSearchChoice(Wire):
    """The documents are searched, whatever the question looks like."""

    type: Literal["file_search"] = "file_search"


class AllowedTools(Wire):
    """Of the tools only these may be used."""

    type: Literal["allowed_tools"] = "allowed_tools"
    mode: Literal["auto", "required"]
    tools: tuple[Annotated[FunctionChoice | FileSearchChoice, Field(discriminator="type")], ...]


ToolChoice = (
    Literal["auto", "none", "required"]
    | Annotated[FunctionChoice | FileSearchChoice | AllowedTools, Field(discriminator="type")]
)


class Response(Wire):
    """One answer and everything done for it.

    Numbers that the ask did not give are those that models take for themselves.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningConfig | None = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float = 1.0
    text: TextConfig = TextConfig()
    tool_choice: ToolChoice = "auto"
    tools: tuple[Tool, ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    truncation: Literal["auto", "disabled"] = "auto"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    ragsocket: Facts = Facts()

    def rated(self, feedback: Feedback | None) -> Response:
        """Return it as it is looked up: with what was thought of it."""
        facts = self.ragsocket.model_copy(update={"feedback": feedback})
        return self.model_copy(update={"ragsocket": facts})


class ResponseDeleted(Wire):
    """A response was forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
