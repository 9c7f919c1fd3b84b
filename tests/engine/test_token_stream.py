"""The token stream against a real HTTP server: what it reads, how it stops, how it fails."""

from __future__ import annotations

import gc
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsocket.engine import token_stream
from ragsocket.engine.base import (
    Call,
    CallArguments,
    CallBegun,
    Function,
    Functions,
    Image,
    JsonFormat,
    LimitReached,
    ModelEvent,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Usage,
)
from ragsocket.engine.chat_chunks import ChunkReader
from ragsocket.engine.token_stream import Message, OpenAICompatible
from ragsocket.errors import ConfigError, EngineError
from upstream import Script, Upstream, calls, chunk, words

ASK = [Message("system", "be brief"), Message("user", "hello there")]
Event = ModelEvent
KEY = "sk-very-secret"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops: sockets are closed by the loop, and production runs on uvloop."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def no_gc() -> Iterator[None]:
    """A stop must never depend on the garbage collector."""
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def serving(
    *scripts: Script, **options: Any
) -> AsyncIterator[tuple[Upstream, OpenAICompatible]]:
    """An upstream with these scripts, and a client of it."""
    async with Upstream() as upstream:
        upstream.queue(*scripts)
        client = OpenAICompatible(upstream.url, ["scripted"], api_key=KEY, **options)
        try:
            yield upstream, client
        finally:
            await client.aclose()


def ask(client: OpenAICompatible, sampling: Sampling | None = None) -> AsyncGenerator[Event]:
    """Ask the usual question."""
    return client.stream(ASK, model="scripted", sampling=sampling or Sampling())


async def everything(stream: AsyncGenerator[Event]) -> list[Event]:
    """Every event to the end."""
    return [event async for event in stream]


def text_of(events: list[Event]) -> str:
    """The text in the events."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def read_tokens(stream: AsyncGenerator[Event], count: int) -> str:
    """Read until `count` tokens have come."""
    text, got = "", 0
    while got < count:
        event = await anext(stream)
        assert isinstance(event, TextDelta)
        text, got = text + event.text, got + event.tokens
    assert got == count
    return text


async def failure(stream: AsyncGenerator[Event], code: str) -> tuple[list[Event], EngineError]:
    """The events before the stream fails with that code, and the error."""
    events: list[Event] = []

    async def read() -> None:
        async for event in stream:
            events.append(event)

    with pytest.raises(EngineError) as caught:
        await read()
    assert caught.value.code == code
    assert "scripted" not in caught.value.message
    return events, caught.value


# What it reads


async def test_whole_answer() -> None:
    """Text, usage and the request itself arrive as they were sent."""
    async with serving(Script(tokens=words(30))) as (upstream, client):
        sampling = Sampling(temperature=0.5, top_p=0.9, max_output_tokens=7)
        events = await everything(ask(client, sampling))
        assert text_of(events) == "".join(words(30))
        assert sum(event.tokens for event in events if isinstance(event, TextDelta)) == 30
        assert events[-1] == Usage(4, 30, estimated=False)
        request = await upstream.request(0)
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body == {
            "model": "scripted",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hello there"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
        }


async def test_sampling_is_left_to_the_model() -> None:
    """What the question does not say is not sent."""
    async with serving() as (upstream, client):
        await everything(ask(client))
        body = (await upstream.request(0)).body
        assert set(body) == {"model", "messages", "stream", "stream_options"}


async def test_one_read_is_one_delta() -> None:
    """Tokens that came together are one delta, and tokens that came alone are not held back."""
    async with serving(Script(gated=True, tokens=words(5))) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 1)
            first = await anext(stream)
        assert first == TextDelta("w0 ", 1)
        (await upstream.request(0)).release(4)
        assert await anext(stream) == TextDelta("w1 w2 w3 w4 ", 4)
        await stream.aclose()


async def _release_first(upstream: Upstream, count: int) -> None:
    (await upstream.request(0)).release(count)


@pytest.mark.parametrize(
    ("reason", "limit"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("stop", None)],
)
async def test_finish_reason(reason: str, limit: str | None) -> None:
    """A model that stopped before it was done says why."""
    async with serving(Script(finish_reason=reason)) as (_, client):
        events = await everything(ask(client))
        assert [e.reason for e in events if isinstance(e, LimitReached)] == ([limit] * bool(limit))


async def test_reasoning_is_no_text() -> None:
    """Reasoning never becomes part of the answer."""
    async with serving(Script(reasoning=["hm ", "so "], tokens=("yes",))) as (_, client):
        assert text_of(await everything(ask(client))) == "yes"


def read(*deltas: dict[str, Any], reader: ChunkReader | None = None) -> list[Event]:
    """Return what one read says that holds these deltas."""
    raw = "".join(f"data: {chunk(delta)}\n\n" for delta in deltas)
    return [*(reader or ChunkReader()).feed(raw.encode())]


def test_what_is_not_text_comes_in_its_order() -> None:
    """Reasoning by either name, text and calls become events, joined as far as they are alike."""
    assert read({"role": "assistant", "content": ""}) == []
    assert read(
        {"reasoning_content": "hm "},
        {"reasoning": "so"},
        {"content": "a"},
        {"content": "b", **calls("f")[0]},
        *calls("f", '{"x"', ":1}")[1:],
        *calls("g", "{}", index=1),
        {"content": "c"},
    ) == [
        ReasoningDelta("hm so", 2),
        TextDelta("ab", 2),
        CallBegun("call_0", "f"),
        CallArguments('{"x":1}', 2),
        CallBegun("call_1", "g"),
        CallArguments("{}", 1),
        TextDelta("c", 1),
    ]


def call(**fields: Any) -> dict[str, Any]:
    """A delta with one piece of a call."""
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    return {"tool_calls": [{**fields, "function": function}]}


@pytest.mark.parametrize(
    ("deltas", "names", "arguments"),
    [
        ([call(index=0, id="a", name="f", arguments="{}"),
          call(index=0, id="b", name="g", arguments="{}")], "fg", ["{}", "{}"]),
        ([call(id="a", name="f", arguments="{}"), call(id="b", name="f", arguments="{}")],
         "ff", ["{}", "{}"]),
        ([call(name="f"), call(arguments="{"), call(arguments="}"), call(name="g")],
         "fg", ["{}"]),
        ([call(index=0, id="a", name="f"), call(index=0, id="a", arguments="{"),
          call(index=0, id="", name="", arguments="}")], "f", ["{}"]),
        ([{"tool_calls": [*call(index=0, id="a", name="f", arguments="1")["tool_calls"],
                          *call(index=1, id="b", name="g", arguments="2")["tool_calls"]]}],
         "fg", ["1", "2"]),
    ],
    ids=["one index", "no index", "no id", "id on every piece", "two at once"],
)  # fmt: skip
def test_calls_of_many_servers(
    deltas: list[dict[str, Any]], names: str, arguments: list[str]
) -> None:
    """Whole or in pieces, with or without index and id, each call is told from the next."""
    reader = ChunkReader()
    said = [event for delta in deltas for event in read(delta, reader=reader)]
    begun = [event for event in said if isinstance(event, CallBegun)]
    assert "".join(event.name for event in begun) == names
    assert len({event.call_id for event in begun}) == len(begun)
    texts: list[str] = []
    for event in said:
        if isinstance(event, CallBegun):
            texts.append("")
        elif isinstance(event, CallArguments):
            texts[-1] += event.text
    assert [text for text in texts if text] == arguments
    assert reader.failure is None


@pytest.mark.parametrize(
    "deltas",
    [[call(arguments="{}")], [call(index=0, id="a")], [call(index=1, name="f"), call(index=0)]],
    ids=["arguments of nothing", "no name", "an earlier one goes on"],
)
def test_calls_that_make_no_sense(deltas: list[dict[str, Any]]) -> None:
    """Half a call is never guessed at."""
    reader = ChunkReader()
    for delta in deltas:
        read(delta, reader=reader)
    assert reader.failure is not None
    assert reader.failure.code == "upstream_garbage"


async def test_functions_are_offered_and_called() -> None:
    """Tools, a choice and a call with its output are sent as chat completions have them."""
    function = Function("f", "Does it.", {"type": "object"}, strict=True)
    messages = [
        Message("user", "q", images=(Image("https://a/b.png", "low"),)),
        Message("assistant", "", calls=(Call("c1", "f", "{}"),)),
        Message("tool", "done", call_id="c1"),
    ]
    form = JsonFormat("n", {"type": "object"})
    sampling = Sampling(reasoning_effort="low", verbosity="high", format=form)
    offered = Functions([function], insist=True, parallel=False)
    script = Script(tokens=(*calls("f", "{}"), *calls("f", "{}", index=1)))
    async with serving(script) as (upstream, client):
        stream = client.stream(messages, model="scripted", sampling=sampling, functions=offered)
        events = await everything(stream)
        body = (await upstream.request(0)).body
    assert events[:2] == [CallBegun("call_0", "f"), CallArguments("{}")]
    assert not any(isinstance(event, CallBegun) for event in events[2:])
    described = {
        "name": "f",
        "description": "Does it.",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert body["tools"] == [{"type": "function", "function": described}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    assert (body["reasoning_effort"], body["verbosity"]) == ("low", "high")
    schema = {"name": "n", "schema": {"type": "object"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    picture = {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}}
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert body["messages"] == [
        {"role": "user", "content": [picture, {"type": "text", "text": "q"}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
    ]


async def test_usage_in_detail() -> None:
    """What came from a cache, and what was reasoning, is taken over."""
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    reader = ChunkReader()
    reader.feed(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    assert reader.usage == Usage(9, 5, estimated=False, cached_tokens=4, reasoning_tokens=2)


async def test_huge_token() -> None:
    """A chunk far larger than any read arrives whole."""
    huge = "ä€😀" * 100_000
    async with serving(Script(tokens=("a", huge, "z"))) as (_, client):
        assert text_of(await everything(ask(client))) == f"a{huge}z"


async def test_body_that_ends_with_the_connection() -> None:
    """HTTP/1.0 style bodies, without chunks, are read as well."""
    async with serving(Script(chunked=False)) as (_, client):
        assert text_of(await everything(ask(client))) == "".join(words(20))


@pytest.mark.parametrize("script", [Script(done=False), Script(finish_reason=None)])
async def test_ends_that_are_enough(script: Script) -> None:
    """Either a finish reason or `[DONE]` makes an answer whole."""
    async with serving(script) as (_, client):
        assert text_of(await everything(ask(client))) == "".join(words(20))


async def test_connection_is_kept() -> None:
    """Answers that end by themselves, one after the other, need one connection."""
    async with serving() as (upstream, client):
        for _ in range(3):
            await everything(ask(client))
        assert (upstream.accepted, upstream.open) == (1, 1)


async def test_connection_is_kept_when_its_end_is_late() -> None:
    """An answer is over at `[DONE]`; its connection is used again once the body has ended."""
    raw = f"data: {chunk({'content': 'a'})}\n\ndata: [DONE]\n\n".encode()
    async with serving(Script(raw=raw, stall=0)) as (upstream, client):
        assert await everything(ask(client)) == [TextDelta("a", 1)]
        upstream.requests[0].end()
        # A whole exchange of somebody else: by then our end has arrived.
        other = OpenAICompatible(upstream.url, ["scripted"])
        await everything(ask(other))
        await other.aclose()
        await everything(ask(client))
        assert [request.connection for request in upstream.requests] == [0, 1, 0]


async def test_kept_connection_that_died() -> None:
    """A kept connection that the server closes under the next request is replaced."""
    async with serving(Script(), Script(cut=-1), Script()) as (upstream, client):
        await everything(ask(client))
        assert text_of(await everything(ask(client))) == "".join(words(20))
        assert [request.connection for request in upstream.requests] == [0, 0, 1]


@pytest.mark.parametrize(
    ("field", "instead"), [("stream_options", None), ("max_tokens", "max_completion_tokens")]
)
async def test_server_that_is_strict(field: str, instead: str | None) -> None:
    """A field that a server refuses is left out or renamed, and that is learned once."""
    error = f"Unsupported: {field}; {instead}"
    async with serving(Script(status=400, error=error)) as (upstream, client):
        for _ in range(2):
            events = await everything(ask(client, Sampling(max_output_tokens=5)))
            assert text_of(events) == "".join(words(20))
        fields = [set(request.body) for request in upstream.requests]
        assert [field in each for each in fields] == [True, False, False]
        assert instead is None or [instead in each for each in fields] == [False, True, True]


# How it stops


@pytest.mark.usefixtures("no_gc")
async def test_cancel_mid_stream() -> None:
    """Five tokens released, five read, cancelled: the server sees it and wrote exactly five."""
    async with serving(Script(gated=True)) as (upstream, client):
        stream = ask(client)
        read = anyio.Event()

        async def answer() -> None:
            await read_tokens(stream, 5)
            read.set()
            await anext(stream)

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            request = await upstream.request(0)
            request.release(5)
            await read.wait()
            group.cancel_scope.cancel()
        assert (await request.closed()).written == 5
        assert upstream.open == 0


@pytest.mark.usefixtures("no_gc")
async def test_cancel_wastes_no_token() -> None:
    """At a human pace the model makes no token more than the one already on its way."""
    async with serving(Script(tokens=words(200), rate=100)) as (upstream, client):
        with anyio.CancelScope() as scope:
            got = 0
            async for event in ask(client):
                got += event.tokens if isinstance(event, TextDelta) else 0
                if got >= 10:
                    scope.cancel()
        left = await (await upstream.request(0)).closed()
        assert got <= left.written <= got + 1


@pytest.mark.usefixtures("no_gc")
async def test_close_mid_stream() -> None:
    """Closing the generator closes the connection at once."""
    async with serving(Script(gated=True)) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 3)
            await read_tokens(stream, 3)
        await stream.aclose()
        assert (await upstream.requests[0].closed()).written == 3
        assert upstream.open == 0


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("stall", ["headers", 0])
async def test_cancel_before_the_first_token(stall: Any) -> None:
    """A cancel while the model still thinks reaches it, whether or not headers came."""
    async with serving(Script(stall=stall)) as (upstream, client):
        async with anyio.create_task_group() as group:
            group.start_soon(everything, ask(client))
            request = await upstream.request(0)
            if stall == 0:
                await upstream.until(lambda: request.began)
            group.cancel_scope.cancel()
        assert (await request.closed()).written == 0
        assert upstream.open == 0


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listening socket whose queue is full, so that connecting to it hangs."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


@pytest.mark.usefixtures("no_gc")
async def test_cancel_while_connecting() -> None:
    """A cancel while the connection is being made leaves nothing behind."""
    listener, fillers = full_listener()
    client = OpenAICompatible(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", ["m"])
    before = _open_sockets()
    async with anyio.create_task_group() as group:
        group.start_soon(everything, ask(client))
        await _sockets_become(before + 1)
        group.cancel_scope.cancel()
    await _sockets_become(before)
    await client.aclose()
    for each in [listener, *fillers]:
        each.close()


async def _sockets_become(count: int) -> None:
    with anyio.fail_after(10):
        # Nothing tells when the kernel's table of open files changes.
        while _open_sockets() != count:
            await anyio.sleep(0.001)


def _open_sockets() -> int:
    return sum(_is_socket(entry) for entry in Path("/proc/self/fd").iterdir())


def _is_socket(entry: Path) -> bool:
    try:
        return str(entry.readlink()).startswith("socket:")
    except OSError:
        return False


@pytest.mark.usefixtures("no_gc")
async def test_dropped_generator() -> None:
    """A generator that is let go of closes its connection without the garbage collector."""
    async with serving(Script(gated=True)) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 1)
            await anext(stream)
        del stream
        assert (await upstream.requests[0].closed()).written == 1


@pytest.mark.usefixtures("no_gc")
async def test_many_stops_at_once() -> None:
    """Fifty answers stopped together close fifty connections."""
    async with serving() as (upstream, client):
        upstream.default = Script(gated=True)
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(everything, ask(client))
            await upstream.request(49)
            assert upstream.open == 50
            group.cancel_scope.cancel()
        for request in upstream.requests:
            await request.closed()
        assert upstream.open == 0


async def test_closing_the_client_ends_its_streams() -> None:
    """Streams that still run end with an error, and later ones do not begin."""
    async with serving(Script(gated=True)) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 1)
            await anext(stream)

            async def rest() -> None:
                await failure(stream, "upstream_interrupted")

            group.start_soon(rest)
            await anyio.lowlevel.checkpoint()
            await client.aclose()
        await upstream.requests[0].closed()
        await failure(ask(client), "upstream_unavailable")


# How it fails


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (401, "upstream_unauthorized", False),
        (403, "upstream_unauthorized", False),
        (404, "upstream_model_not_found", False),
        (429, "upstream_rate_limited", True),
        (400, "upstream_rejected", False),
        (302, "upstream_rejected", False),
        (500, "upstream_unavailable", True),
        (503, "upstream_unavailable", True),
    ],
)
async def test_status(
    status: int, code: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each refusal has its code; the server's words go to the log, and the key does not."""
    script = Script(status=status, error=f"scripted refusal of {KEY}", retry_after=3)
    async with serving(script) as (_, client):
        with caplog.at_level(logging.WARNING, "ragsocket.engine"):
            _, error = await failure(ask(client), code)
        assert error.retryable is retryable
        assert "scripted refusal of ***" in caplog.text
        assert KEY not in caplog.text


@pytest.mark.parametrize("cut_by", ["fin", "rst"])
@pytest.mark.parametrize(
    ("cut", "code"), [(-1, "upstream_unavailable"), (0, "upstream_interrupted")]
)
async def test_cut_before_a_token(cut: int, code: str, cut_by: Any) -> None:
    """A server that goes away before it says anything is told from one that never answered."""
    async with serving(Script(cut=cut, cut_by=cut_by)) as (_, client):
        events, _ = await failure(ask(client), code)
        assert events == []


@pytest.mark.parametrize("cut_by", ["fin", "rst"])
async def test_cut_mid_stream(cut_by: Any) -> None:
    """What came before the connection was lost is kept, and the loss is reported."""
    async with serving(Script(gated=True, cut=5, cut_by=cut_by)) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 4)
            await read_tokens(stream, 4)
        upstream.requests[0].release(1)
        events, _ = await failure(stream, "upstream_interrupted")
        # A reset may overtake the last token.
        assert text_of(events) == "w4 " or cut_by == "rst"


async def test_what_came_before_the_cut_is_kept() -> None:
    """Tokens that nobody had read when the connection was lost are not lost with it."""
    async with serving(Script(gated=True, cut=5)) as (upstream, client):
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 1)
            await anext(stream)
        upstream.requests[0].release(4)
        # A whole exchange of somebody else: by then the cut has arrived.
        other = OpenAICompatible(upstream.url, ["scripted"])
        await everything(ask(other))
        await other.aclose()
        events, _ = await failure(stream, "upstream_interrupted")
        assert text_of(events) == "".join(words(5)[1:])


async def test_end_without_an_end() -> None:
    """A body that ends with neither finish reason nor `[DONE]` is a cut."""
    async with serving(Script(finish_reason=None, done=False)) as (_, client):
        events, _ = await failure(ask(client), "upstream_interrupted")
        assert text_of(events) == "".join(words(20))


async def test_garbage(caplog: pytest.LogCaptureFixture) -> None:
    """A chunk that is no JSON ends the answer after the text before it."""
    async with serving(Script(garbage_at=3)) as (upstream, client):
        with caplog.at_level(logging.WARNING, "ragsocket.engine"):
            events, _ = await failure(ask(client), "upstream_garbage")
        assert text_of(events) == "w0 w1 w2 "
        assert "oops" in caplog.text
        await upstream.requests[0].closed()


async def test_json_instead_of_a_stream() -> None:
    """A server that answers 200 with something else is not understood."""
    async with Upstream() as upstream:
        upstream.queue(Script(ignore_stream=True))
        client = OpenAICompatible(upstream.url, ["m"])
        await failure(ask(client), "upstream_garbage")
        await client.aclose()


async def test_error_in_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """An error that the model's server reports mid-stream ends the answer."""
    async with serving(Script(error_at=2, error=f"scripted overload {KEY}")) as (_, client):
        with caplog.at_level(logging.WARNING, "ragsocket.engine"):
            events, _ = await failure(ask(client), "upstream_failed")
        assert text_of(events) == "w0 w1 "
        assert "scripted overload ***" in caplog.text


async def test_nobody_listens() -> None:
    """A refused connection and an unknown host are both `unavailable`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for host in (f"127.0.0.1:{port}", "host.invalid"):
        client = OpenAICompatible(f"http://{host}/v1", ["m"])
        _, error = await failure(ask(client), "upstream_unavailable")
        assert error.retryable
        await client.aclose()


@pytest.mark.parametrize("stall", ["headers", 0, 3])
async def test_timeouts(stall: Any) -> None:
    """Headers, the first token and every further one have a deadline."""
    options = {"first_token_timeout_s": 0.1, "token_timeout_s": 0.1}
    async with serving(Script(stall=stall), **options) as (upstream, client):
        events, error = await failure(ask(client), "upstream_timeout")
        assert error.retryable
        assert text_of(events) == "".join(words(stall if isinstance(stall, int) else 0))
        await upstream.requests[0].closed()


async def test_connect_timeout() -> None:
    """A server that does not take the connection is given up."""
    listener, fillers = full_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    client = OpenAICompatible(url, ["m"], connect_timeout_s=0.1)
    await failure(ask(client), "upstream_timeout")
    await client.aclose()
    for each in [listener, *fillers]:
        each.close()


async def test_slow_reader_is_not_a_slow_model() -> None:
    """The deadline counts the model's time, not the time that the reader takes."""
    async with serving(Script(gated=True, tokens=words(3)), token_timeout_s=0.1) as pair:
        upstream, client = pair
        stream = ask(client)
        async with anyio.create_task_group() as group:
            group.start_soon(_release_first, upstream, 1)
            await anext(stream)
        upstream.requests[0].release(1)
        await anext(stream)
        await anyio.sleep(0.3)
        upstream.requests[0].release(1)
        assert text_of(await everything(stream)) == "w2 "


async def test_silence_after_the_finish_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose end of body never comes is whole all the same."""
    monkeypatch.setattr(token_stream, "FAREWELL_S", 0.05)
    raw = "".join(f"data: {chunk({'content': 'a'}, reason)}\n\n" for reason in (None, "length"))
    script = Script(raw=raw.encode(), stall=0)
    async with serving(script) as (upstream, client):
        events = await everything(ask(client))
        assert events == [TextDelta("aa", 2), LimitReached("max_output_tokens")]
        await upstream.until(lambda: upstream.open == 0)


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://host/v1", "http://"])
async def test_url_is_checked(url: str) -> None:
    """What is no HTTP address is refused at construction, with an example."""
    with pytest.raises(ConfigError, match="write it as"):
        OpenAICompatible(url, ["m"])
    with pytest.raises(ConfigError, match="model name"):
        OpenAICompatible("http://localhost/v1", [])


# The bytes, however they are cut

TEXTS = ["grüße ", "", "“日本語”", "😀👩‍👩‍👧 ", "line\nbreak\r\n", " "]
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}


def stream_bytes(newline: str, space: str) -> bytes:
    """A stream with all that the format allows."""
    datas = [chunk({"role": "assistant", "content": None})]
    datas += [chunk({"content": text}) for text in TEXTS]
    spread = json.dumps(json.loads(chunk({"content": "spread"})), indent=1)
    events = [f"data:{space}{data}" for data in datas]
    events.insert(2, ": a comment")
    events.insert(3, f"event: message{newline}id: 7{newline}data:{space}{datas[-1]}")
    events.append(newline.join(f"data:{space}{line}" for line in spread.split("\n")))
    events += [f"data:{space}{json.dumps(USAGE)}", "", f"data:{space}[DONE]"]
    return ("\ufeff" + "".join(event + newline * 2 for event in events)).encode()


@settings(max_examples=300, deadline=None)
@given(
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    space=st.sampled_from(["", " "]),
    data=st.data(),
)
def test_any_split_says_the_same(newline: str, space: str, data: st.DataObject) -> None:
    """Text, token count and usage do not depend on where the reads end."""
    raw = stream_bytes(newline, space)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=40).map(sorted))
    if data.draw(st.booleans()):
        cuts = list(range(len(raw)))
    reader = ChunkReader()
    text, tokens = "", 0
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if start < end:
            for event in reader.feed(raw[start:end]):
                assert isinstance(event, TextDelta)
                text, tokens = text + event.text, tokens + event.tokens
    reader.feed(b"")
    assert text == "".join([TEXTS[0], TEXTS[-1], *TEXTS[1:], "spread"])
    assert tokens == 7
    assert reader.usage == Usage(3, 5, estimated=False)
    assert reader.done
    assert reader.failure is None


def test_event_without_end() -> None:
    """A server that never ends its event does not fill our memory."""
    reader = ChunkReader()
    for _ in range(5):
        reader.feed(b"x" * 1024 * 1024)
    assert reader.failure is not None
    assert reader.failure.code == "upstream_garbage"
