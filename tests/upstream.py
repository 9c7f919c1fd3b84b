"""A scripted OpenAI-compatible model server: the most important test double.

It is a real HTTP server, written on a bare `asyncio.Protocol` so that it is fast enough for
benchmarks and exact enough to say how many tokens it wrote before its client left. In a test:

    async with Upstream() as upstream:
        upstream.queue(Script(gated=True))         # the first request gets this one
        ...                                        # something asks upstream.url
        request = await upstream.request(0)        # waits for it
        request.release(5)                         # exactly five tokens go out
        left = await request.closed()              # waits for the client to leave
        assert left.written == 5

As a process of its own: `python tests/upstream.py --port 0 --rate 50 --tokens 200` prints one
JSON line `{"url": …}`; `GET /stats` tells what `Upstream.stats()` tells. Moments are
`time.monotonic()`, which processes of one machine share.

Longer than other files, so that the one file can be run by its path from anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import math
import re
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

DIMENSION = 64
BATCH = 64
PATIENCE_S = 10.0
_LAST = b"0\r\n\r\n"


def words(count: int) -> tuple[str, ...]:
    """`count` tokens of a dull text, `w0 w1 …` with a period of 100, each with its space."""
    return tuple(f"w{index % 100} " for index in range(count))


@dataclass(frozen=True, slots=True)
class Script:
    """How one chat completion is answered. The positions count tokens written before.

    Attributes:
        tokens: the content chunks; a mapping is a whole `delta`, see `calls`.
        rate: tokens per second; None writes as fast as the client reads.
        one_by_one: tokens that come late come later still, never two in one write.
        gated: the test releases the tokens (`Request.release`).
        status: any other than 200 answers with an OpenAI-shaped error.
        error: the error's message, for `status` and `error_at`.
        retry_after: value of that header, in seconds.
        stall: `headers` sends nothing at all; a number goes silent there (0: after the headers).
        cut: where the connection is lost; -1 is before the headers.
        cut_by: `fin` closes, `rst` resets.
        garbage_at: where an undecodable chunk comes, after which the answer goes silent.
        error_at: where an `{"error": …}` chunk comes, after which the answer ends.
        reasoning: `reasoning_content` chunks that come first, never gated.
        finish_reason: of the last chunk; None leaves that chunk out.
        usage: whether a usage chunk is sent to those who ask for it.
        done: whether `[DONE]` is sent.
        chunked: False sends a body that ends with the connection.
        ignore_stream: answers with one JSON body even to those who ask for a stream.
        raw: the exact body, instead of all that; with `stall=0` it does not end.
    """

    tokens: Sequence[str | Mapping[str, Any]] = words(20)
    rate: float | None = None
    one_by_one: bool = False
    gated: bool = False
    status: int = 200
    error: str = "scripted"
    retry_after: int | None = None
    stall: Literal["headers"] | int | None = None
    cut: int | None = None
    cut_by: Literal["fin", "rst"] = "fin"
    garbage_at: int | None = None
    error_at: int | None = None
    reasoning: Sequence[str] = ()
    finish_reason: str | None = "stop"
    usage: bool = True
    done: bool = True
    chunked: bool = True
    ignore_stream: bool = False
    raw: bytes | None = None


def calls(name: str, *pieces: str, index: int = 0, id: str = "") -> list[dict[str, Any]]:
    """The deltas by which a model calls a function: its name, then its arguments in pieces."""
    begun = {"name": name, "arguments": ""}
    first = {"index": index, "id": id or f"call_{index}", "type": "function", "function": begun}
    more = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [one]} for one in (first, *more)]


@dataclass(frozen=True, slots=True)
class Left:
    """The client left: when (`time.monotonic()`), and how many tokens were written by then."""

    at: float
    written: int


@dataclass(eq=False, slots=True)
class Request:
    """One chat completion that was asked for.

    Attributes:
        body: the request's JSON.
        headers: the request's headers, names in lower case.
        script: how it is answered.
        connection: number of the TCP connection, counted from 0.
        released: tokens that the test let go.
        written: tokens written so far.
        began: True once the headers of a stream were written.
        finished: True once the whole answer was written.
        left: set when the client leaves before that.
    """

    body: dict[str, Any]
    headers: dict[str, str]
    script: Script
    connection: int
    upstream: Upstream
    channel: _Channel
    started: float = field(default_factory=time.monotonic)
    released: int = 0
    written: int = 0
    began: bool = False
    finished: bool = False
    left: Left | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    def release(self, count: int) -> None:
        """Let `count` more tokens of a gated script go."""
        self.released += count
        self.channel.pump()

    def end(self) -> None:
        """Write the end of a body that a stall left open."""
        self.channel._close_body(self)

    async def wrote(self, count: int) -> None:
        """Wait until `count` tokens were written."""
        await self.upstream.until(lambda: self.written >= count)

    async def ended(self) -> None:
        """Wait until the whole answer was written."""
        await self.upstream.until(lambda: self.finished)

    async def closed(self) -> Left:
        """Wait until the client left before the end."""
        await self.upstream.until(lambda: self.left is not None)
        assert self.left is not None
        return self.left


class Upstream:
    """The server, on the running loop; use it as an async context manager.

    Attributes:
        default: the script, or the function that chooses it, when the queue is empty.
        models: names that `/v1/models` lists.
        requests: every chat completion asked for, in order.
        embedded: every list of texts sent to `/v1/embeddings`.
        open, most_open, accepted: connections now, at most at a time, and ever.
    """

    def __init__(
        self,
        default: Script | Callable[[Request], Script] | None = None,
        *,
        models: Sequence[str] = ("scripted",),
        port: int = 0,
    ) -> None:
        self.default = default or Script()
        self.models = models
        self.requests: list[Request] = []
        self.embedded: list[list[str]] = []
        self.open = self.most_open = self.accepted = 0
        self._port = port
        self._queue: deque[Script] = deque()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._channels: set[_Channel] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Upstream:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Channel(self), "127.0.0.1", self._port, backlog=4096
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and drop every connection, as a server that dies."""
        if self._server is not None:
            self._server.close()
        for channel in list(self._channels):
            channel.transport.abort()

    @property
    def url(self) -> str:
        """Base URL, with `/v1`."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def answering(self) -> int:
        """How many requests are being answered now."""
        return sum(channel.current is not None for channel in self._channels)

    def queue(self, *scripts: Script) -> None:
        """Answer the next requests by these scripts, one each."""
        self._queue.extend(scripts)

    async def request(self, index: int) -> Request:
        """Wait for the chat completion number `index`, counted from 0."""
        await self.until(lambda: len(self.requests) > index)
        return self.requests[index]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever something happened here.

        Raises:
            TimeoutError: it did not within ten seconds.
        """
        if not condition():
            future = asyncio.get_running_loop().create_future()
            entry = (condition, future)
            self._waiting.append(entry)
            try:
                await asyncio.wait_for(future, PATIENCE_S)
            finally:
                self._waiting.remove(entry)

    def happened(self) -> None:
        """Look again at what is being waited for."""
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)

    def stats(self) -> dict[str, Any]:
        """What was seen, as JSON-able data."""
        return {
            "open": self.open,
            "most_open": self.most_open,
            "accepted": self.accepted,
            "requests": [
                {
                    "started": request.started,
                    "written": request.written,
                    "finished": request.finished,
                    "left_at": request.left.at if request.left else None,
                }
                for request in self.requests
            ],
        }

    def _choose(self, request: Request) -> Script:
        if self._queue:
            return self._queue.popleft()
        return self.default(request) if callable(self.default) else self.default


def embed(text: str) -> list[float]:
    """A deterministic bag-of-words vector of length 1: equal words, equal directions."""
    vector = [0.0] * DIMENSION
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % DIMENSION] += 1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def event(data: str, *, chunked: bool = True) -> bytes:
    """One server-sent event, framed for the body."""
    payload = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(payload), payload) if chunked else payload


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> str:
    """One `chat.completion.chunk`, with the fields that real servers send."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return json.dumps(
        {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "scripted",
            "choices": [choice],
            **extra,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _token(token: str | Mapping[str, Any], chunked: bool) -> bytes:
    if isinstance(token, str):
        return _text(token, chunked)
    return event(chunk(dict(token)), chunked=chunked)


@functools.lru_cache(maxsize=4096)
def _text(text: str, chunked: bool) -> bytes:
    return event(chunk({"content": text}), chunked=chunked)


class _Channel(asyncio.Protocol):
    """One TCP connection: requests one after the other."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.number = upstream.accepted
        self.incoming = b""
        self.current: Request | None = None
        self.stop_at = 0
        self.silent = False
        self.paused = False
        self.timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        up = self.upstream
        up.accepted += 1
        up.open += 1
        up.most_open = max(up.most_open, up.open)
        up._channels.add(self)
        up.happened()

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.open -= 1
        self.upstream._channels.discard(self)
        if self.current is not None:
            self.current.left = Left(time.monotonic(), self.current.written)
            self._rest()
        self.upstream.happened()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()

    def data_received(self, data: bytes) -> None:
        self.incoming += data
        head, found, rest = self.incoming.partition(b"\r\n\r\n")
        if not found or self.current is not None:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.incoming = rest[length:]
        self._answer(f"{method} {path}", headers, json.loads(rest[:length] or b"{}"))

    def _answer(self, what: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        up = self.upstream
        if what == "POST /v1/chat/completions":
            request = Request(body, headers, Script(), self.number, up, self)
            up.requests.append(request)
            request.script = up._choose(request)
            self.current = request
            self._begin(request)
            up.happened()
        elif what == "POST /v1/embeddings":
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            up.embedded.append(texts)
            data = [
                {"object": "embedding", "index": index, "embedding": embed(text)}
                for index, text in enumerate(texts)
            ]
            usage = {"prompt_tokens": sum(len(text.split()) for text in texts), "total_tokens": 0}
            self._json(200, {"object": "list", "model": "scripted", "data": data, "usage": usage})
        elif what == "GET /v1/models":
            models = [{"id": name, "object": "model", "owned_by": "test"} for name in up.models]
            self._json(200, {"object": "list", "data": models})
        elif what == "GET /stats":
            self._json(200, up.stats())
        else:
            self._json(404, {"error": {"message": f"no {what} here"}})

    def _json(self, status: int, body: object, **headers: object) -> None:
        payload = json.dumps(body).encode()
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        self.transport.write(
            f"HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\n{lines}"
            f"Content-Length: {len(payload)}\r\n\r\n".encode()
            + payload
        )

    def _begin(self, request: Request) -> None:
        script, body = request.script, request.body
        if script.stall == "headers":
            return
        if script.cut == -1:
            self._cut(script)
        elif script.status != 200:
            retry = {"Retry_After": script.retry_after} if script.retry_after is not None else {}
            self._json(
                script.status, {"error": {"message": script.error, "type": "scripted"}}, **retry
            )
            self._finish(request)
        elif script.ignore_stream or not body.get("stream"):
            texts = (text for text in script.tokens if isinstance(text, str))
            said = {"role": "assistant", "content": "".join(texts)}
            choice = {"index": 0, "message": said, "finish_reason": script.finish_reason}
            request.written = len(script.tokens)
            self._json(200, {"object": "chat.completion", "choices": [choice]})
            self._finish(request)
        else:
            marks = (script.stall, script.cut, script.garbage_at, script.error_at)
            numbers = [mark for mark in marks if isinstance(mark, int)]
            self.stop_at = min([*numbers, len(script.tokens)])
            framing = "Transfer-Encoding: chunked" if script.chunked else "Connection: close"
            opening = [chunk({"role": "assistant", "content": ""})]
            opening += [chunk({"reasoning_content": text}) for text in script.reasoning]
            frames = [event(data, chunked=script.chunked) for data in opening]
            self.transport.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n".encode()
                + (b"" if script.raw is not None or script.stall == 0 else b"".join(frames))
            )
            request.began, self.silent = True, False
            self.pump()

    def pump(self) -> None:
        """Write what may go now, and arrange for the rest."""
        request = self.current
        if request is None or not request.began or self.silent or self.paused:
            return
        if self.timer is not None:
            self.timer.cancel()
        script, written = request.script, request.written
        if script.raw is not None:
            raw = script.raw
            self.transport.write(b"%x\r\n%s\r\n" % (len(raw), raw) if script.chunked else raw)
            self.silent = True
            if script.stall is None:
                self._close_body(request)
            return
        upto = self.stop_at
        if script.gated:
            upto = min(upto, request.released)
        elif script.rate is not None and script.one_by_one:
            upto = min(upto, written + 1)
        elif script.rate is not None:
            upto = min(upto, int((time.monotonic() - request.started) * script.rate) + 1)
        else:
            upto = min(upto, written + BATCH)
        if upto > written:
            frames = [_token(text, script.chunked) for text in script.tokens[written:upto]]
            request.written = upto
            self.transport.write(b"".join(frames))
            self.upstream.happened()
        if request.written == self.stop_at:
            self._end(request)
        elif script.rate is not None and script.one_by_one:
            self.timer = asyncio.get_running_loop().call_later(1 / script.rate, self.pump)
        elif script.rate is not None:
            wait = request.started + request.written / script.rate - time.monotonic()
            self.timer = asyncio.get_running_loop().call_later(max(wait, 0), self.pump)
        elif not script.gated:
            self.timer = asyncio.get_running_loop().call_soon(self.pump)

    def _end(self, request: Request) -> None:
        script, here = request.script, request.written
        self.silent = True
        if script.stall == here:
            return
        if script.cut == here:
            self._cut(script)
        elif script.garbage_at == here:
            self.transport.write(event('{"choices": [oops', chunked=script.chunked))
        elif script.error_at == here:
            error = json.dumps({"error": {"message": script.error, "code": 500}})
            self.transport.write(event(error, chunked=script.chunked))
            self._close_body(request)
        else:
            last = []
            if script.finish_reason is not None:
                last.append(chunk({}, script.finish_reason))
            if script.usage and (request.body.get("stream_options") or {}).get("include_usage"):
                prompt = sum(len(str(each["content"]).split()) for each in request.messages)
                usage = {"prompt_tokens": prompt, "completion_tokens": here}
                last.append(json.dumps({"choices": [], "usage": usage}))
            if script.done:
                last.append("[DONE]")
            frames = [event(data, chunked=script.chunked) for data in last]
            self.transport.write(b"".join(frames))
            self._close_body(request)

    def _close_body(self, request: Request) -> None:
        if request.script.chunked:
            self.transport.write(_LAST)
        self._finish(request)
        if not request.script.chunked:
            self.transport.close()

    def _finish(self, request: Request) -> None:
        request.finished = True
        self._rest()
        self.upstream.happened()

    def _rest(self) -> None:
        self.current = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _cut(self, script: Script) -> None:
        self._rest()
        if script.cut_by == "rst":
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()


async def serve(port: int, script: Script) -> None:
    """Serve one script to everybody until the process ends."""
    async with Upstream(script, port=port) as upstream:
        print(json.dumps({"url": upstream.url}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """The command line of the benchmarks."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible model server.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tokens", type=int, default=200, help="tokens per answer")
    parser.add_argument("--rate", type=float, help="tokens per second; absent is flat out")
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    run(serve(options.port, Script(tokens=words(options.tokens), rate=options.rate)))


if __name__ == "__main__":
    main()
