"""`/v1/responses` over HTTP, by hand and with the official client."""

from __future__ import annotations

import json
from typing import Any

import anyio
import openai
import pytest

from harness import Served, answer_text, official, serving, text_of
from ragsocket.protocol.resources import Response
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
URL = "/v1/responses"


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a body; checks its form on the way."""
    *blocks, last = [block for block in text.split("\n\n") if block]
    assert last == "data: [DONE]"
    events = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_the_official_client_asks_and_looks_up(served: Served, upstream: Upstream) -> None:
    """One JSON object with its passages; the same again by its id, and a follow-up to it."""
    upstream.queue(Script(tokens=("At ", "7:40 [1].")), Script(tokens=("Free.",)))
    async with official(served) as client:
        answer = await client.responses.create(
            input=FERRY, instructions="Be brief.", include=["file_search_call.results"]
        )
        assert answer.output_text == "At 7:40 [1]."
        assert answer.status == "completed"
        assert answer.output[0].type == "file_search_call"
        assert answer.output[0].results
        again = await client.responses.retrieve(answer.id)
        assert again.model_dump() == answer.model_dump()
        more = await client.responses.create(input="And dogs?", previous_response_id=answer.id)
        assert more.output_text == "Free."
    assert "Be brief." in upstream.requests[0].messages[0]["content"]
    roles = [message["role"] for message in upstream.requests[1].messages]
    assert roles == ["system", "user", "assistant", "user"]


async def test_the_official_client_streams(served: Served, upstream: Upstream) -> None:
    """Every event of a socket comes, in order, and the text adds up."""
    upstream.queue(Script(tokens=("At ", "7:40.")))
    async with (
        official(served) as client,
        client.responses.stream(input=FERRY, model="scripted") as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "At 7:40."
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


async def test_any_door_finds_the_same_bytes(served: Served, upstream: Upstream) -> None:
    """What was asked on a socket replays over HTTP from every event on."""
    async with served.talk(URL) as talk, served.http() as http:
        events = await talk.answer(FERRY)
        id = events[0]["response"]["id"]
        for after in (-1, 0, len(events) // 2, len(events) - 1):
            query = f"stream=true&starting_after={after}"
            answer = await http.get(f"{URL}/{id}?{query}")
            assert events_of(answer.text) == events[after + 1 :]
        assert (await http.get(f"{URL}/{id}")).json() == events[-1]["response"]


async def test_a_running_answer_is_followed_and_stopped(served: Served, upstream: Upstream) -> None:
    """A second follower reads along; a cancel returns the resource, again and again the same."""
    upstream.queue(Script(gated=True))
    async with served.talk() as talk, served.http() as http, anyio.create_task_group() as tasks:
        await talk.ask(FERRY)
        created = await talk.until("response.created")
        path = f"{URL}/{created['response']['id']}"
        request = await upstream.request(0)
        request.release(1)
        delta = await talk.until("response.output_text.delta")
        seen: list[dict[str, Any]] = []

        async def follow() -> None:
            number = delta["sequence_number"]
            answer = await http.get(f"{path}?stream=true&starting_after={number - 1}")
            seen.extend(events_of(answer.text))

        tasks.start_soon(follow)
        running = (await http.get(path)).json()
        assert running["status"] == "in_progress"
        search, message = running["output"]
        assert (search["status"], message["status"]) == ("completed", "in_progress")
        assert answer_text(running) == delta["delta"]
        stopped = (await http.post(f"{path}/cancel")).json()
        assert stopped["status"] == "cancelled"
        await request.closed()
        assert (await http.post(f"{path}/cancel")).json() == stopped
    assert seen[0] == delta
    assert seen[-1]["type"] == "response.incomplete"
    assert text_of(seen) == delta["delta"]


async def test_a_restart_keeps_the_resource_and_the_last_event(
    served: Served, upstream: Upstream
) -> None:
    """Looked up, stopped or followed, it is the end that was stored."""
    async with served.talk(URL) as talk:
        events = await talk.answer(FERRY)
    end = events[-1]
    path = f"{URL}/{end['response']['id']}"
    served.server.should_exit = True
    await served.stopped.wait()
    async with serving(served.settings.state_dir, upstream=upstream) as again, again.http() as http:
        assert (await http.get(path)).json() == end["response"]
        assert (await http.post(f"{path}/cancel")).json() == end["response"]
        assert events_of((await http.get(f"{path}?stream=true")).text) == [end]
        last = end["sequence_number"]
        answer = await http.get(f"{path}?stream=true&starting_after={last}")
        assert events_of(answer.text) == []


@pytest.mark.parametrize("stream", [True, False])
async def test_hanging_up_stops_the_model(
    served: Served, upstream: Upstream, *, stream: bool
) -> None:
    """At once, even before there is anything to read."""
    upstream.queue(Script(gated=True))
    async with served.http() as http, anyio.create_task_group() as tasks:

        async def give_up() -> None:
            await upstream.request(0)
            tasks.cancel_scope.cancel()

        tasks.start_soon(give_up)
        await http.post(URL, json={"input": FERRY, "stream": stream})
    left = await upstream.requests[0].closed()
    await served.idle()
    assert left.written == 0


async def test_a_failure_is_a_resource(served: Served, upstream: Upstream) -> None:
    """It is stored and can be looked up; in a stream its own event tells of it."""
    upstream.default = Script(status=429)
    async with official(served) as client:
        failed = await client.responses.create(input=FERRY)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "rate_limit_exceeded"
        assert (await client.responses.retrieve(failed.id)).status == "failed"
    async with served.http() as http:
        answer = await http.post(URL, json={"input": FERRY, "stream": True})
    assert events_of(answer.text)[-1]["type"] == "response.failed"


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        (b"{", 400, None, "the body is not JSON"),
        (b"[]", 400, None, "Send one JSON object as the body"),
        (b"null", 400, None, "Send one JSON object as the body"),
        ({}, 400, "input", "input is missing"),
        ({"input": FERRY, "stream": "yes"}, 400, "stream", "true or false"),
        ({"input": FERRY, "stream": 1}, 400, "stream", "true or false"),
        ({"input": FERRY, "colour": "red"}, 400, "colour", "is not a field of this request"),
        ({"input": FERRY, "background": "yes"}, 400, "background", "boolean"),
        ({"input": FERRY, "background": True, "store": False}, 400, "store", "is stored"),
        ({"input": FERRY, "conversation": "conv_x", "store": False}, 400, "store", "is stored"),
        ({"input": FERRY, "model": "gpt-9"}, 404, "model", "there is scripted"),
        (
            {"input": FERRY, "conversation": "conv_nope"},
            404,
            "conversation",
            "there is no conversation",
        ),
        (
            {"input": FERRY, "previous_response_id": "resp_x", "stream": True},
            400,
            "previous_response_id",
            "there is no response",
        ),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    served: Served, upstream: Upstream, body: Any, status: int, param: str | None, words: str
) -> None:
    """In the standard's shape, with the field's name, and the model is never asked."""
    found, error = await served.refusal(URL, body)
    assert (found, error["param"]) == (status, param)
    assert words in error["message"]
    assert upstream.requests == []


async def test_what_is_not_there_is_not_found(served: Served) -> None:
    """Looked up, followed or stopped, it is a 404 that names it."""
    async with official(served) as client, served.http() as http:
        with pytest.raises(openai.NotFoundError, match="resp_nope"):
            await client.responses.retrieve("resp_nope")
        with pytest.raises(openai.NotFoundError, match="resp_nope"):
            await client.responses.cancel("resp_nope")
        assert (await http.get(f"{URL}/resp_nope?stream=true")).status_code == 404
        assert (await http.get(f"{URL}/resp_nope?starting_after=-9")).status_code == 400


async def test_every_error_has_the_one_shape(served: Served) -> None:
    """Paths that are not there, methods that are not for them, and fields without effect too."""
    async with served.http() as http:
        nowhere = await http.get("/v1/nowhere")
        wrong = await http.put("/v1/responses")
        alone = await http.get(f"{URL}/resp_x?starting_after=3")
    found = [(a.status_code, a.json()["error"]["code"]) for a in (nowhere, wrong, alone)]
    assert found == [(404, "not_found"), (405, "method_not_allowed"), (400, "invalid_event")]
    assert "POST" in wrong.headers["allow"]
    assert set(alone.json()["error"]) == {"type", "code", "message", "param"}


async def test_the_description_of_the_doors_is_whole(served: Served) -> None:
    """Every reference in it leads somewhere, and the bodies are in it."""
    async with served.http() as http:
        document = (await http.get("/openapi.json")).json()
    references: set[str] = set()

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            references.update(value for key, value in part.items() if key == "$ref")
            part = list(part.values())
        if isinstance(part, list):
            for one in part:
                collect(one)

    collect(document)
    assert references
    for reference in references:
        place: Any = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]
    body = document["paths"]["/v1/responses"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert {"input", "stream"} <= set(schema["properties"])
    assert schema["properties"]["stream"]["type"] == "boolean"
    assert "$defs" not in schema
    for path, methods in document["paths"].items():
        for method, door in methods.items():
            assert {"200", "4XX", "5XX"} <= set(door["responses"]), (method, path)
            assert "422" not in door["responses"], (method, path)
            for name in door.get("parameters", ()):
                assert name["description"], (method, path, name)
    streamed = document["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
    assert set(streamed) == {"application/json", "text/event-stream"}
    Response.model_validate(streamed["application/json"]["example"])
