"""What clients say: one JSON object per text frame.

Every field of `response.create` is in one of three classes. *Honoured* fields shape the answer.
*Hints* are accepted, echoed where the Response has a place for them, and change nothing.
*Refused* fields would change the answer in a way this server cannot give, so naming one is an
error that says so, never a silent difference.

Over 400 lines because the fields, their classes and the rules between them are one table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode, not_supported
from ragsocket.protocol.input_items import (
    FunctionCallOutput,
    InputItem,
    InputMessage,
    tidy,
)
from ragsocket.protocol.resources import (
    AllowedTools,
    ConversationRef,
    FileFilter,
    FileSearchChoice,
    FileSearchTool,
    Flag,
    FunctionChoice,
    FunctionTool,
    Metadata,
    ReasoningConfig,
    TextConfig,
    Tool,
    ToolChoice,
    Wire,
)

EventId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
StreamId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
ResourceId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
HINT: JsonDict = {"field_class": "hint"}

REFUSED: dict[str, str] = {
    "access_programs": "this server has no access programs",
    "background_options": "a background answer is begun at once",
    "context_management": "history is trimmed to the prompt budget, oldest turns first",
    "image": "answers are text",
    "moderation": "this server does not moderate",
    "prompt": "there are no stored prompts; send instructions",
    "top_logprobs": "log probabilities are not passed on",
}
"""Fields that are refused by name, with the reason that the error gives."""

INCLUDED = {
    "file_search_call.results": "puts the passages into the search item",
    "message.input_image.image_url": "has no effect: input items always hold it",
    "reasoning.encrypted_content": "has no effect: reasoning goes out as it is",
}
"""Values that `include` takes, and what each does."""

TOOL_TYPES = ("file_search", "function")

TOOL_REFUSED = {
    "ranking_options": "retrieval.rerank says how passages are ranked",
}
"""Members of a tool that are refused by name, with the reason."""


StopText = Annotated[str, Field(min_length=1)]
StopTexts = Annotated[tuple[StopText, ...], Field(max_length=4)]


class RetrievalOptions(Wire):
    """How to search for one question (an extra of this server)."""

    similarity_top_k: Annotated[int, Field(strict=True, ge=1, le=50)] | None = Field(
        None, description="Passages to use."
    )
    mode: Literal["hybrid", "dense", "sparse", "none"] = Field(
        "hybrid", description="Which indexes to ask; `none` answers from the conversation alone."
    )
    response_mode: Literal["compact", "refine", "tree_summarize", "no_text"] = Field(
        "compact", description="How the answer is made of the passages."
    )
    filters: FileFilter | None = Field(
        None,
        description="Which files may be found, beside what the tool's `filters` say; see Filters.",
    )
    query: Literal["turns", "last", "model"] | None = Field(
        None,
        description="What is searched for: the last three user turns, the `last` one alone, or for "
        "a follow-up what the `model` makes of the conversation. None is the operator's choice.",
    )
    rerank: Flag | None = Field(
        None,
        description="`false`: the search's own order; `true`: the reranker's, refused where there "
        "is none. None is the reranker's if there is one.",
    )


class SamplingOptions(Wire):
    """What chat completions can tell a model and the Responses API cannot (an extra)."""

    stop: StopTexts = Field(
        (), description="Texts at which the model stops, without saying them; four at most."
    )
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | None = Field(
        None, description="The same seed makes the same answer likely."
    )


class ResponseCreate(Wire):
    """Ask: queue a response on a lane."""

    type: Literal["response.create"] = Field("response.create", description="The event's type.")
    event_id: EventId | None = Field(
        None, description="Echoed on `response.created` and `error`; names the ask for a cancel."
    )
    stream_id: StreamId | None = Field(None, description="The lane; none is the default lane.")
    generate: Flag | None = Field(
        None,
        description="`false`: prepare, without an answer; the next one goes on from here. `input` "
        "may be anything then, or missing.",
    )
    input: str | tuple[InputItem, ...] = Field(
        description="The question, or items of which the last is the user's message, or what a "
        "function gave.",
        examples=["When are dogs allowed in the huts?"],
    )
    model: str | None = Field(None, description="Model to use; none is the default.")
    instructions: str | None = Field(None, description="Extra instructions for this answer.")
    previous_response_id: ResourceId | None = Field(None, description="The response to go on from.")
    conversation: ResourceId | ConversationRef | None = Field(
        None, description="The conversation to go on with; its head moves to this response."
    )
    from_start: Flag | None = Field(
        None,
        description="`true`: answered as the first question of its conversation, whose head moves "
        "here; nothing before it is told to the model (an extra).",
    )
    store: Flag | None = Field(
        None,
        description="`false`: nothing of it is written to disk. It can be gone on from on its own "
        "connection, by answers that are not stored either; it belongs to no conversation.",
    )
    background: Flag | None = Field(
        None,
        description="`true`: the answer goes on without a follower for as long as it takes. Over "
        "HTTP without `stream` it is returned as soon as it exists.",
    )
    include: tuple[str, ...] | None = Field(
        None, description="; ".join(f"`{value}` {does}" for value, does in INCLUDED.items()) + "."
    )
    tools: tuple[Tool, ...] | None = Field(
        None,
        description="`function`: the model may call it. `file_search`, or no `tools` at all: "
        "search. An empty list, or functions alone: do not.",
    )
    tool_choice: ToolChoice = Field(
        "auto",
        description="`none`: no function, no search. `required`: a search, whatever the question "
        "looks like, or else a function. One tool, or `allowed_tools`: those alone.",
    )
    parallel_tool_calls: Flag | None = Field(
        None, description="`false`: at most one function call in an answer."
    )
    max_tool_calls: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Kept, since an answer makes at most one search; functions do not count."
    )
    retrieval: RetrievalOptions = Field(
        RetrievalOptions(), description="How to search (an extra of this server)."
    )
    sampling: SamplingOptions = Field(
        SamplingOptions(), description="More that is passed on to the model (an extra)."
    )
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = Field(
        None, description="Passed on to the model."
    )
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        None, description="Passed on to the model."
    )
    max_output_tokens: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Upper bound of generated tokens, reasoning included."
    )
    presence_penalty: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = Field(
        None, description="Passed on; above zero, words that were said are said less."
    )
    frequency_penalty: Annotated[float, Field(strict=True, ge=-2, le=2)] | None = Field(
        None, description="Passed on; above zero, words that were said often are said less."
    )
    text: TextConfig = Field(
        TextConfig(),
        description="`format`: `text`, `json_object` or `json_schema`; it and `verbosity` are "
        "passed on to the model.",
    )
    reasoning: ReasoningConfig | None = Field(
        None, description="`effort` is passed on to the model; `summary` has no effect."
    )
    metadata: Metadata | None = Field(None, description="Up to 16 pairs, kept with the response.")
    truncation: Literal["auto", "disabled"] = Field(
        "auto",
        description="`auto`: the oldest turns that do not fit the prompt are left out. "
        "`disabled`: the response fails instead.",
    )
    stream: Literal[True] | None = Field(
        None, description="Sockets always stream.", json_schema_extra=HINT
    )
    stream_options: Any = Field(None, description="No effect.", json_schema_extra=HINT)
    user: str | None = Field(None, description="Echoed.", json_schema_extra=HINT)
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = Field(None, description="Echoed.", json_schema_extra=HINT)
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
                raise not_supported(name, reason)
            data = {key: kept for key, kept in data.items() if kept is not None}
            if data.get("generate") is False:
                data.setdefault("input", ())
            if "input" in data:
                data["input"] = tidy(data["input"])
            for index, tool in enumerate(_listed(data.get("tools"))):
                _known_tool(tool, f"tools[{index}]")
            for value in _listed(data.get("include")):
                known_include(value)
        return data

    @field_validator("input")
    @classmethod
    def _asks_for_something(
        cls, value: str | tuple[InputItem, ...], info: ValidationInfo
    ) -> str | tuple[InputItem, ...]:
        if info.data.get("generate") is False:
            return value
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("the input is empty; send the question as text")
            return value
        said = [
            item
            for item in value
            if not (isinstance(item, InputMessage) and item.role in ("system", "developer"))
        ]
        last = said[-1] if said else None
        if isinstance(last, FunctionCallOutput):
            return value
        if not isinstance(last, InputMessage) or last.role != "user":
            raise ValueError("it must end with a message of the user or a function_call_output")
        if not last.plain().strip() and not last.images:
            raise ValueError("the last message of the user must hold text or a picture")
        return value

    @model_validator(mode="after")
    def _tools_fit(self) -> ResponseCreate:
        names = [tool.name for tool in self.tools or () if isinstance(tool, FunctionTool)]
        if len(set(names)) < len(names):
            raise _wrong("tools", "two functions have the same name")
        choice = self.tool_choice
        allowed = choice.tools if isinstance(choice, AllowedTools) else (choice,)
        for one in allowed:
            if isinstance(one, FunctionChoice) and one.name not in names:
                raise _wrong("tool_choice", f"there is no function {one.name!r} among the tools")
            if isinstance(one, FileSearchChoice) and not self._offers_search:
                raise _wrong("tool_choice", "file_search is not among the tools")
        if choice == "required" and not names and not self._offers_search:
            raise _wrong("tool_choice", "required needs a tool")
        if self.functions and self.retrieval.response_mode != "compact":
            raise _wrong("retrieval.response_mode", "functions need the mode compact")
        return self

    @model_validator(mode="after")
    def _one_place_to_go_on_from(self) -> ResponseCreate:
        if self.from_start and self.previous_response_id is not None:
            raise _wrong("from_start", "previous_response_id is something before; leave one out")
        return self

    @model_validator(mode="after")
    def _what_is_not_stored_is_nobody_elses(self) -> ResponseCreate:
        if self.store is False and self.conversation is not None:
            raise _wrong("store", "what is part of a conversation is stored; name none, or store")
        if self.store is False and self.background:
            raise _wrong("store", "what goes on in the background is stored; leave one of them out")
        return self

    @property
    def conversation_id(self) -> str | None:
        """The conversation named, whichever of the two forms was used."""
        if isinstance(self.conversation, ConversationRef):
            return self.conversation.id
        return self.conversation

    @property
    def functions(self) -> tuple[FunctionTool, ...]:
        """The functions that this answer may call."""
        choice = self.tool_choice
        named = None
        if isinstance(choice, FunctionChoice):
            named = {choice.name}
        elif isinstance(choice, AllowedTools):
            named = {one.name for one in choice.tools if isinstance(one, FunctionChoice)}
        elif choice == "none" or isinstance(choice, FileSearchChoice):
            named = set()
        return tuple(
            tool
            for tool in self.tools or ()
            if isinstance(tool, FunctionTool) and (named is None or tool.name in named)
        )

    @property
    def searches(self) -> bool:
        """True if this ask wants the documents searched."""
        choice = self.tool_choice
        if choice == "none" or isinstance(choice, FunctionChoice):
            return False
        if isinstance(choice, AllowedTools):
            allowed = any(isinstance(one, FileSearchChoice) for one in choice.tools)
        else:
            allowed = True
        asks = isinstance(self.input, str) or any(
            isinstance(item, InputMessage) and item.role == "user" for item in self.input
        )
        return allowed and asks and self._offers_search and self.retrieval.mode != "none"

    @property
    def insists(self) -> bool:
        """True if one of the tools must be used: the search, or else a function."""
        choice = self.tool_choice
        if isinstance(choice, AllowedTools):
            return choice.mode == "required"
        return choice == "required" or isinstance(choice, FunctionChoice | FileSearchChoice)

    @property
    def file_search(self) -> FileSearchTool | None:
        """The search tool that was named, if one was."""
        return next((tool for tool in self.tools or () if isinstance(tool, FileSearchTool)), None)

    @property
    def _offers_search(self) -> bool:
        return self.tools is None or self.file_search is not None


def _wrong(param: str, why: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_EVENT, f"{param}: {why}.", param=param)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _known_tool(tool: Any, path: str) -> None:
    if not isinstance(tool, dict):
        return
    kind = tool.get("type")
    if isinstance(kind, str) and kind not in TOOL_TYPES:
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            f"{path} of type {kind[:64]!r} is not supported; tools are {' and '.join(TOOL_TYPES)}.",
            param=path,
        )
    for name, reason in TOOL_REFUSED.items():
        if tool.get(name) is not None:
            raise not_supported(f"{path}.{name}", reason)


def known_include(value: Any) -> None:
    """Refuse a value of `include` that this server does not know.

    Raises:
        RequestError: it is none of `INCLUDED`.
    """
    if isinstance(value, str) and value not in INCLUDED:
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            f"include: {value[:64]!r} is not supported; it takes {', '.join(INCLUDED)}.",
            param="include",
        )


def _is_default(name: str, value: object) -> bool:
    """True for a refused field that asks for just what happens anyway."""
    return (name, value) == ("top_logprobs", 0)


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
    after: Annotated[int, Field(strict=True, ge=-1)] | None = Field(
        None, description="The last sequence_number that was shown; the answer ends there."
    )

    @model_validator(mode="after")
    def _one_target(self) -> ResponseCancel:
        named = [self.response_id, self.create_event_id, self.stream_id]
        if sum(name is not None for name in named) > 1:
            raise ValueError("name one of response_id, create_event_id, stream_id, or none of them")
        return self


class ResponseSteer(Wire):
    """Stop a response where it is, and answer this in its place."""

    type: Literal["response.steer"] = Field("response.steer", description="The event's type.")
    event_id: EventId | None = Field(
        None, description="Echoed on the successor's `response.created` and on a failure."
    )
    previous_response_id: ResourceId = Field(description="The response to stop.")
    input: str | tuple[InputMessage, ...] = Field(
        description="What to answer: text, or messages of the user."
    )

    @field_validator("input", mode="before")
    @classmethod
    def _tidy(cls, value: Any) -> Any:
        return tidy(value)

    @field_validator("input")
    @classmethod
    def _is_the_users(cls, value: str | tuple[InputMessage, ...]) -> str | tuple[InputMessage, ...]:
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("the input is empty; send the question as text")
        elif not value or any(
            item.role != "user" or not (item.plain().strip() or item.images) for item in value
        ):
            raise ValueError("it must be messages of the user that hold text or a picture")
        return value


class ResponseResume(Wire):
    """Follow a response, from any connection: what is missed first, then live."""

    type: Literal["response.resume"] = Field("response.resume", description="The event's type.")
    event_id: EventId | None = Field(None, description="Echoed on an error about this event.")
    response_id: ResourceId = Field(description="The response to follow.")
    starting_after: Annotated[int, Field(strict=True, ge=-1)] | None = Field(
        None, description="The last sequence_number that was seen; none begins at the start."
    )


class Ping(Wire):
    """A heartbeat that browsers can send; answered at once by `ragsocket:pong`."""

    type: Literal["ragsocket:ping"] = Field("ragsocket:ping", description="The event's type.")
    event_id: EventId | None = Field(None, description="Echoed on the pong.")


AnyClientEvent = ResponseCreate | ResponseCancel | ResponseSteer | ResponseResume | Ping
CLIENT_EVENT: TypeAdapter[AnyClientEvent] = TypeAdapter(
    Annotated[AnyClientEvent, Field(discriminator="type")]
)
CLIENT_EVENT_TYPES = (
    "response.create",
    "response.cancel",
    "response.steer",
    "response.resume",
    "ragsocket:ping",
)


class Envelope(Wire):
    """What can be read of an event that is not valid, so that its error finds its sender."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    event_id: str | None = None
    stream_id: str | None = None
    previous_response_id: Any = None


ENVELOPE: TypeAdapter[Envelope] = TypeAdapter(Envelope)
