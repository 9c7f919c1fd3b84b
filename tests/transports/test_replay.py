"""What is kept of an answer's events: a bounded window, and a snapshot for the rest."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import websockets
from openai.types.responses import ResponseInProgressEvent

from harness import PATIENCE_S, Event, Served, Talk, answer_text, serving, text_of, until, written
from ragsocket.responses.running import Running
from upstream import Request, Script, Upstream

FERRY = "When does the ferry to Holm leave?"
WINDOW = 32
LONG = tuple(f"t{n} " for n in range(200))
BIG = ("x" * 50_000,) * 800
"""More than the buffers between two sockets of one machine hold."""


async def resume(talk: Talk, response_id: str, after: int) -> None:
    """Ask to follow a response."""
    event = {"type": "response.resume", "response_id": response_id, "starting_after": after}
    await talk.send({**event, "event_id": "r"})


def folded(snapshot: Event, live: list[Event]) -> str:
    """The text that a snapshot and the events after it add up to."""
    numbers = [event["sequence_number"] for event in (snapshot, *live)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert snapshot["response"]["ragsocket"]["snapshot"] is True
    return answer_text(snapshot["response"]) + text_of(live)


async def test_too_old_a_resume_gets_a_snapshot_and_goes_on_live(
    state: Path, upstream: Upstream
) -> None:
    """The gap is named, the snapshot stands for all before it, and no event is missing after."""
    upstream.queue(Script(tokens=LONG, gated=True))
    async with (
        serving(state, upstream=upstream, replay_events=WINDOW) as served,
        served.talk("/v1/responses") as talk,
        served.talk("/v1/responses") as other,
    ):
        id, request = await written(talk, upstream, 100)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        assert run.log.first > 50
        await resume(other, id, 20)
        gap, snapshot = await other.recv(), await other.recv()
        assert (gap["code"], gap["error"]["event_id"]) == ("resume_gap", "r")
        ResponseInProgressEvent.model_validate_json(json.dumps(snapshot), strict=True)
        assert answer_text(snapshot["response"]) == "".join(LONG[:100])
        # One that is not too old loses nothing.
        await resume(talk, id, run.log.first - 1)
        first = await talk.recv()
        assert (first["type"], first["sequence_number"]) == (
            "response.output_text.delta",
            run.log.first,
        )
        request.release(100)
        await other.terminal()
        assert folded(snapshot, other.seen[2:]) == "".join(LONG)
        await resume(other, id, 20)
        gap, end = await other.recv(), await other.recv()
        assert (gap["code"], end) == ("resume_gap", other.seen[-3])
        assert answer_text(end["response"]) == "".join(LONG)
        await talk.terminal()


async def test_event_streams_get_the_snapshot_alone(state: Path, upstream: Upstream) -> None:
    """Server-sent events and `EventSource` go on from it; an error would end them."""
    upstream.queue(Script(tokens=LONG, gated=True))
    async with (
        serving(state, upstream=upstream, replay_events=WINDOW) as served,
        served.talk("/v1/responses") as talk,
        served.http() as http,
    ):
        id, request = await written(talk, upstream, 100)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        bodies: dict[str, str] = {}

        async def read(url: str, headers: dict[str, str]) -> None:
            bodies[url] = (await http.get(url, headers=headers)).text

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, f"/v1/responses/{id}?stream=true&starting_after=3", {})
            url = "/stream-question/events?query_text=x"
            tasks.start_soon(read, url, {"Last-Event-ID": f"{id}:3"})
            await until(lambda: run.log.followers == 3)
            request.release(100)
        await talk.terminal()
    for body in bodies.values():
        lines = [line.removeprefix("data: ") for line in body.split("\n")]
        snapshot, *live = [json.loads(line) for line in lines if line.startswith("{")]
        assert folded(snapshot, live) == "".join(LONG)


async def test_a_socket_that_reads_too_slowly_is_cut_and_may_resume(
    state: Path, upstream: Upstream
) -> None:
    """Close code 4460; others go on, and so does the answer; coming back it is whole."""
    upstream.queue(Script(tokens=BIG, gated=True))
    async with (
        serving(state, upstream=upstream, replay_bytes=100_000) as served,
        served.talk("/v1/responses") as talk,
    ):
        id, request = await written(talk, upstream, 1)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        async with slow_socket(served) as slow:
            await resume(Talk(slow), id, -1)
            await until(lambda: run.log.followers == 2)
            count = await until_cut(talk, request, run)
            code = await Talk(slow).close_code()
        assert code == 4460
        assert run.unfinished
        async with served.talk("/v1/responses") as again:
            await resume(again, id, 3)
            assert (await again.recv())["code"] == "resume_gap"
            snapshot = await again.recv()
            request.release(1)
            await talk.send({"type": "response.cancel"})
            await again.terminal()
            text = folded(snapshot, again.seen[2:])
        assert answer_text((await talk.terminal())["response"]) == text
        assert len(text) in (50_000 * count, 50_000 * (count + 1))


async def until_cut(talk: Talk, request: Request, run: Running) -> int:
    """Release tokens, each read by `talk`, until the other follower is cut; return how many."""
    while run.log.followers > 1:
        assert request.written < len(BIG), "nobody was cut"
        request.release(1)
        await talk.until("response.output_text.delta")
    return request.written


def slow_socket(served: Served) -> Any:
    """A WebSocket client that takes in little at a time."""
    host, port = served.address.split(":")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect((host, int(port)))
    uri = f"ws://{served.address}/v1/responses"
    return websockets.connect(uri, sock=plain, max_size=None, max_queue=1)


async def test_an_event_stream_that_is_read_too_slowly_ends_in_its_middle(
    state: Path, upstream: Upstream
) -> None:
    """So that the client knows that it does not have it all; the answer goes on."""
    upstream.queue(Script(tokens=BIG, gated=True))
    async with (
        serving(state, upstream=upstream, replay_bytes=100_000) as served,
        served.talk("/v1/responses") as talk,
    ):
        id, request = await written(talk, upstream, 1)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        async with (
            served.http() as http,
            http.stream("GET", f"/v1/responses/{id}?stream=true") as answer,
        ):
            await until_cut(talk, request, run)
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        assert run.unfinished
        await talk.send({"type": "response.cancel"})
        await talk.terminal()


async def test_a_long_answer_does_not_keep_its_events(state: Path, upstream: Upstream) -> None:
    """20,000 tokens leave a window of events and one resource behind."""
    tokens = tuple(f"word{n} " for n in range(20_000))
    upstream.queue(Script(tokens=tokens, rate=50_000))
    async with (
        serving(state, upstream=upstream, replay_events=256, replay_bytes=500_000) as served,
        served.talk("/v1/responses") as talk,
    ):
        events = await talk.answer(FERRY)
        run = served.runner.lineage.get(events[0]["response"]["id"], owner="local")
        assert run is not None
        assert text_of(events) == "".join(tokens)
        await until(lambda: run.log.followers == 0)
        assert len(run.log) - run.log.first <= 256
        assert run.log.bytes <= 500_000


@pytest.mark.parametrize(
    ("bound", "kept"),
    [
        ({"replay_answers": 2}, 2),
        ({"replay_total_bytes": 1}, 0),
        ({"replay_s": 0}, 0),
        ({}, 5),
    ],
)
async def test_ended_answers_are_kept_within_bounds(
    state: Path, upstream: Upstream, bound: dict[str, Any], kept: int
) -> None:
    """By count, bytes and time, the newest ones; the others are told by their terminal events."""
    async with (
        serving(state, upstream=upstream, **bound) as served,
        served.talk("/v1/responses") as talk,
    ):
        ends = [(await talk.answer(f"{FERRY} {n}"))[-1] for n in range(5)]
        await served.idle()

        def known(end: Event) -> Running | None:
            return served.runner.lineage.get(end["response"]["id"], owner="local")

        await until(lambda: [end for end in ends if known(end)] == ends[5 - kept :])
        for end in ends:
            await resume(talk, end["response"]["id"], 1)
            with anyio.fail_after(PATIENCE_S):
                if known(end):
                    assert (await talk.recv())["sequence_number"] == 2
                else:
                    assert (await talk.recv())["code"] == "resume_gap"
            assert await talk.terminal() == end


async def test_an_end_that_was_not_stored_is_not_made_up(state: Path, upstream: Upstream) -> None:
    """Once its events are gone, whoever asks is told that there is no end to be had."""
    async with (
        serving(state, upstream=upstream, replay_s=0) as served,
        served.talk("/v1/responses") as talk,
        served.http() as http,
    ):
        id = (await talk.answer(FERRY))[-1]["response"]["id"]
        await until(lambda: served.runner.lineage.get(id, owner="local") is None)
        with sqlite3.connect(state / "history.sqlite3") as file:
            file.execute("UPDATE responses SET finished = 0, last_number = NULL")
        for query in ("", "?stream=true"):
            answer = await http.get(f"/v1/responses/{id}{query}")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "history_unavailable")
        await resume(talk, id, 1)
        assert (await talk.recv())["code"] == "history_unavailable"
