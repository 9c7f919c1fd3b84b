"""Going away is not stopping; and when it comes to be one, the rule is the same on every door."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from harness import Served, Talk, serving, text_of, until
from upstream import Request, Script, Upstream

FERRY = "When does the ferry to Holm leave?"
SEEN = "w0 w1 w2 w3 "


async def see(talk: Talk, request: Callable[[], Awaitable[Request]]) -> str:
    """Ask, read what is `SEEN` token by token, and return the response's id."""
    await talk.ask(FERRY)
    created = await talk.until("response.created")
    model = await request()
    for _ in range(4):
        model.release(1)
        await talk.until("response.output_text.delta")
    id: str = created["response"]["id"]
    return id


async def by_cancel(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Stop by saying so on the socket."""
    async with served.talk() as talk:
        await see(talk, request)
        await talk.send({"type": "response.cancel"})
        await talk.terminal()


async def by_socket_drop(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Drop the socket and stay away past the grace; more is made meanwhile."""
    async with served.talk() as talk:
        await see(talk, request)
        talk.socket.transport.abort()
    await until(lambda: all(r.log.followers == 0 for r in served.runner._unfinished))
    (await request()).release(3)


async def _read(response: httpx.Response, model: Request, count: Callable[[str], int]) -> None:
    text = ""
    chunks = response.aiter_text()
    for n in range(4):
        model.release(1)
        while count(text) < n + 1:
            text += await anext(chunks)


async def by_event_source_drop(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Close an EventSource and stay away past the grace."""
    async with (
        served.http() as http,
        http.stream("GET", "/stream-question/events", params={"query_text": FERRY}) as response,
    ):
        model = await request()
        await _read(response, model, lambda text: text.count("response.output_text.delta"))
    await until(lambda: all(r.log.followers == 0 for r in served.runner._unfinished))
    model.release(3)


async def by_text_drop(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Hang up on the plain-text door, whose headers come with the first text."""

    async def first_token() -> None:
        (await request()).release(1)

    params = {"query_text": FERRY}
    async with served.http() as http, anyio.create_task_group() as tasks:
        tasks.start_soon(first_token)
        async with http.stream("GET", "/stream-question/", params=params) as response:
            model = await request()
            text = ""
            chunks = response.aiter_text()
            for n in range(4):
                while text.count("w") < n + 1:
                    text += await anext(chunks)
                if n < 3:
                    model.release(1)


async def by_chat_drop(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Hang up on chat completions."""
    body = {"messages": [{"role": "user", "content": FERRY}], "stream": True}
    await _by_post_drop(served, request, "/v1/chat/completions", body, '"content":"w')


async def by_events_drop(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Hang up on the events of a POST."""
    body = {"input": FERRY, "stream": True, "include": ["file_search_call.results"]}
    await _by_post_drop(served, request, "/v1/responses", body, '"delta":"w')


async def _by_post_drop(
    served: Served,
    request: Callable[[], Awaitable[Request]],
    path: str,
    body: dict[str, Any],
    mark: str,
) -> None:
    async def first_token() -> None:
        (await request()).release(1)

    async with served.http() as http, anyio.create_task_group() as tasks:
        # Headers may come with the first text.
        tasks.start_soon(first_token)
        async with http.stream("POST", path, json=body) as response:
            model = await request()
            text = ""
            chunks = response.aiter_text()
            for n in range(4):
                while text.count(mark) < n + 1:
                    text += await anext(chunks)
                if n < 3:
                    model.release(1)


async def by_http_cancel(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Stop over HTTP what was asked on a socket."""
    async with served.talk() as talk, served.http() as http:
        id = await see(talk, request)
        answer = (await http.post(f"/v1/responses/{id}/cancel")).json()
        assert answer["status"] == "cancelled"
        assert (await talk.terminal())["response"] == answer


async def by_steer(served: Served, request: Callable[[], Awaitable[Request]]) -> None:
    """Steer, and leave alone what answers in its place."""
    async with served.talk() as talk:
        id = await see(talk, request)
        steer = {"type": "response.steer", "previous_response_id": id}
        await talk.send({**steer, "input": "And dogs?"})
        end = await talk.terminal()
        assert end["response"]["incomplete_details"] == {"reason": "steered"}
        await talk.until("response.in_progress")


def _stored(served: Served) -> str:
    """Return the first stored response with all in it that is neither chance nor the way."""
    connection = sqlite3.connect(served.settings.state_dir / "history.sqlite3")
    try:
        rows = connection.execute("SELECT response FROM responses WHERE finished ORDER BY rowid")
        text = rows.fetchone()[0]
    finally:
        connection.close()
    response = json.loads(text)
    # A steering says so where the standard has a word for it; other stops are `cancelled`.
    ways = {("cancelled", None), ("incomplete", "steered")}
    details = response.pop("incomplete_details")
    assert (response.pop("status"), details and details["reason"]) in ways
    for chance in ("id", "created_at", "conversation", "ragsocket", "usage"):
        del response[chance]
    return re.sub(r"\b(msg|fs)_[0-9a-f]{32}", r"\1_", json.dumps(response))


async def test_every_way_of_stopping_stores_the_same_bytes(
    upstream: Upstream, ingested: Path, tmp_path: Path
) -> None:
    """A cancel on either door, a lost socket, and whatever hangs up on HTTP end alike."""
    found: dict[str, str] = {}
    at_once = (by_cancel, by_http_cancel, by_steer, by_text_drop, by_chat_drop, by_events_drop)
    ways = (*at_once, by_socket_drop, by_event_source_drop)
    for way in ways:
        upstream.queue(Script(gated=True))
        upstream.default = Script(tokens=("Free.",))
        number = len(upstream.requests)

        async def request(number: int = number) -> Request:
            return await upstream.request(number)

        state = shutil.copytree(ingested, tmp_path / way.__name__)
        async with serving(state, upstream=upstream, detach_grace_s=0.3) as served:
            await way(served, request)
            left = await (await request()).closed()
            await served.idle()
            found[way.__name__] = _stored(served)
            if way in at_once:
                assert left.written == 4
    assert len(set(found.values())) == 1, found
    assert json.loads(found["by_cancel"])["output"][-1]["content"][0]["text"] == SEEN


async def test_an_answer_that_ends_while_nobody_listens_is_whole(
    served: Served, upstream: Upstream
) -> None:
    """Within the grace a lost client costs nothing: the answer completes and is kept whole."""
    upstream.queue(Script(tokens=("one ", "two "), gated=True))
    async with served.talk("/v1/responses") as talk:
        await talk.ask(FERRY)
        created = await talk.until("response.created")
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.output_text.delta")
    request.release(1)
    await served.idle()
    record = await served.runner.history.get(created["response"]["id"], owner="local")
    assert record is not None
    assert record.response.status == "completed"
    assert [turn.text for turn in record.turns()][1] == "one two "


async def test_event_source_resumes_and_never_asks_again(
    served: Served, upstream: Upstream
) -> None:
    """`Last-Event-ID` goes on at the next event; after the last one 204 ends the reconnecting."""
    upstream.queue(Script(tokens=("one ", "two "), gated=True))
    events: list[tuple[str, dict[str, object]]] = []

    async def follow(http: httpx.AsyncClient, until_type: str) -> int:
        headers = {"Last-Event-ID": events[-1][0]} if events else {}
        url = "/stream-question/events"
        async with http.stream(
            "GET", url, params={"query_text": FERRY}, headers=headers
        ) as response:
            if response.status_code != 200:
                return response.status_code
            assert response.headers["content-type"].startswith("text/event-stream")
            buffer = ""
            async for chunk in response.aiter_text():
                buffer += chunk
                while "\n\n" in buffer:
                    block, buffer = buffer.split("\n\n", 1)
                    id_line, data_line = block.split("\n")
                    event = json.loads(data_line.removeprefix("data: "))
                    events.append((id_line.removeprefix("id: "), event))
                    if event["type"] == until_type:
                        return 200
        return 200

    async with served.http() as http:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, http, "response.output_text.delta")
            request = await upstream.request(0)
            request.release(1)
        request.release(1)
        await follow(http, "response.completed")
        assert await follow(http, "") == 204
    assert len(upstream.requests) == 1
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert text_of([event for _, event in events]) == "one two "


async def test_event_source_of_an_old_answer_gets_its_end(
    served: Served, upstream: Upstream
) -> None:
    """After a restart `Last-Event-ID` still gets the terminal event from the history, then 204."""
    async with served.http() as http:
        whole = await http.get("/stream-question/events", params={"query_text": FERRY})
    response_id = whole.headers["X-Response-Id"]
    last = whole.text.strip().split("\n\n")[-1]
    served.server.should_exit = True
    await served.stopped.wait()
    async with (
        serving(served.settings.state_dir, upstream=upstream) as again,
        again.http() as http,
    ):
        url = "/stream-question/events?query_text=x"
        end = await http.get(url, headers={"Last-Event-ID": f"{response_id}:3"})
        assert end.text.strip() == last
        last_id = last.split("\n")[0].removeprefix("id: ")
        assert (await http.get(url, headers={"Last-Event-ID": last_id})).status_code == 204
        bad = await http.get(url, headers={"Last-Event-ID": "nonsense"})
        assert bad.status_code == 400
        unknown = await http.get(url, headers={"Last-Event-ID": f"resp_{'0' * 32}:1"})
        assert unknown.status_code == 404


@pytest.mark.parametrize("path", ["/stream-question", "/stream-question/"])
async def test_the_text_door_is_the_answer_and_nothing_else(
    served: Served, upstream: Upstream, path: str
) -> None:
    """With and without the slash: text/plain, chunked, the answer's text, its id in a header."""
    upstream.queue(Script(tokens=("At ", "7:40 ", "[1].")))
    async with served.http() as http:
        answer = await http.get(path, params={"query_text": FERRY, "similarity_top_k": 1})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "At 7:40 [1]."
    record = await served.runner.history.get(answer.headers["X-Response-Id"], owner="local")
    assert record is not None


async def test_the_text_door_ends_abnormally_when_the_answer_is_not_whole(
    served: Served, upstream: Upstream
) -> None:
    """A model that breaks off in the middle leaves a broken stream, not a short answer."""
    upstream.queue(Script(cut=2))
    async with served.http() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/stream-question/", params={"query_text": FERRY})


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(status=401), 502, "upstream_unauthorized"),
        (Script(status=429), 429, "upstream_rate_limited"),
        (Script(status=500), 502, "upstream_unavailable"),
    ],
)
async def test_the_text_door_says_failures_before_the_first_byte_by_status(
    served: Served, upstream: Upstream, script: Script, status: int, code: str
) -> None:
    """What fails before any text is an HTTP error with a code and no text of the model's server."""
    upstream.queue(script)
    async with served.http() as http:
        answer = await http.get("/stream-question/", params={"query_text": FERRY})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "scripted" not in answer.text


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "query_text"),
        ("query_text=", "query_text"),
        ("query_text=%20", "input"),
        ("query_text=a&similarity_top_k=0", "similarity_top_k"),
        ("query_text=a&response_mode=accumulate", "response_mode"),
    ],
)
async def test_the_text_door_names_a_bad_parameter(served: Served, query: str, param: str) -> None:
    """A missing or wrong parameter is a 400 that names it."""
    async with served.http() as http:
        answer = await http.get(f"/stream-question/?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
