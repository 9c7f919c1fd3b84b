"""What the bytes of a streamed chat completion say, and what can go wrong with them. Pure.

Per token there is one slice, one typed JSON parse and one list append.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

import msgspec

from ragsocket.engine.base import (
    CallArguments,
    CallBegun,
    ModelDelta,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from ragsocket.errors import EngineError

logger = logging.getLogger("ragsocket.engine")

MAX_EVENT_BYTES = 4 * 1024 * 1024
LOGGED_CHARS = 500


UPSTREAM_ERRORS: dict[str, tuple[str, bool]] = {
    "upstream_unauthorized": ("The model's server refused our credentials.", False),
    "upstream_model_not_found": ("The model's server does not know this model.", False),
    "upstream_rate_limited": ("The model's server is asked too often; try again later.", True),
    "upstream_rejected": ("The model's server rejected the request.", False),
    "upstream_unavailable": ("The model's server cannot be reached.", True),
    "upstream_timeout": ("The model's server did not answer in time.", True),
    "upstream_interrupted": ("The model's answer broke off.", True),
    "upstream_garbage": ("The model's server sent something that cannot be read.", False),
    "upstream_failed": ("The model failed while it answered.", True),
}
"""By code: the sentence for the client, and whether asking again may help."""


def upstream_error(code: str, *, retry_after_s: float | None = None) -> EngineError:
    """The error of that code, with its fixed sentence."""
    message, retryable = UPSTREAM_ERRORS[code]
    return EngineError(code, message, retryable=retryable, retry_after_s=retry_after_s)


def log_upstream(what: str, said: bytes | str, key: str | None = None) -> None:
    """Put what the server said into the log, shortened, and without the key."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    if key:
        text = text.replace(key, "***")
    logger.warning("the model's server %s: %s", what, text[:LOGGED_CHARS])


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Tokens(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def usage(self) -> Usage:
        asked, said = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens or 0,
            self.completion_tokens or 0,
            estimated=False,
            cached_tokens=(asked.cached_tokens or 0) if asked else 0,
            reasoning_tokens=(said.reasoning_tokens or 0) if said else 0,
        )


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Tokens | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Chunk).decode
_NO_ERROR = msgspec.Raw(b"null")


class EventSplitter:
    """Cuts a byte stream into the data of its server-sent events, whatever the reads are.

    The format is `text/event-stream` of the WHATWG HTML standard.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now; a leading space may still be there.

        Raises:
            ValueError: one event is larger than 4 MiB.
        """
        if self._rest:
            data = self._rest + data
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                # The other half of a \r\n may be in the next read.
                data, held = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, found, rest = data.rpartition(b"\n\n")
        self._rest = rest + held
        if len(rest) > MAX_EVENT_BYTES:
            raise ValueError("an event without end")
        if not found:
            return []
        events = []
        for event in whole.split(b"\n\n"):
            if event[:5] == b"data:" and b"\n" not in event:
                events.append(event[5:])
            else:
                lines = event.removeprefix(b"\xef\xbb\xbf").split(b"\n")
                if values := [line[5:] for line in lines if line.startswith(b"data:")]:
                    events.append(b"\n".join(values))
        return events

    def end(self) -> list[bytes]:
        """The data of a last event that lacks its empty line."""
        return self.feed(b"\n\n\n")


class CallReader:
    """The function calls among the chunks of one chat completion. Pure.

    Servers differ: a call comes in pieces or at once, with an index or without, and its id on
    every piece or on the first. What the next piece belongs to is told by both.

    Args:
        only_one: whether calls after the first are left out.
    """

    __slots__ = ("_begun", "_id", "_index", "_only_one")

    def __init__(self, *, only_one: bool = False) -> None:
        self._only_one = only_one
        self._begun = 0
        self._index = -1
        self._id: str | None = None

    def feed(self, pieces: Sequence[_ToolCall]) -> list[CallBegun | CallArguments]:
        """Return what pieces say.

        Raises:
            ValueError: a piece belongs to no call, or to one that another one followed.
        """
        said: list[CallBegun | CallArguments] = []
        for piece in pieces:
            function = piece.function or _Function()
            index = max(self._index, 0) if piece.index is None else piece.index
            if index < self._index:
                raise ValueError("calls are mixed")
            other = piece.id and self._id and piece.id != self._id
            begins = index > self._index or other or (piece.index is None and function.name)
            if begins:
                if not function.name:
                    raise ValueError("a call without a name")
                self._index, self._id = index, piece.id
                self._begun += 1
            if self._only_one and self._begun > 1:
                continue
            if begins and function.name:
                said.append(CallBegun(piece.id or f"call_{secrets.token_hex(12)}", function.name))
            if function.arguments:
                said.append(CallArguments(function.arguments))
        return said


class ChunkReader:
    """What the bytes of one chat completion say. Pure: it does no reading.

    Args:
        key: what must not get into the log, should the server repeat it.
        only_one_call: whether function calls after the first are left out.

    Attributes:
        usage: the token counts, once the model sent them.
        finish_reason: why the model stopped, once it did.
        done: True after `[DONE]`.
        failure: what ended the answer early, if the stream itself says so or is undecodable.
    """

    __slots__ = ("_calls", "_events", "_key", "done", "failure", "finish_reason", "usage")

    def __init__(self, key: str | None = None, *, only_one_call: bool = False) -> None:
        self._events = EventSplitter()
        self._calls = CallReader(only_one=only_one_call)
        self._key = key
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.failure: EngineError | None = None

    def feed(self, data: bytes) -> list[ModelDelta]:
        """What the model says in `data`; of one kind in a row, it is joined. Empty is the end."""
        said: list[ModelDelta] = []
        try:
            events = self._events.feed(data) if data else self._events.end()
        except ValueError:
            self._garbage(data)
            return said
        kind: _Kind = TextDelta
        texts: list[str] = []
        decode = _decode
        for event in events:
            try:
                chunk = decode(event)
            except ValueError:
                if event.strip() == b"[DONE]":
                    self.done = True
                elif data:
                    self._garbage(event)
                # A half event before the end of the body is a cut, not garbage.
                break
            if chunk.choices:
                choice = chunk.choices[0]
                if (delta := choice.delta) is not None:
                    if delta.content:
                        if kind is not TextDelta:
                            _say(said, kind, texts)
                            kind = TextDelta
                        texts.append(delta.content)
                    elif thought := delta.reasoning_content or delta.reasoning:
                        if kind is not ReasoningDelta:
                            _say(said, kind, texts)
                            kind = ReasoningDelta
                        texts.append(thought)
                    if delta.tool_calls:
                        if kind is not CallArguments:
                            _say(said, kind, texts)
                            kind = CallArguments
                        if not self._called(delta.tool_calls, said, texts):
                            self._garbage(event)
                            break
                if choice.finish_reason is not None:
                    self.finish_reason = choice.finish_reason
            if chunk.usage is not None:
                self.usage = chunk.usage.usage()
            if chunk.error != _NO_ERROR:
                log_upstream("sent an error in its stream", bytes(chunk.error), self._key)
                self.failure = upstream_error("upstream_failed")
                break
        _say(said, kind, texts)
        return said

    def _called(
        self, pieces: Sequence[_ToolCall], said: list[ModelDelta], texts: list[str]
    ) -> bool:
        """Take pieces of calls; False if they make no sense."""
        try:
            news = self._calls.feed(pieces)
        except ValueError:
            return False
        for new in news:
            if isinstance(new, CallArguments):
                texts.append(new.text)
            else:
                _say(said, CallArguments, texts)
                said.append(new)
        return True

    def _garbage(self, event: bytes) -> None:
        log_upstream("sent a chunk that cannot be decoded", event, self._key)
        self.failure = upstream_error("upstream_garbage")


_Kind = type[TextDelta] | type[ReasoningDelta] | type[CallArguments]


def _say(said: list[ModelDelta], kind: _Kind, texts: list[str]) -> None:
    """Join what was gathered to one delta, and gather anew."""
    if texts:
        said.append(kind("".join(texts), len(texts)))
        texts.clear()
