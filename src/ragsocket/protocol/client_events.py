"""What clients say: one JSON object per text frame.

Every field of `response.create` is in one of three classes. *Honoured* fields shape the answer.
*Hints* are accepted, echoed where the Response has a place for them, and change nothing.
*Refused* fields would change the answer in a way this server cannot give, so naming one is an
error that says so, never a silent difference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.resources import ConversationRef, FileSearchTool, InputMessage, Wire

EventId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
StreamId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
ResourceId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
HINT: JsonDict = {"field_class": "hint"}

REFUSED: dict[str, str] = {
    "access_programs": "this server has no access programs",
    "background": "an answer outlives a lost socket by the grace period, and no longer",
    "background_options": "an answer outlives a lost socket by the grace period, and no longer",
    "context_management": "history is trimmed to the prompt budget, oldest turns first",
    "generate": "every response.create is answered",
    "image": "answers are text",
    "max_tool_calls": "an answer makes at most one search",
    "moderation": "this server does not moderate",
    "prompt": "there are no stored prompts; send instructions",
    "reasoning": "reasoning settings are not passed on",
    "store": "every response is stored",
    "text": "answers are plain text",
    "top_logprobs": "log probabilities are not passed on",
}
"""Fields that are refused by name, with the reason that the error gives."""


class RetrievalOptions(Wire):
    """How to search for one question (an extra of this server)."""

    similarity_top_k: Annotated[int, Field(ge=1, le=50)] | None = Field(
        None, description="Passages to use."
    )
    mode: Literal["hybrid", "dense", "sparse", "none"] = Field(
        "hybrid", description="Which indexes to ask; `none` answers from the conversation alone."
    )
    response_mode: Literal["compact", "refine", "tree_summarize", "no_text"] = Field(
        "compact", description="How the answer is made of the passages."
    )


class ResponseCreate(Wire):
    """Ask: queue a response on a lane."""

    type: Literal["response.create"] = Field("response.create", description="The event's type.")
    event_id: EventId | None = Field(
        None, description="Echoed on `response.created` and `error`; names the ask for a cancel."
    )
    stream_id: StreamId | None = Field(None, description="The lane; none is the default lane.")
    input: str | tuple[InputMessage, ...] = Field(
        description="The question, or messages of which the last is the user's."
    )
    model: str | None = Field(None, description="Model to use; none is the default.")
    instructions: str | None = Field(None, description="Extra instructions for this answer.")
    previous_response_id: ResourceId | None = Field(None, description="The response to go on from.")
    conversation: ResourceId | ConversationRef | None = Field(
        None, description="The conversation to go on with; its head moves to this response."
    )
    include: tuple[str, ...] | None = Field(
        None,
        description="`file_search_call.results` puts the passages into the search item; "
        "other values have no effect.",
    )
    tools: tuple[FileSearchTool, ...] | None = Field(
        None, description="Absent or listing `file_search`: search. An empty list: do not."
    )
    tool_choice: Literal["auto", "none", "required"] = Field(
        "auto", description="`none` answers without searching."
    )
    retrieval: RetrievalOptions = Field(
        RetrievalOptions(), description="How to search (an extra of this server)."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Passed on to the model."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Passed on to the model."
    )
    max_output_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Upper bound of generated tokens."
    )
    metadata: dict[str, str] | None = Field(
        None, description="Up to 16 pairs, kept with the response."
    )
    truncation: Literal["auto"] = Field(
        "auto", description="The oldest turns that do not fit the prompt are left out."
    )
    stream: Literal[True] | None = Field(
        None, description="Sockets always stream.", json_schema_extra=HINT
    )
    stream_options: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    parallel_tool_calls: bool | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    user: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    service_tier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    safety_identifier: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_key: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    prompt_cache_options: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    prompt_cache_retention: Any = Field(None, description="No effect.", json_schema_extra=HINT)

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, reason in REFUSED.items():
                value = data.get(name)
                if value is None or _is_default(name, value):
                    data = {key: kept for key, kept in data.items() if key != name}
                    continue
                raise RequestError(
                    ErrorCode.UNSUPPORTED_PARAMETER,
                    f"{name} is not supported: {reason}. Leave it out.",
                    param=name,
                )
            tools = data.get("tools")
            for index, tool in enumerate(tools if isinstance(tools, list | tuple) else ()):
                kind = tool.get("type") if isinstance(tool, dict) else None
                if isinstance(kind, str) and kind != "file_search":
                    raise RequestError(
                        ErrorCode.UNSUPPORTED_PARAMETER,
                        f"tools[{index}] of type {kind[:64]!r} is not supported; "
                        "the only tool is file_search.",
                        param=f"tools[{index}]",
                    )
        return data

    @field_validator("input")
    @classmethod
    def _ends_with_a_question(
        cls, value: str | tuple[InputMessage, ...]
    ) -> str | tuple[InputMessage, ...]:
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("the input is empty; send the question as text")
            return value
        if not value or value[-1].role != "user" or not value[-1].plain().strip():
            raise ValueError("the last input message must be the user's and hold text")
        return value

    @field_validator("metadata")
    @classmethod
    def _small_metadata(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and (
            len(value) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in value.items())
        ):
            raise ValueError("at most 16 pairs, keys of 64 and values of 512 characters")
        return value

    @property
    def conversation_id(self) -> str | None:
        """The conversation named, whichever of the two forms was used."""
        if isinstance(self.conversation, ConversationRef):
            return self.conversation.id
        return self.conversation

    @property
    def searches(self) -> bool:
        """True if this ask wants the documents searched."""
        return (
            self.tool_choice != "none"
            and self.retrieval.mode != "none"
            and (self.tools is None or len(self.tools) > 0)
        )


def _is_default(name: str, value: object) -> bool:
    """True for a refused field that asks for just what happens anyway."""
    return (name, value) in (("store", True), ("generate", True), ("background", False)) or (
        name == "text" and value in ({}, {"format": {"type": "text"}})
    )


class ResponseCancel(Wire):
    """Stop: one response, one ask not yet named, or everything unfinished of a lane."""

    type: Literal["response.cancel"] = Field("response.cancel", description="The event's type.")
    event_id: EventId | None = Field(None, description="Echoed on the answer to this event.")
    response_id: ResourceId | None = Field(None, description="The response to stop.")
    create_event_id: EventId | None = Field(
        None, description="`event_id` of the `response.create` to stop."
    )
    stream_id: StreamId | None = Field(
        None,
        description="Stop everything unfinished of this lane; with nothing named, of the "
        "default lane.",
    )
    after: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="The last sequence_number that was shown; the answer ends there."
    )

    @model_validator(mode="after")
    def _one_target(self) -> ResponseCancel:
        named = [self.response_id, self.create_event_id, self.stream_id]
        if sum(name is not None for name in named) > 1:
            raise ValueError("name one of response_id, create_event_id, stream_id, or none of them")
        return self


class ResponseResume(Wire):
    """Follow a response, from any connection: what is missed first, then live."""

    type: Literal["response.resume"] = Field("response.resume", description="The event's type.")
    event_id: EventId | None = Field(None, description="Echoed on an error about this event.")
    response_id: ResourceId = Field(description="The response to follow.")
    starting_after: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="The last sequence_number that was seen; none begins at the start."
    )


class Ping(Wire):
    """A heartbeat that browsers can send; answered at once by `ragsocket:pong`."""

    type: Literal["ragsocket:ping"] = Field("ragsocket:ping", description="The event's type.")
    event_id: EventId | None = Field(None, description="Echoed on the pong.")


AnyClientEvent = ResponseCreate | ResponseCancel | ResponseResume | Ping
CLIENT_EVENT: TypeAdapter[AnyClientEvent] = TypeAdapter(
    Annotated[AnyClientEvent, Field(discriminator="type")]
)
CLIENT_EVENT_TYPES = ("response.create", "response.cancel", "response.resume", "ragsocket:ping")


class Envelope(Wire):
    """What can be read of an event that is not valid, so that its error finds its sender."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    event_id: str | None = None
    stream_id: str | None = None


ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)
