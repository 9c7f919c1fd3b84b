"""What the bytes of a streamed chat completion say, and what can go wrong with them. Pure.

Per token there is one slice, one typed JSON parse and one list append.
"""

from __future__ import annotations

import logging

import msgspec

from ragsocket.engine.base import Usage
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


def upstream_error(code: str) -> EngineError:
    """The error of that code, with its fixed sentence."""
    message, retryable = UPSTREAM_ERRORS[code]
    return EngineError(code, message, retryable=retryable)


def log_upstream(what: str, said: bytes | str, key: str | None = None) -> None:
    """Put what the server said into the log, shortened, and without the key."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    if key:
        text = text.replace(key, "***")
    logger.warning("the model's server %s: %s", what, text[:LOGGED_CHARS])


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Tokens(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


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


class ChunkReader:
    """What the bytes of one chat completion say. Pure: it does no reading.

    Args:
        key: what must not get into the log, should the server repeat it.

    Attributes:
        usage: the token counts, once the model sent them.
        finish_reason: why the model stopped, once it did.
        done: True after `[DONE]`.
        failure: what ended the answer early, if the stream itself says so or is undecodable.
        alive: True if the last `feed` held text or reasoning.
    """

    __slots__ = ("_events", "_key", "alive", "done", "failure", "finish_reason", "usage")

    def __init__(self, key: str | None = None) -> None:
        self._events = EventSplitter()
        self._key = key
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.failure: EngineError | None = None
        self.alive = False

    def feed(self, data: bytes) -> tuple[str, int]:
        """The text in `data`, joined, and how many chunks it came in. Empty data is the end."""
        self.alive = False
        try:
            events = self._events.feed(data) if data else self._events.end()
        except ValueError:
            return self._garbage(data), 0
        texts = []
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
                        texts.append(delta.content)
                    elif delta.reasoning_content or delta.reasoning:
                        self.alive = True
                if choice.finish_reason is not None:
                    self.finish_reason = choice.finish_reason
            if chunk.usage is not None:
                self.usage = Usage(
                    chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0, False
                )
            if chunk.error != _NO_ERROR:
                log_upstream("sent an error in its stream", bytes(chunk.error), self._key)
                self.failure = upstream_error("upstream_failed")
                break
        if texts:
            self.alive = True
        return "".join(texts), len(texts)

    def _garbage(self, event: bytes) -> str:
        log_upstream("sent a chunk that cannot be decoded", event, self._key)
        self.failure = upstream_error("upstream_garbage")
        return ""
