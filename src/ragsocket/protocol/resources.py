"""Resources on the wire: items, sources, usage, and the Response itself.

The shapes are those of the Responses API, as the `openai` package carries them; what is ours
stands in the extra field `ragsocket`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Base of every shape: unknown fields are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileCitation(Wire):
    """A mark in the text that names a retrieved file.

    `index` counts Unicode code points from the start of the text to the end of the mark.
    """

    type: Literal["file_citation"] = "file_citation"
    file_id: str
    filename: str
    index: int


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
    score: float
    text: str
    attributes: dict[str, str | float | bool] = {}


class FileSearchCall(Wire):
    """One search of the documents; `results` are there when the creator asked for them."""

    type: Literal["file_search_call"] = "file_search_call"
    id: str
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"]
    queries: tuple[str, ...]
    results: tuple[SearchResult, ...] | None = None


OutputItem = Annotated[OutputMessage | FileSearchCall, Field(discriminator="type")]


class InputTokensDetails(Wire):
    """What of the input came from caches; this server does not know, so zero."""

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


class TextFormat(Wire):
    """The format of the answer's text."""

    type: Literal["text"] = "text"


class TextConfig(Wire):
    """Settings of the answer's text."""

    format: TextFormat = TextFormat()


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Reason = Literal[
    "completed",
    "cancelled",
    "client_lost",
    "shutdown",
    "worker_lost",
    "max_output_tokens",
    "content_filter",
    "failed",
]


class Facts(Wire):
    """What this server adds to a Response.

    Attributes:
        reason: why it ended; None while it runs.
        code: error code of a failure.
        reference: id under which the log knows the failure.
        resumable: whether its events can be replayed.
        index_revision: revision of the documents it was answered from.
        retrieval_ms: time spent searching, milliseconds.
        ttft_ms: from acceptance to the first text, milliseconds.
        total_ms: from acceptance to the end, milliseconds.
        usage_estimated: True if the token counts are this server's own.
    """

    reason: Reason | None = None
    code: str | None = None
    reference: str | None = None
    resumable: bool = True
    index_revision: int | None = None
    retrieval_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    usage_estimated: bool | None = None


class FileSearchTool(Wire):
    """The tool that searches the documents."""

    type: Literal["file_search"] = "file_search"
    vector_store_ids: tuple[str, ...] = ()
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None


class Response(Wire):
    """One answer and everything done for it."""

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
    reasoning: None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool = True
    temperature: float | None = None
    text: TextConfig = TextConfig()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    tools: tuple[FileSearchTool, ...] = ()
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] = "auto"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}
    ragsocket: Facts = Facts()


class InputText(Wire):
    """A text part of an input message."""

    type: Literal["input_text", "output_text", "text"] = "input_text"
    text: str
    annotations: Annotated[Any, Field(exclude=True)] = None
    logprobs: Annotated[Any, Field(exclude=True)] = None


class InputMessage(Wire):
    """A message handed in; an answer's own item may be handed back as it came."""

    type: Literal["message"] = "message"
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | tuple[InputText, ...]

    def plain(self) -> str:
        """Return the text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)
