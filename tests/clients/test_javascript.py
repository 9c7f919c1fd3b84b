"""The JavaScript client in Node, against the real server."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from javascript import played, playing
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from faults import FaultProxy
from harness import PATIENCE_S, Event, Served, answer_text, serving, until
from ragsocket.protocol.errors import CloseCode
from ragsocket.transports.websocket import Connections
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
INSTEAD = "How do I get to Holm without the ferry?"
TOKENS = tuple(f"t{n} " for n in range(500))
FEW = TOKENS[:12]
LONG = Script(tokens=TOKENS, rate=400, one_by_one=True)
IMPATIENT = {"quietMs": 60, "patienceMs": 400, "waitMs": 5}
"""Options of a client that notices a dead network soon, yet lets a busy machine open a socket."""


def url(served: Served) -> str:
    """Return the server's address as a user writes it."""
    return f"http://{served.address}"


async def stored(served: Served, response_id: str) -> Event:
    """Return a response as the server has it."""
    async with served.http() as http:
        response: Event = (await http.get(f"/v1/responses/{response_id}")).json()
    return response


def times_asked(upstream: Upstream, question: str) -> int:
    """Return how often the model was asked something."""
    last = [str(request.messages[-1]["content"]) for request in upstream.requests]
    return sum(question in one for one in last)


async def lost_twenty_times(served: Served, upstream: Upstream, seed: int, **about: Any) -> None:
    """Read one answer through twenty lost connections, and look at every event of it."""
    question = f"{FERRY} ({seed})"
    async with FaultProxy(served.address, cuts=20, after=range(1, 4_001), seed=seed) as proxy:
        async with playing(
            "whole", f"http://{proxy.address}", question=question, options=IMPATIENT, **about
        ) as play:
            try:
                read = await play.result()
            except TimeoutError:
                raise AssertionError(f"no end with seed {seed}, faults {proxy.done}") from None
    assert len(proxy.done) == 20
    assert read["told"] == read["text"] == "".join(TOKENS)
    assert read["numbers"] == list(range(len(read["numbers"])))
    assert read["status"] == "completed"
    assert play.states.count("offline") >= 10
    assert times_asked(upstream, question) == 1


async def test_twenty_lost_connections_lose_nothing(served: Served, upstream: Upstream) -> None:
    """Whatever breaks it: every event comes once and in order, and nothing is asked twice."""
    upstream.default = LONG
    async with anyio.create_task_group() as tasks:
        for seed in range(3):
            tasks.start_soon(lost_twenty_times, served, upstream, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("script", "at_once"), [("play.mjs", 4), ("chromium.mjs", 2)])
async def test_two_hundred_answers_survive_twenty_lost_connections_each(
    served: Served, upstream: Upstream, script: str, at_once: int
) -> None:
    """The same, in 200 runs of other faults, in Node and in Chromium."""
    upstream.default = LONG
    at_a_time = anyio.CapacityLimiter(at_once)

    async def run(seed: int) -> None:
        async with at_a_time:
            await lost_twenty_times(served, upstream, seed, script=script)

    async with anyio.create_task_group() as tasks:
        for seed in range(200):
            tasks.start_soon(run, seed)


async def test_what_the_server_has_forgotten_comes_as_a_snapshot(
    state: Path, upstream: Upstream
) -> None:
    """Away for longer than events are kept, a loop over the text is handed all that it missed."""
    upstream.queue(Script(tokens=TOKENS[:200], gated=True))
    async with serving(state, upstream=upstream, replay_events=32) as served:
        async with FaultProxy(served.address) as proxy, served.talk("/v1/responses") as talk:
            address = f"http://{proxy.address}"
            options = {"waitMs": 20}
            async with playing("texts", address, question=FERRY, options=options) as play:
                request = await upstream.request(0)
                request.release(1)
                first = await play.line()
                # The port of nobody.
                proxy.point("127.0.0.1:1")
                run = served.runner.lineage.get(first["id"], owner="local")
                assert run is not None
                # Somebody reads on, so that the log moves; one at a time, so that none are merged.
                await talk.send({"type": "response.resume", "response_id": run.id})
                for _ in range(100):
                    request.release(1)
                    await talk.until("response.output_text.delta")
                assert run.log.first > first["number"] + 1
                proxy.point(served.address)
                while (await play.line())["told"] != "".join(TOKENS[:101]):
                    pass
                request.release(100)
                read = await play.result()
    assert read == {"told": "".join(TOKENS[:200]), "text": "".join(TOKENS[:200])}


async def test_documents_are_uploaded_searched_and_listed(served: Served) -> None:
    """A file goes into a vector store over HTTP and is found there."""
    words = "The ferry to Lund leaves at noon."
    seen = await played("documents", url(served), words=words)
    assert "notes.md" in seen["names"]
    assert seen["found"] == [["notes.md", words]]


async def test_leaving_the_loop_stops_the_answer(served: Served, upstream: Upstream) -> None:
    """What was handed out is what the server keeps, and the model's connection is closed."""
    upstream.queue(Script(tokens=TOKENS, rate=200))
    left = await played("leave", url(served), question=FERRY, pieces=3)
    await (await upstream.request(0)).closed()
    assert left["told"] == left["text"] != ""
    assert left["status"] == "cancelled"
    assert "".join(TOKENS).startswith(left["told"])
    assert answer_text(await stored(served, left["id"])) == left["told"]


@pytest.mark.parametrize("way", ["cancel", "signal"])
async def test_an_answer_is_stopped_from_outside(
    served: Served, upstream: Upstream, way: str
) -> None:
    """The loop ends by itself, without an error."""
    upstream.queue(Script(tokens=FEW, gated=True))
    async with playing("stop", url(served), question=FERRY, way=way) as play:
        request = await upstream.request(0)
        request.release(2)
        told = ""
        while told != "t0 t1 ":
            told = (await play.line())["told"]
        await play.tell()
        stop = await play.result()
        await request.closed()
    assert stop == {
        "told": told, "text": told, "status": "cancelled", "reason": "cancelled",
    }  # fmt: skip


async def test_what_was_never_sent_is_stopped_at_once(served: Served, upstream: Upstream) -> None:
    """Without a word to the server."""
    stops = await played("stopBefore", url(served), question=FERRY)
    assert stops == [{"id": None, "status": "cancelled", "text": ""}] * 2
    assert upstream.requests == []


async def test_conversations_go_on_side_by_side(served: Served, upstream: Upstream) -> None:
    """Both answers come over one socket at the same time, each to its own loop."""
    upstream.queue(Script(tokens=FEW, gated=True), Script(tokens=FEW, gated=True))
    async with playing("sideBySide", url(served), question=FERRY) as play:
        for number in range(2):
            await upstream.request(number)
        for step in range(len(FEW)):
            for request in upstream.requests:
                request.release(1)
            heard = {(await play.line())["id"] for _ in range(2)}
            assert len(heard) == 2, step
        answers = await play.result()
    assert [answer["text"] for answer in answers] == ["".join(FEW)] * 2
    assert len({answer["chat"] for answer in answers}) == 2


async def test_answers_of_a_conversation_go_on_from_one_another(
    served: Served, upstream: Upstream
) -> None:
    """The model is told what was said before, and the conversation can be taken up by its id."""
    upstream.default = Script(tokens=FEW)
    many = await played("many", url(served), question=FERRY, times=3)
    assert [read["text"] for read in many["seen"]] == ["".join(FEW)] * 3
    assert many["id"].startswith("conv_")
    roles = [message["role"] for message in upstream.requests[2].messages]
    assert roles[-5:] == ["user", "assistant", "user", "assistant", "user"]


async def test_what_an_answer_carries(served: Served, upstream: Upstream) -> None:
    """Sources, citations in units of JavaScript's strings, usage, timings, and why it ended."""
    upstream.queue(Script(tokens=("𝒜t ", "7:40 [1]", " 🛳 daily [1].")))
    seen = await played("attributes", url(served), question=FERRY)
    assert seen["before"] == [None, "queued", None, None, None]
    assert seen["text"] == "𝒜t 7:40 [1] 🛳 daily [1]."
    assert (seen["status"], seen["reason"], seen["same"]) == ("completed", "completed", True)
    assert seen["sources"][0]["filename"] == "ferry.md"
    assert "7:40" in seen["sources"][0]["text"]
    assert [mark["filename"] for mark in seen["citations"]] == ["ferry.md"] * 2
    assert seen["marked"] == ["𝒜t 7:40 [1]", "𝒜t 7:40 [1] 🛳 daily [1]"]
    assert seen["usage"]["output_tokens"] > 0
    assert all(milliseconds >= 0 for milliseconds in seen["timings"].values())
    # What was not read while it came can be read afterwards.
    assert seen["drained"]["told"] == seen["text"]


async def test_errors_say_what_to_do(served: Served, upstream: Upstream) -> None:
    """Each error is of a kind of its own, and has the server's code and words."""
    upstream.queue(Script(status=429, retry_after=7), Script(status=401), Script(tokens=FEW, cut=3))
    refused, limited, unauthorized, cut, unknown, missing = await played(
        "errors",
        url(served),
        asks=[["hello", {"model": "nobody"}], ["hello", {}], ["hello", {}], ["hello", {}]],
    )
    assert (refused["name"], refused["code"], refused["param"]) == (
        "Refused",
        "model_not_found",
        "model",
    )
    assert not refused["retryable"]
    assert (limited["name"], limited["code"]) == ("RateLimited", "upstream_rate_limited")
    assert (limited["retryable"], limited["retryAfter"]) == (True, 7)
    assert (unauthorized["name"], unauthorized["retryable"]) == ("UpstreamFailed", False)
    assert (cut["name"], cut["code"]) == ("UpstreamFailed", "upstream_interrupted")
    assert (cut["text"], cut["retryable"]) == ("t0 t1 t2 ", True)
    assert cut["responseId"].startswith("resp_")
    assert (unknown["name"], unknown["code"]) == ("Refused", "response_not_found")
    assert missing["name"] == "Refused"


async def test_edit_and_regenerate(served: Served, upstream: Upstream) -> None:
    """Both go on from where the answer in question did, in one conversation, also the first."""
    upstream.default = Script(tokens=FEW)
    seen = await played("instead", url(served))
    assert seen["previous"] == [None, seen["first"], seen["first"], seen["first"], None]
    before, after = seen["conversations"]
    assert before == after
    asked = [
        [message["content"] for message in request.messages if message["role"] == "user"]
        for request in upstream.requests
    ]
    assert [len(questions) for questions in asked] == [1, 2, 2, 2, 1]
    assert ["Does it rain" in questions[-1] for questions in asked] == [
        False, False, True, True, False,
    ]  # fmt: skip


async def test_an_answer_is_followed_from_elsewhere(served: Served, upstream: Upstream) -> None:
    """From the start or from an event on, once or twice; and it can be stopped from there."""
    upstream.queue(Script(tokens=FEW, gated=True))
    async with served.talk("/v1/responses") as talk:
        await talk.ask(FERRY, stream_id="c0")
        id = (await talk.until("response.created"))["response"]["id"]
        request = await upstream.request(0)
        request.release(1)
        delta = await talk.until("response.output_text.delta")
        number = delta["sequence_number"]
        async with playing("resume", url(served), id=id, startingAfter=number - 1) as play:
            run = served.runner.lineage.get(id, owner="local")
            assert run is not None
            await until(lambda: run.log.followers == 2)
            request.release(len(FEW))
            followed = await play.result()
        end = await talk.terminal()
    numbers = range(number, end["sequence_number"] + 1)
    assert followed["same"]
    assert followed["numbers"] == list(numbers)
    # It holds what came before as well, though that was not asked for.
    assert followed["text"] == "".join(FEW)
    assert followed["status"] == "completed"
    assert followed["steered"]["name"] == "Refused"

    upstream.queue(Script(tokens=FEW, gated=True))
    async with served.talk("/v1/responses") as talk:
        await talk.ask(FERRY)
        id = (await talk.until("response.created"))["response"]["id"]
        (await upstream.request(1)).release(1)
        stopped = await played("resume", url(served), id=id, stop=True)
    assert stopped["text"] == "t0 "
    assert stopped["status"] == "cancelled"


async def test_an_answer_is_steered(served: Served, upstream: Upstream) -> None:
    """It ends where it is, and what steered it is answered at once, from there on."""
    upstream.queue(Script(tokens=FEW, gated=True), Script(tokens=("By ", "bus.")))
    about = {"question": FERRY, "instead": INSTEAD, "when": "text"}
    async with playing("steer", url(served), **about) as play:
        request = await upstream.request(0)
        request.release(1)
        assert (await play.line())["text"] == "t0 "
        await play.tell()
        seen = await play.result()
        await request.closed()
    assert (seen["text"], seen["told"]) == ("t0 ", "t0 ")
    assert (seen["status"], seen["reason"]) == ("incomplete", "steered")
    assert seen["then"]["text"] == "By bus."
    assert seen["then"]["numbers"] == list(range(len(seen["then"]["numbers"])))
    assert seen["previous"] == seen["id"]


@pytest.mark.parametrize("when", ["asked", "ended"])
async def test_what_has_not_begun_or_is_over_is_steered_as_well(
    served: Served, upstream: Upstream, when: str
) -> None:
    """The one waits until the answer is there to be steered, the other is asked anew."""
    upstream.default = Script(tokens=("By ", "bus."), rate=100)
    about = {"question": FERRY, "instead": INSTEAD, "when": when}
    seen = await played("steer", url(served), **about)
    assert seen["then"]["text"] == "By bus."
    assert seen["then"]["status"] == "completed"
    assert seen["reason"] in {"asked": ("steered", "cancelled"), "ended": ("completed",)}[when]
    assert INSTEAD in upstream.requests[-1].messages[-1]["content"]


async def test_an_answer_that_is_queued_is_stopped_and_asked_anew(
    served: Served, upstream: Upstream
) -> None:
    """The server does not steer what it has not begun; to whoever asks it is the same."""
    upstream.queue(Script(tokens=FEW, gated=True), Script(tokens=("By ", "bus.")))
    about = {"question": FERRY, "instead": INSTEAD, "when": "queued"}
    async with playing("steer", url(served), **about) as play:
        await play.line()
        (await upstream.request(0)).release(len(FEW))
        seen = await play.result()
    assert (seen["status"], seen["text"]) == ("cancelled", "")
    assert seen["then"]["text"] == "By bus."
    assert len(upstream.requests) == 2


async def test_steering_survives_lost_connections(served: Served, upstream: Upstream) -> None:
    """Whenever the connection is lost, the input that steers is answered, and once only."""
    upstream.default = Script(tokens=FEW, rate=60)

    async def steer(seed: int) -> None:
        async with FaultProxy(served.address, cuts=6, after=range(1, 2_501), seed=seed) as proxy:
            about = {"question": f"{FERRY} {seed}", "instead": f"{INSTEAD} {seed}", "when": "text"}
            address = f"http://{proxy.address}"
            async with playing("steer", address, options=IMPATIENT, **about) as play:
                await play.line()
                await play.tell()
                seen = await play.result()
        assert seen["then"]["text"] == "".join(FEW)
        assert seen["then"]["numbers"] == list(range(len(seen["then"]["numbers"])))
        assert "".join(FEW).startswith(seen["text"])
        assert times_asked(upstream, f"{INSTEAD} {seed}") == 1

    async with anyio.create_task_group() as tasks:
        for seed in range(6):
            tasks.start_soon(steer, seed)


@pytest.mark.parametrize("script", ["play.mjs", "chromium.mjs"])
async def test_a_shutdown_in_the_middle_is_named(
    upstream: Upstream, state: Path, script: str
) -> None:
    """The drain ends the answer; what came stands in the error, and the next server answers on."""
    upstream.queue(Script(tokens=FEW, gated=True), Script(tokens=FEW))
    options = {"waitMs": 20}
    async with serving(state, upstream=upstream, drain_s=0.1) as served:
        port = int(served.address.rpartition(":")[2])
        about: dict[str, Any] = {"question": FERRY, "options": options, "script": script}
        async with playing("interrupted", url(served), **about) as play:
            (await upstream.request(0)).release(2)
            while (await play.line())["told"] != "t0 t1 ":
                pass
            served.server.should_exit = True
            await served.stopped.wait()
            async with serving(state, upstream=upstream, port=port):
                await play.tell()
                ended = await play.result()
    assert ended["error"]["name"] == "Interrupted"
    assert ended["error"]["reason"] == "shutdown"
    assert ended["error"]["text"] == ended["told"] == "t0 t1 "
    assert ended["next"]["text"] == "".join(FEW)


@pytest.mark.parametrize("script", ["play.mjs", "chromium.mjs"])
async def test_a_server_that_is_killed_in_the_middle_is_named(
    state: Path, tmp_path: Path, upstream: Upstream, script: str
) -> None:
    """Nobody could store the answer; the error says so and holds what came.

    What a killed server leaves is what stands on its disk at that moment, so the next one gets a
    copy of it; that a process can really be killed is shown elsewhere.
    """
    upstream.queue(Script(tokens=FEW, gated=True), Script(tokens=FEW))
    options = {"waitMs": 20}
    async with serving(state, upstream=upstream, drain_s=0.1) as served:
        async with FaultProxy(served.address) as proxy:
            address = f"http://{proxy.address}"
            about: dict[str, Any] = {"question": FERRY, "options": options, "script": script}
            async with playing("interrupted", address, **about) as play:
                (await upstream.request(0)).release(2)
                while (said := await play.line())["told"] != "t0 t1 ":
                    pass
                # Its row is written beside the stream.
                with anyio.fail_after(PATIENCE_S):
                    while not await served.runner.history.get(said["id"], owner="local"):
                        await anyio.sleep(0.01)
                left = shutil.copytree(state, tmp_path / "left")
                async with serving(left, upstream=upstream) as after:
                    proxy.point(after.address)
                    await play.tell()
                    ended = await play.result()
    assert ended["error"]["name"] == "Interrupted"
    assert ended["error"]["reason"] == "worker_lost"
    assert ended["error"]["text"] == ended["told"] == "t0 t1 "
    assert ended["next"]["text"] == "".join(FEW)


async def test_asked_while_nobody_is_there(state: Path, upstream: Upstream) -> None:
    """The question waits until there is a server, however often that is tried in vain."""
    upstream.default = Script(tokens=FEW)
    async with serving(state, upstream=upstream) as served:
        port = int(served.address.rpartition(":")[2])
    async with playing(
        "whole", f"ws://127.0.0.1:{port}/ws", question=FERRY, options={"waitMs": 20}
    ) as play:
        async with serving(state, upstream=upstream, port=port):
            read = await play.result()
    assert read["text"] == "".join(FEW)
    assert play.states[-2:] == ["ready", "closed"]


async def test_the_states_of_a_connection(served: Served) -> None:
    """Connecting, ready, offline until the next try, resuming, closed: each is told in its turn."""
    connections: Connections = served.app.state.connections
    async with playing("states", url(served), until="closed", options={"waitMs": 10}) as play:
        assert (await play.line())["name"] == "connecting"
        assert (await play.line())["name"] == "ready"
        connections.close_all(CloseCode.SLOW_READER)
        offline = await play.line()
        assert offline["name"] == "offline"
        assert offline["retryAt"] > 1e12
        assert (await play.line())["name"] == "resuming"
        assert (await play.line())["name"] == "ready"
        connections.close_all(CloseCode.FORBIDDEN)
        closed = await play.result()
    assert closed == {"name": "closed", "code": 4403, "reason": "", "retryable": False}
    assert play.states[-1] == "closed"


async def test_a_client_that_is_not_let_in_says_so(served: Served) -> None:
    """It is told once, is not tried again, and whatever is asked fails with the reason."""
    options = {"origin": "https://evil.example", "waitMs": 1}
    async with playing("closed", url(served), question=FERRY, options=options) as play:
        seen = await play.result()
    assert seen["error"]["name"] == seen["late"]["name"] == "ConnectionLost"
    assert "4403" in seen["error"]["message"]
    assert "origin_not_allowed" in seen["error"]["message"]
    assert seen["status"] == "failed"
    assert play.states == ["ready", "closed"]


@dataclass
class Doorkeeper:
    """A socket that knows some tokens, closes with 4401 for the others, and notes all of them."""

    known: set[str]
    offered: list[list[str]] = field(default_factory=list)

    async def serve(self, socket: ServerConnection) -> None:
        """Let one client in, or not."""
        assert socket.request is not None
        offered = socket.request.headers["Sec-WebSocket-Protocol"].split(",")
        assert socket.subprotocol == "ragsocket.v1"
        self.offered.append([one.strip() for one in offered])
        if self.offered[-1][1].removeprefix("bearer.") not in self.known:
            await socket.close(4401)
        await socket.wait_closed()


@asynccontextmanager
async def guarded_by(door: Doorkeeper) -> AsyncIterator[str]:
    """Serve nothing but the door; yields its address."""
    protocols = [Subprotocol("ragsocket.v1")]
    async with serve(door.serve, "127.0.0.1", 0, subprotocols=protocols) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_token_that_is_not_taken() -> None:
    """It is offered as a sub-protocol, once, and whatever is asked fails with the reason."""
    door = Doorkeeper({"new"})
    async with guarded_by(door) as address:
        options = {"token": "old", "waitMs": 1}
        seen = await played("closed", address, question=FERRY, options=options)
    assert seen["error"]["name"] == seen["late"]["name"] == "AuthExpired"
    assert door.offered == [["ragsocket.v1", "bearer.old"]]


async def test_a_token_is_made_for_every_connection() -> None:
    """An expired one costs nothing but a connection; a second one that is not taken is enough."""
    door = Doorkeeper({"new"})
    async with guarded_by(door) as address:
        options = {"token": ["old", "new"], "waitMs": 1}
        async with playing("states", address, until="never", options=options) as play:
            names = [(await play.line())["name"] for _ in range(5)]
            await until(lambda: len(door.offered) == 2)
        assert names == ["connecting", "ready", "offline", "resuming", "ready"]
        options = {"token": ["old", "older"], "waitMs": 1}
        closed = await played("states", address, until="closed", options=options)
    assert closed == {"name": "closed", "code": 4401, "reason": "", "retryable": True}
    offered = [one for _, one in door.offered]
    assert offered == ["bearer.old", "bearer.new", "bearer.old", "bearer.older"]


async def test_an_ask_that_was_answered_long_ago_gets_its_end() -> None:
    """Said again after a restart, it is answered by a terminal event alone, of a name not heard."""
    asked: list[Event] = []
    text = {"type": "output_text", "text": "At 7:40.", "annotations": [], "logprobs": []}
    message = {"id": "msg_1_0", "type": "message", "status": "completed", "content": [text]}
    response = {
        "id": "resp_1", "status": "completed", "output": [message],
        "conversation": {"id": "conv_1"}, "ragsocket": {"reason": "completed"},
    }  # fmt: skip

    async def once(socket: ServerConnection) -> None:
        asked.append(json.loads(await socket.recv()))
        if len(asked) == 1:
            socket.transport.abort()
            return
        end = {"type": "response.completed", "sequence_number": 9, "response": response}
        for _ in range(2):
            await socket.send(json.dumps(end))
        await socket.wait_closed()

    async with serve(once, "127.0.0.1", 0) as server:
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        about = {"question": FERRY, "id": "conv_1", "times": 1, "options": {"waitMs": 1}}
        many = await played("many", address, **about)
    assert [read["text"] for read in many["seen"]] == ["At 7:40."]
    assert asked[0] == asked[1]
