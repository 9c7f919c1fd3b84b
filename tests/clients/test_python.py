"""The Python client against the real server: ask, stop, lose the connection, go on."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from faults import FaultProxy
from harness import PATIENCE_S, Served, serving
from ragsocket_client import (
    Answer,
    Closed,
    ConnectionLost,
    Interrupted,
    Offline,
    RateLimited,
    Ready,
    Refused,
    Resuming,
    ServerFailed,
    State,
    UpstreamFailed,
    connect,
)
from upstream import Request, Script, Upstream, calls, words

FERRY = "When does the ferry to Holm leave?"
LONG = Script(tokens=words(500), rate=400, one_by_one=True)


async def read_to(answer: Answer, end: str, request: Request) -> str:
    """Let one token go after the other, and leave the loop once the text ends so."""
    told = ""
    request.release(1)
    async for event in answer:
        if event["type"] == "response.output_text.delta":
            told += event["delta"]
            if told.endswith(end):
                return told
            request.release(1)
    raise AssertionError(f"the answer ended with {told!r}")


async def read(answer: Answer) -> None:
    """Read to the end."""
    async for _ in answer:
        pass


async def stopped(request: Request) -> int:
    """Wait until the model was left, and return how many tokens it wrote."""
    return (await request.closed()).written


async def test_an_answer_is_awaited_iterated_and_told_about(
    served: Served, upstream: Upstream
) -> None:
    """As text, as pieces and as typed events, with sources, citations, counts and times."""
    upstream.default = Script(tokens=("At ", "7:40 ", "[1]."))
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        assert await chat.ask(FERRY) == "At 7:40 [1]."
        answer = chat.ask("And dogs?")
        assert "".join([text async for text in answer.texts()]) == "At 7:40 [1]."
        assert answer.status == "completed"
        assert answer.sources[0]["filename"] == "ferry.md"
        assert answer.citations[0]["filename"] == "ferry.md"
        assert answer.usage is not None
        assert answer.usage["output_tokens"] == 3
        assert answer.timings["total_ms"] is not None
        kinds = [event["type"] async for event in chat.ask("And bicycles?")]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert client.state == Ready()
    messages = upstream.requests[2].messages
    assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * 2 + ["user"]


async def test_conversations_share_a_socket_and_come_back_by_name(
    served: Served, upstream: Upstream
) -> None:
    """Two run side by side, each with its own history; a third object takes one up again."""
    upstream.default = Script(tokens=("Yes.",))
    async with connect(f"http://{served.address}/") as client:
        one, two = client.conversation(), client.conversation()
        first, second = one.ask(FERRY), two.ask("What does a bicycle cost?")
        assert [await second, await first] == ["Yes.", "Yes."]
        assert one.id != two.id
        await client.conversation(one.id).ask("And dogs?")
    said = [m["content"] for m in upstream.requests[2].messages if m["role"] == "user"]
    assert FERRY in said[0]
    assert "And dogs?" in said[1]


@pytest.mark.parametrize("way", ["break", "block", "timeout", "cancel", "texts", "await"])
async def test_leaving_stops_the_model(served: Served, upstream: Upstream, way: str) -> None:
    """However the loop is left, the model is closed, and history keeps what was handed out."""
    upstream.queue(Script(gated=True, tokens=words(50)))
    upstream.default = Script(tokens=("Fine.",))
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        answer = chat.ask(FERRY)
        request = await upstream.request(0)
        kept = "w0 w1 "
        if way == "break":
            await read_to(answer, "w1 ", request)
            gc.collect()
        elif way == "block":
            async with answer:
                await read_to(answer, "w1 ", request)
        elif way == "cancel":
            await read_to(answer, "w1 ", request)
            await answer.cancel()
            assert answer.status == "cancelled"
        elif way == "texts":
            request.release(1)
            async with aclosing(answer.texts()) as texts:
                kept = await anext(texts)
        else:
            request.release(1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(answer) if way == "timeout" else answer, 0.2)
            kept = "w0 "
        await request.closed()
        await answer.wait()
        assert answer.reason == "cancelled"
        assert answer.text == kept
        await chat.ask("And dogs?")
    assert upstream.requests[1].messages[2]["content"] == kept


async def test_leaving_the_client_stops_what_goes_on(served: Served, upstream: Upstream) -> None:
    """At the model, before the socket is closed; what comes after is refused."""
    upstream.queue(Script(gated=True, tokens=words(50)))
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        answer = chat.ask(FERRY)
        request = await upstream.request(0)
        request.release(1)
        while not answer.text:
            await asyncio.sleep(0.005)
    await request.closed()
    assert isinstance(client.state, Closed)
    assert answer.status == "cancelled"
    with pytest.raises(ConnectionLost):
        await chat.ask("And dogs?")


async def test_what_was_not_handed_out_is_not_kept(served: Served, upstream: Upstream) -> None:
    """A cancel from another task ends the loop; the text is what the loop had given by then."""
    upstream.queue(Script(gated=True, tokens=words(50)))
    async with connect(f"ws://{served.address}") as client:
        answer = client.conversation().ask(FERRY)
        request = await upstream.request(0)
        request.release(1)
        told = ""
        async for text in answer.texts():
            told += text
            request.release(1)
            if told == "w0 w1 ":
                while answer.text == told:
                    await asyncio.sleep(0.005)
                await asyncio.wait_for(answer.cancel(), PATIENCE_S)
        assert answer.text == told == "w0 w1 "


async def test_errors_say_what_to_do(served: Served, upstream: Upstream) -> None:
    """Each kind has its class, with the code, the field and the text so far."""
    upstream.queue(Script(status=429, retry_after=7), Script(tokens=("a ", "b"), error_at=1))
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        with pytest.raises(RateLimited) as limited:
            await chat.ask(FERRY)
        assert limited.value.retryable
        assert limited.value.retry_after == 7
        with pytest.raises(UpstreamFailed) as failed:
            await chat.ask(FERRY)
        assert (failed.value.code, failed.value.text) == ("upstream_failed", "a ")
        with pytest.raises(Refused) as refused:
            await chat.ask(FERRY, temperature=9)
        assert refused.value.param == "temperature"
        with pytest.raises(Refused) as unknown:
            await client.conversation("conv_unknown").ask(FERRY)
        assert unknown.value.code == "conversation_not_found"


async def test_functions_are_called_and_answered(served: Served, upstream: Upstream) -> None:
    """The call stands in the response's output, and its output goes back as input."""
    tide: dict[str, Any] = {"type": "function", "name": "tide", "parameters": {"type": "object"}}
    upstream.queue(
        Script(tokens=calls("tide", "{}", id="call_x"), finish_reason="tool_calls"),
        Script(tokens=("At nine.",)),
    )
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        answer = chat.ask("High tide?", tools=[tide])
        assert await answer == ""
        assert answer.response is not None
        (call,) = answer.response["output"]
        assert call["type"] == "function_call"
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "9"}
        assert await chat.ask([output], tools=[tide]) == "At nine."


async def test_steer_edit_and_regenerate(served: Served, upstream: Upstream) -> None:
    """A steered answer ends where it was; an edited one is not in the next prompt."""
    upstream.queue(Script(gated=True, tokens=words(50)))
    upstream.default = Script(tokens=("Fine.",))
    async with connect(f"ws://{served.address}") as client:
        chat = client.conversation()
        answer = chat.ask(FERRY)
        (await upstream.request(0)).release(1)
        async for text in answer.texts():
            assert text == "w0 "
            steered = answer.steer("In French, please.")
        assert answer.reason == "steered"
        assert answer.text == "w0 "
        assert await steered == "Fine."

        await steered.edit("In German, please.")
        messages = upstream.requests[2].messages
        assert "German" in messages[-1]["content"]
        assert all("French" not in message["content"] for message in messages)
        last = chat.ask("Shorter.")
        await last
        assert await last.regenerate() == "Fine."
        said = [message["content"] for message in upstream.requests[4].messages]
        assert sum("Shorter." in text for text in said) == 1
        await answer.edit("When does the bus leave?")
        (only,) = (m for m in upstream.requests[5].messages if m["role"] == "user")
        assert "bus" in only["content"]


async def test_another_client_follows_from_the_start(served: Served, upstream: Upstream) -> None:
    """A response that one client asked for comes whole to another one, which may stop it."""
    upstream.queue(Script(gated=True, tokens=words(10)))
    async with connect(f"ws://{served.address}") as one, connect(f"ws://{served.address}") as two:
        answer = one.conversation().ask(FERRY)
        request = await upstream.request(0)
        request.release(1)
        async for event in answer:
            if event["type"] == "response.output_text.delta":
                assert answer.id is not None
                other = two.resume(answer.id)
                await read_to(other, "w1 ", request)
        await other.wait()
        assert answer.reason == other.reason == "cancelled"
        assert answer.text == other.text == "w0 w1 "
        with pytest.raises(Refused):
            await two.resume("resp_unknown")


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n", b"HTTP/1.1 503 No"]
)
async def test_an_http_answer_that_breaks_off(said: bytes) -> None:
    """Whatever there was of it, it is a lost connection or a failure of the server, in words."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises((ConnectionLost, ServerFailed)):
            await connect(f"http://{host}:{port}").http("GET", "/v1/models")


async def read_through(proxy: FaultProxy) -> str:
    """Read an answer with no error handling at all."""
    told = ""
    async with connect(f"ws://{proxy.address}", heartbeat_s=0.3) as client:
        async for text in client.conversation().ask(FERRY).texts():
            told += text
    return told


async def cut(state: Path, upstream: Upstream, *, runs: int, seed: int) -> None:
    """Read answers through 20 random faults each, some at a time, and compare byte by byte."""
    upstream.default = LONG
    at_a_time = asyncio.Semaphore(8)

    async def run(served: Served, number: int) -> None:
        async with (
            at_a_time,
            FaultProxy(served.address, cuts=20, after=range(300, 4_001), seed=number) as proxy,
        ):
            told = await asyncio.wait_for(read_through(proxy), 110)
            assert told == "".join(words(500)), f"seed {number}, faults {proxy.done}"
            assert len(proxy.done) == 20

    async with serving(state, upstream=upstream) as served, asyncio.TaskGroup() as tasks:
        for number in range(seed, seed + runs):
            tasks.create_task(run(served, number))
    assert len(upstream.requests) == runs, "a question was asked twice"


async def test_a_bare_loop_reads_through_twenty_faults(state: Path, upstream: Upstream) -> None:
    """Closed, reset, half-open and silent connections: the text is the same, asked for once."""
    await cut(state, upstream, runs=2, seed=random.randrange(10**9))


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_two_hundred_answers_through_twenty_faults(state: Path, upstream: Upstream) -> None:
    """The same, two hundred times."""
    await cut(state, upstream, runs=200, seed=1)


async def test_a_restart_in_mid_answer(state: Path, upstream: Upstream) -> None:
    """SIGTERM: the answer ends in the drain or is cut, and says which; the next ask works."""
    upstream.queue(Script(gated=True, tokens=words(50)))
    upstream.default = Script(tokens=("Fine.",))
    async with serving(state, upstream=upstream, drain_s=0.2) as served:
        host, port = served.address.split(":")
        async with connect(f"ws://{served.address}") as client:
            chat = client.conversation()
            answer = chat.ask(FERRY)
            (await upstream.request(0)).release(1)
            while not answer.text:
                await asyncio.sleep(0.005)
            served.server.should_exit = True
            await served.stopped.wait()
            with pytest.raises(Interrupted) as cut_off:
                await answer
            assert cut_off.value.reason == "shutdown"
            assert cut_off.value.text == answer.text == "w0 "
            waiting = chat.ask("And now?")
            async with serving(state, upstream=upstream, port=int(port), host=host):
                client.hurry()
                assert await waiting == "Fine."


async def test_a_server_that_is_killed_in_mid_answer(
    state: Path, tmp_path: Path, upstream: Upstream
) -> None:
    """Nobody could store the answer; the error says so and holds what came. The next ask works.

    What a killed server leaves is what stands on its disk at that moment, so the next one gets a
    copy of it; that a process can really be killed is shown elsewhere.
    """
    upstream.queue(Script(gated=True, tokens=words(50)))
    upstream.default = Script(tokens=("Fine.",))
    async with serving(state, upstream=upstream, drain_s=0.1) as served:
        async with FaultProxy(served.address) as proxy, connect(f"ws://{proxy.address}") as client:
            chat = client.conversation()
            answer = chat.ask(FERRY)
            (await upstream.request(0)).release(1)
            while not answer.text or not answer.id:
                await asyncio.sleep(0.005)
            # Its row is written beside the stream.
            while not await served.runner.history.get(answer.id, owner="local"):
                await asyncio.sleep(0.01)
            left = shutil.copytree(state, tmp_path / "left")
            async with serving(left, upstream=upstream) as after:
                proxy.point(after.address)
                with pytest.raises(Interrupted) as cut_off:
                    await asyncio.wait_for(answer, PATIENCE_S)
                assert cut_off.value.reason == "worker_lost"
                assert cut_off.value.text == answer.text == "w0 "
                assert await asyncio.wait_for(chat.ask("And dogs?"), PATIENCE_S) == "Fine."


async def test_an_ask_that_was_answered_long_ago_gets_its_end() -> None:
    """Said again after a restart, it is answered by a terminal event alone, of a name not heard.

    The same end once more is not taken for that of the next ask.
    """
    asked: list[dict[str, Any]] = []

    def end(number: int) -> str:
        text = {"type": "output_text", "text": f"{number}.", "annotations": [], "logprobs": []}
        message = {"id": f"msg_{number}_0", "type": "message", "content": [text]}
        facts = {"reason": "completed", "code": None, "reference": None}
        response = {
            "id": f"resp_{number}",
            "status": "completed",
            "output": [message],
            "conversation": {"id": "conv_1"},
            "ragsocket": facts,
        }
        return json.dumps(
            {"type": "response.completed", "sequence_number": 9, "response": response}
        )

    async def serve_once(socket: ServerConnection) -> None:
        async for frame in socket:
            asked.append(json.loads(frame))
            if len(asked) == 1:
                socket.transport.abort()
            elif len(asked) == 2:
                await socket.send(end(1))
            else:
                await socket.send(end(1))
                await socket.send(end(2))

    async with serve(serve_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as client:
            chat = client.conversation("conv_1")
            assert await asyncio.wait_for(chat.ask(FERRY), PATIENCE_S) == "1."
            assert await asyncio.wait_for(chat.ask("And dogs?"), PATIENCE_S) == "2."
    assert asked[0] == asked[1]
    assert asked[1]["event_id"] != asked[2]["event_id"]


async def test_states_are_told(served: Served, upstream: Upstream) -> None:
    """Ready, offline with the time of the next try, ready again, and closed at the end."""
    seen: list[State] = []
    upstream.queue(Script(gated=True, tokens=words(2)))
    async with FaultProxy(served.address) as proxy:
        async with asyncio.TaskGroup() as tasks, connect(f"ws://{proxy.address}") as client:

            async def watch() -> None:
                async for state in client.states():
                    seen.append(state)

            tasks.create_task(watch())
            answer = client.conversation().ask(FERRY)
            request = await upstream.request(0)
            proxy.reset()
            request.release(2)
            assert await answer == "w0 w1 "
    kinds = [type(state) for state in seen]
    assert kinds == [Ready, Offline, Resuming, Ready, Closed]


async def test_nothing_there_is_said_at_once() -> None:
    """A wrong address is an error of the first connection, not a wait for ever."""
    with pytest.raises(ConnectionLost, match="nothing answers"):
        async with connect("ws://127.0.0.1:9"):
            pass
    with pytest.raises(ValueError, match="no address of a server"):
        connect("127.0.0.1:8000")
