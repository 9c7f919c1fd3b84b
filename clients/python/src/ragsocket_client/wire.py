"""What goes over the wire. Generated from the server's models by docs/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict


class Close(NamedTuple):
    """What a client should do after a close code."""

    meaning: str
    retry: bool
    resume: bool


class AllowedTools(TypedDict):
    """Of the tools only these may be used."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice | FileSearchChoice]


class AnnotationAdded(TypedDict):
    """A mark of the text names a file."""

    type: Literal["response.output_text.annotation.added"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    annotation_index: int
    annotation: FileCitation


class CallArgumentsDelta(TypedDict):
    """More of the arguments of a function call."""

    type: Literal["response.function_call_arguments.delta"]
    stream_id: NotRequired[str | None]
    item_id: str
    output_index: int
    sequence_number: int
    delta: str


class CallArgumentsDone(TypedDict):
    """The arguments of a function call are whole."""

    type: Literal["response.function_call_arguments.done"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class CancelDone(TypedDict):
    """Answers a cancel that found nothing to stop."""

    type: Literal["ragsocket:cancel.done"]
    event_id: NotRequired[str | None]
    response_ids: list[str]


class ComparisonFilter(TypedDict):
    """Which files may be found: those one of whose attributes compares like this."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str
    value: str | bool | int | float | list[str | bool | int | float]


class CompoundFilter(TypedDict):
    """Which files may be found: those that pass all (`and`) or any (`or`) of these."""

    type: Literal["and", "or"]
    filters: list[dict[str, Any]]


class ContentPartAdded(TypedDict):
    """A part of a message, or of reasoning, begins."""

    type: Literal["response.content_part.added"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class ContentPartDone(TypedDict):
    """A part of a message, or of reasoning, is final."""

    type: Literal["response.content_part.done"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class ConversationRef(TypedDict):
    """The conversation that a response belongs to."""

    id: str


class Error(TypedDict):
    """A fault of one client event; the socket lives on."""

    type: Literal["error"]
    status: int
    code: str
    message: str
    param: str | None
    sequence_number: int
    stream_id: NotRequired[str | None]
    error: ErrorDetail


class ErrorDetail(TypedDict):
    """The nested form of an error; `event_id` is that of the event at fault."""

    type: Literal["invalid_request_error", "server_error", "rate_limit_error"]
    code: str
    message: str
    param: str | None
    event_id: str | None


class Facts(TypedDict):
    """What this server adds to a Response."""

    reason: (
        Literal[
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
        | None
    )
    code: str | None
    reference: str | None
    resumable: bool
    index_revision: int | None
    retrieval_ms: float | None
    ttft_ms: float | None
    total_ms: float | None
    usage_estimated: bool | None
    snapshot: NotRequired[bool | None]
    feedback: NotRequired[Feedback | None]


class Feedback(TypedDict):
    """What somebody thought of an answer; with neither rating nor text it is taken back."""

    rating: Literal["up", "down"] | None
    text: str | None


class FileCitation(TypedDict):
    """A mark in the text that names a retrieved file."""

    type: Literal["file_citation"]
    file_id: str
    filename: str
    index: int


class FileSearchCall(TypedDict):
    """One search of the documents; `results` are there when the creator asked for them."""

    type: Literal["file_search_call"]
    id: str
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"]
    queries: list[str]
    results: list[SearchResult] | None


class FileSearchChoice(TypedDict):
    """The documents are searched, whatever the question looks like."""

    type: Literal["file_search"]


class FileSearchCompleted(TypedDict):
    """The search is done."""

    type: Literal["response.file_search_call.completed"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    output_index: int
    item_id: str


class FileSearchInProgress(TypedDict):
    """A search was begun."""

    type: Literal["response.file_search_call.in_progress"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    output_index: int
    item_id: str


class FileSearchSearching(TypedDict):
    """The documents are being searched."""

    type: Literal["response.file_search_call.searching"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    output_index: int
    item_id: str


class FileSearchTool(TypedDict):
    """The tool that searches the documents."""

    type: Literal["file_search"]
    vector_store_ids: list[str]
    max_num_results: int | None
    filters: ComparisonFilter | CompoundFilter | None


class FunctionCall(TypedDict):
    """The model asks its client to run a function; the client hands the output in."""

    type: Literal["function_call"]
    id: str | None
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


class FunctionChoice(TypedDict):
    """The answer is a call of this function."""

    type: Literal["function"]
    name: str


class FunctionTool(TypedDict):
    """A function that the client runs when the model calls it; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class Hello(TypedDict):
    """Greets on `/ws`; `conversation` is the default lane's."""

    type: Literal["ragsocket:hello"]
    conversation: str
    limits: Limits


class IncompleteDetails(TypedDict):
    """Why a response is incomplete, in the standard's few reasons."""

    reason: Literal["max_output_tokens", "content_filter", "steered"] | None


class InputImage(TypedDict):
    """A picture, for models that take them: an address, or the picture itself as a data URL."""

    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"]


class InputMessage(TypedDict):
    """A message handed in; an answer's own item may be handed back as it came."""

    type: Literal["message"]
    id: str | None
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputImage | OutputText]


class InputText(TypedDict):
    """A text part of an input message."""

    type: Literal["input_text"]
    text: str


class InputTokensDetails(TypedDict):
    """What of the input came from the model's cache, as far as its server says."""

    cache_write_tokens: int
    cached_tokens: int


class JsonObjectFormat(TypedDict):
    """One JSON object, whatever is in it."""

    type: Literal["json_object"]


class JsonSchemaFormat(TypedDict):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: str
    schema: dict[str, Any]
    description: str | None
    strict: bool | None


class Limits(TypedDict):
    """What a connection may do."""

    max_frame_bytes: int
    max_lanes: int
    max_unfinished_responses: int
    detach_grace_s: float


class OutputItemAdded(TypedDict):
    """An item begins."""

    type: Literal["response.output_item.added"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    output_index: int
    item: OutputMessage | FileSearchCall | FunctionCall | Reasoning


class OutputItemDone(TypedDict):
    """An item is final."""

    type: Literal["response.output_item.done"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    output_index: int
    item: OutputMessage | FileSearchCall | FunctionCall | Reasoning


class OutputMessage(TypedDict):
    """The answer as an item. `incomplete`: it ends at its cut."""

    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class OutputText(TypedDict):
    """A text part of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[FileCitation]
    logprobs: list[Any]


class OutputTextDelta(TypedDict):
    """More text."""

    type: Literal["response.output_text.delta"]
    stream_id: NotRequired[str | None]
    item_id: str
    output_index: int
    content_index: int
    logprobs: list[Any]
    sequence_number: int
    delta: str


class OutputTextDone(TypedDict):
    """The text is final; it is authoritative over the gathered deltas."""

    type: Literal["response.output_text.done"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    logprobs: list[Any]
    text: str


class OutputTokensDetails(TypedDict):
    """What of the output was reasoning."""

    reasoning_tokens: int


class PlainFormat(TypedDict):
    """Text, as the model writes it."""

    type: Literal["text"]


class Pong(TypedDict):
    """Answers a ping."""

    type: Literal["ragsocket:pong"]
    event_id: NotRequired[str | None]


class Reasoning(TypedDict):
    """What the model thought before it answered; no prompt repeats it."""

    type: Literal["reasoning"]
    id: str | None
    summary: list[SummaryText]
    content: list[ReasoningText]
    status: Literal["in_progress", "completed", "incomplete"]


class ReasoningConfig(TypedDict):
    """How much the model thinks; `effort` is passed on, `summary` has no effect."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    summary: Literal["auto", "concise", "detailed"] | None


class ReasoningText(TypedDict):
    """What the model thought, as it came."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningTextDelta(TypedDict):
    """More of what the model thinks before it answers; never part of the text."""

    type: Literal["response.reasoning_text.delta"]
    stream_id: NotRequired[str | None]
    item_id: str
    output_index: int
    content_index: int
    sequence_number: int
    delta: str


class ReasoningTextDone(TypedDict):
    """What the model thought is final."""

    type: Literal["response.reasoning_text.done"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class RefusedSteer(TypedDict):
    """A steering that came to nothing, with its input; `id` if it had been accepted."""

    id: NotRequired[str | None]
    previous_response_id: str
    input: str | list[InputMessage]


class Response(TypedDict):
    """One answer and everything done for it."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputMessage | FileSearchCall | FunctionCall | Reasoning]
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ConversationRef | None
    prompt_cache_key: str | None
    reasoning: ReasoningConfig | None
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: (
        Literal["auto", "none", "required"] | FunctionChoice | FileSearchChoice | AllowedTools
    )
    tools: list[FileSearchTool | FunctionTool]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["auto", "disabled"]
    usage: Usage | None
    user: str | None
    metadata: dict[str, str]
    ragsocket: Facts


class ResponseCompleted(TypedDict):
    """Terminal: the answer is whole."""

    type: Literal["response.completed"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response


class ResponseCreated(TypedDict):
    """The response exists; `event_id` is the one of the ask."""

    type: Literal["response.created"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response
    event_id: NotRequired[str | None]


class ResponseError(TypedDict):
    """Why a response failed, in the standard's few codes; ours is `response.ragsocket.code`."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class ResponseFailed(TypedDict):
    """Terminal: the answer could not be produced; the text so far is kept."""

    type: Literal["response.failed"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response


class ResponseInProgress(TypedDict):
    """The response is being worked on."""

    type: Literal["response.in_progress"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response


class ResponseIncomplete(TypedDict):
    """Terminal: the answer ends at its cut, or the model stopped early."""

    type: Literal["response.incomplete"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response


class ResponseQueued(TypedDict):
    """The response waits for its lane or its conversation."""

    type: Literal["response.queued"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    response: Response


class SearchResult(TypedDict):
    """A retrieved passage. `[n]` in the answer means the n-th result."""

    file_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, str | float | bool]


class Steer(TypedDict):
    """A steering that was accepted."""

    id: str
    previous_response_id: str


class SteerAccepted(TypedDict):
    """The response ends here, and the input is answered in its place."""

    type: Literal["response.steer.accepted"]
    stream_id: NotRequired[str | None]
    sequence_number: int
    steer: Steer


class SteerError(TypedDict):
    """Why a steering came to nothing."""

    type: Literal["invalid_request_error"]
    code: str
    message: str


class SteerFailed(TypedDict):
    """The input of a steering is handed back, for nothing answers it."""

    type: Literal["response.steer.failed"]
    event_id: NotRequired[str | None]
    stream_id: NotRequired[str | None]
    sequence_number: int
    error: SteerError
    steer: RefusedSteer


class SummaryText(TypedDict):
    """A summary of what the model thought; this server makes none."""

    type: Literal["summary_text"]
    text: str


class TextConfig(TypedDict):
    """Settings of the answer's text; `verbosity` is passed on to the model."""

    format: PlainFormat | JsonObjectFormat | JsonSchemaFormat
    verbosity: NotRequired[Literal["low", "medium", "high"] | None]


class Usage(TypedDict):
    """Token counts. `response.ragsocket.usage_estimated` says whose count it is."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class AskFields(TypedDict, total=False):
    """What an ask may say as well."""

    generate: bool | None
    model: str | None
    instructions: str | None
    previous_response_id: str | None
    store: bool | None
    background: bool | None
    include: list[Any] | None
    tools: list[Any] | None
    tool_choice: Literal["auto", "none", "required"] | Mapping[str, Any]
    parallel_tool_calls: bool | None
    max_tool_calls: int | None
    retrieval: Mapping[str, Any]
    sampling: Mapping[str, Any]
    temperature: float | None
    top_p: float | None
    max_output_tokens: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    text: Mapping[str, Any]
    reasoning: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    truncation: Literal["auto", "disabled"]
    stream_options: Any
    user: str | None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    )
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_options: Any
    prompt_cache_retention: Any


ServerEvent = (
    ResponseCreated
    | ResponseQueued
    | ResponseInProgress
    | OutputItemAdded
    | FileSearchInProgress
    | FileSearchSearching
    | FileSearchCompleted
    | ContentPartAdded
    | OutputTextDelta
    | AnnotationAdded
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | CallArgumentsDelta
    | CallArgumentsDone
    | ContentPartDone
    | OutputItemDone
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | SteerAccepted
    | SteerFailed
    | Error
    | Hello
    | CancelDone
    | Pong
)


CLOSE_CODES: Mapping[int, Close] = {
    1000: Close("the client closed the socket", retry=False, resume=True),
    1002: Close("the WebSocket protocol was broken", retry=False, resume=True),
    1007: Close("a text frame was not UTF-8", retry=False, resume=True),
    1009: Close("a frame was larger than the limit", retry=False, resume=True),
    1011: Close(
        "a fault of this server, or a peer that stopped answering pings", retry=True, resume=True
    ),
    1012: Close("the server restarts", retry=True, resume=True),
    4400: Close("too many malformed frames within a minute", retry=False, resume=False),
    4403: Close("the page's origin or the host name is not allowed", retry=False, resume=False),
    4460: Close("the client read too slowly", retry=True, resume=True),
}


RETRYABLE = frozenset(
    [
        "embedding_unavailable",
        "engine_not_ready",
        "history_unavailable",
        "internal_error",
        "server_shutting_down",
        "too_many_files",
        "too_many_responses",
        "upstream_failed",
        "upstream_interrupted",
        "upstream_rate_limited",
        "upstream_timeout",
        "upstream_unavailable",
    ]
)
