"""The model's tokens, from any OpenAI-compatible server, as lean as Python can read them.

Per token there is one slice, one typed JSON parse and one list append: no task, lock, timer,
model object. What came in one read of the socket becomes one `TextDelta`. A stop, by cancelling
the read or by closing the generator, closes the TCP connection at once, in every phase.
"""

from __future__ import annotations

import math
from asyncio import AbstractEventLoop, TimerHandle, get_running_loop
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec

from ragsocket.engine.base import (
    Call,
    Functions,
    Image,
    LimitReached,
    ModelEvent,
    Role,
    Sampling,
)
from ragsocket.engine.chat_body import chat_body
from ragsocket.engine.chat_chunks import LOGGED_CHARS, ChunkReader, log_upstream, upstream_error
from ragsocket.errors import ConfigError, EngineError

# After the model said that it is done: the usage chunk and the end of the body.
FAREWELL_S = 5.0
# Shorter than uvicorn's 5 s, so that we seldom write to a connection that is being closed.
KEEP_ALIVE_S = 4.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt.

    Attributes:
        role: who says it; `tool` is the output of a function.
        content: the text.
        images: pictures beside a user's text.
        calls: functions that an assistant called.
        call_id: of a tool, the call that this is the output of.
    """

    role: Role
    content: str
    images: Sequence[Image] = ()
    calls: Sequence[Call] = ()
    call_id: str | None = None


class TokenStream(Protocol):
    """A model that answers messages with a stream of text, reasoning and function calls."""

    @property
    def models(self) -> Sequence[str]:
        """Names that `stream` takes; the first is the default."""

    def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        """Ask the model, and yield what it says as it comes.

        The request leaves at the first `__anext__`. A cancel of that await, or `aclose()`,
        stops the model.

        Args:
            messages: the prompt, oldest first.
            model: one of `models`.
            sampling: passed on where given.
            functions: what the model may call.

        Raises:
            EngineError: the model could not be asked, or did not finish.
            RequestError: it cannot be told what it would have to be told.
        """

    async def aclose(self) -> None:
        """Close every connection; streams that still run end with an `EngineError`."""


class _Deadline:
    """Breaks a read that waits too long. One loop timer, set again only when it runs out."""

    __slots__ = ("_content", "_due", "_limit", "_loop", "_timer")

    def __init__(self, content: aiohttp.StreamReader, limit: float) -> None:
        self._loop: AbstractEventLoop = get_running_loop()
        self._content = content
        self._timer: TimerHandle | None = None
        self.restart(limit)

    def restart(self, limit: float) -> None:
        """Wait at most `limit` seconds, from now."""
        self.stop()
        self._limit = limit
        self._due = self._loop.time() + limit
        self._timer = self._loop.call_later(limit, self._look)

    def rest(self) -> None:
        """Nobody reads: our own time does not count."""
        self._due = math.inf

    def again(self) -> None:
        """A read begins."""
        self._due = self._loop.time() + self._limit

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        left = min(self._due - self._loop.time(), self._limit)
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._content.set_exception(TimeoutError())


class OpenAICompatible:
    """A `TokenStream` from a server that speaks `POST {url}/chat/completions`.

    Args:
        url: base URL, usually ending in `/v1`.
        models: names of its models; the first is the default.
        api_key: sent as bearer token.
        connect_timeout_s: to reach the server, TLS included.
        first_token_timeout_s: from the request to the first text or reasoning.
        token_timeout_s: from there on, between two of them.
        extra: more members of the request's body, which this server is known to understand.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(
        self,
        url: str,
        models: Sequence[str],
        *,
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
        first_token_timeout_s: float = 120.0,
        token_timeout_s: float = 60.0,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{url!r} is not the address of a model's server; "
                "write it as http://127.0.0.1:11434/v1."
            )
        if not models:
            raise ConfigError("a model's server needs at least one model name.")
        self.models: Sequence[str] = tuple(models)
        self._url = url.rstrip("/") + "/chat/completions"
        self._key = api_key
        # Nothing between the model and us may hold tokens back in order to compress them.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s
        )
        self._first_s = first_token_timeout_s
        self._between_s = token_timeout_s
        self._extra = dict(extra or {})
        self._session: aiohttp.ClientSession | None = None
        self._running: set[aiohttp.ClientResponse] = set()
        self._closed = False
        # Learned from refusals, per model, so that each is paid for once.
        self._without_usage: set[str] = set()
        self._renamed_limit: set[str] = set()

    async def aclose(self) -> None:
        """See `TokenStream.aclose`."""
        self._closed = True
        for response in tuple(self._running):
            _drop(response)
        if self._session is not None:
            await self._session.close()

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        sampling: Sampling,
        functions: Functions | None = None,
    ) -> AsyncGenerator[ModelEvent]:
        """See `TokenStream.stream`."""
        began = get_running_loop().time()
        response = await self._open(model, sampling, chat_body(messages, sampling, functions))
        content = response.content
        waited = get_running_loop().time() - began
        deadline = _Deadline(content, max(self._first_s - waited, 0.001))
        only_one = functions is not None and not functions.parallel
        reader = ChunkReader(self._key, only_one_call=only_one)
        whole = begun = False
        self._running.add(response)
        try:
            while True:
                try:
                    data = await content.readany()
                except (aiohttp.ClientError, OSError) as error:
                    # aiohttp raises before it hands out what came before the cut.
                    data = b"".join(getattr(content, "_buffer", ()))
                    reader.failure = _broken(error)
                said = reader.feed(data)
                if said:
                    deadline.rest()
                    for event in said:
                        yield event
                if reader.done or (reader.finish_reason is not None and not data):
                    break
                if reader.failure is not None:
                    if reader.finish_reason is not None:
                        break
                    raise reader.failure
                if not data:
                    raise upstream_error("upstream_interrupted")
                if reader.finish_reason is not None:
                    deadline.restart(min(self._between_s, FAREWELL_S))
                elif said:
                    if not begun:
                        begun = True
                        deadline.restart(self._between_s)
                    else:
                        deadline.again()
            deadline.stop()
            if reader.failure is None:
                whole = True
                self._see_off(response)
            if reader.usage is not None:
                yield reader.usage
            if reader.finish_reason == "length":
                yield LimitReached("max_output_tokens")
            elif reader.finish_reason == "content_filter":
                yield LimitReached("content_filter")
        finally:
            deadline.stop()
            if not whole:
                _drop(response)
            if response.closed:
                self._running.discard(response)

    def _see_off(self, response: aiohttp.ClientResponse) -> None:
        """Let the body end by itself, so that its connection can be used again."""
        if response.closed:
            return

        def leave() -> None:
            timer.cancel()
            response.close()
            self._running.discard(response)

        def ended() -> None:
            timer.cancel()
            self._running.discard(response)

        timer = get_running_loop().call_later(FAREWELL_S, leave)
        response.content.on_eof(ended)

    async def _open(
        self, model: str, sampling: Sampling, asked: Mapping[str, object]
    ) -> aiohttp.ClientResponse:
        """The response whose body is the stream.

        Raises:
            EngineError: there is none.
        """
        try:
            with anyio.fail_after(self._first_s):
                while True:
                    body = self._body(model, sampling, asked)
                    response = await self._post(msgspec.json.encode(body))
                    status, kind = response.status, response.content_type
                    if status == 200 and kind not in ("application/json", "text/html"):
                        return response
                    try:
                        said = await response.content.read(4 * LOGGED_CHARS)
                    finally:
                        response.release()
                    text = said.decode("utf-8", "replace")
                    if status not in (400, 422) or not self._learn(model, body, text):
                        break
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise upstream_error("upstream_garbage") from error
        except TimeoutError as error:
            raise upstream_error("upstream_timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            log_upstream("cannot be reached", str(error), self._key)
            raise upstream_error("upstream_unavailable") from error
        log_upstream(f"answered with status {status}", text, self._key)
        # It may also be a date, which our clock would have to agree about.
        wait = response.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() and len(wait) < 6 else None
        raise upstream_error(_code(status), retry_after_s=seconds)

    async def _post(self, payload: bytes) -> aiohttp.ClientResponse:
        if self._closed:
            raise upstream_error("upstream_unavailable")
        if self._session is None:
            self._session = _new_session(self._timeout)
        while True:
            marks = SimpleNamespace(reused=False)
            try:
                return await self._session.post(
                    self._url,
                    data=payload,
                    headers=self._headers,
                    allow_redirects=False,
                    trace_request_ctx=marks,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A kept connection that the server closed as we wrote to it: it never read us.
                if not marks.reused:
                    raise

    def _body(
        self, model: str, sampling: Sampling, asked: Mapping[str, object]
    ) -> dict[str, object]:
        body = {**self._extra, "model": model, "stream": True, **asked}
        if model not in self._without_usage:
            body["stream_options"] = {"include_usage": True}
        if sampling.max_output_tokens is not None:
            renamed = model in self._renamed_limit
            body["max_completion_tokens" if renamed else "max_tokens"] = sampling.max_output_tokens
        return body

    def _learn(self, model: str, body: dict[str, object], said: str) -> bool:
        """True if the refusal names a field that we can do without, or call otherwise."""
        if "stream_options" in body and "stream_options" in said:
            self._without_usage.add(model)
            return True
        if "max_tokens" in body and "max_completion_tokens" in said:
            self._renamed_limit.add(model)
            return True
        return False


def _new_session(timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    async def reused(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return aiohttp.ClientSession(
        # How many answers run at a time is decided elsewhere, not by a hidden queue.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=timeout,
        trace_configs=[trace],
    )


def _code(status: int) -> str:
    if status in (401, 403):
        return "upstream_unauthorized"
    if status == 404:
        return "upstream_model_not_found"
    if status == 429:
        return "upstream_rate_limited"
    if status >= 500:
        return "upstream_unavailable"
    return "upstream_garbage" if status == 200 else "upstream_rejected"


def _broken(error: Exception) -> EngineError:
    timeout = isinstance(error, TimeoutError)
    failure = upstream_error("upstream_timeout" if timeout else "upstream_interrupted")
    failure.__cause__ = error
    return failure


def _drop(response: aiohttp.ClientResponse) -> None:
    """Close the connection now: `close` alone would wait for TLS to say goodbye."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
