"""The wire is the standard's: its types, and its own client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponsesServerEvent
from pydantic import BaseModel

from harness import Served, Talk, answer_text, serving
from upstream import Script, Upstream, calls

FERRY = "When does the ferry to Holm leave?"


def standard_types() -> dict[str, type[BaseModel]]:
    """Return the SDK's model of each server event type."""
    union = get_args(get_args(ResponsesServerEvent)[0]) or get_args(ResponsesServerEvent)
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in union}


def declared(model: type[BaseModel], value: Any) -> None:
    """Fail if a value holds a field that the model does not declare, except ours."""
    extra = set(value) - set(model.model_fields)
    ours = {"ragsocket", "event_id", "status", "code", "message", "param"}
    # Open Responses has these two, as numbers that must be there.
    assert extra <= ours | {"presence_penalty", "frequency_penalty"}, extra


async def everything(served: Served, upstream: Upstream) -> list[dict[str, Any]]:
    """Provoke every server event there is."""
    upstream.queue(
        Script(tokens=("At 7:40 [1].",)),
        Script(gated=True),
        Script(cut=2),
        Script(finish_reason="length"),
        Script(gated=True),
        Script(tokens=("Steered.",)),
        Script(reasoning=("Let me ", "see."), tokens=("Wait. ", *calls("tide", '{"day":', "1}"))),
    )
    async with served.talk() as talk:
        await talk.answer(FERRY, stream_id="lane", event_id="e1", user="u", metadata={"a": "b"})
        await talk.ask(FERRY)
        await talk.ask(FERRY)
        request = await upstream.request(1)
        request.release(1)
        await talk.until("response.output_text.delta")
        await talk.send({"type": "response.cancel"})
        await talk.terminal()
        await talk.terminal()
        await talk.answer(FERRY)
        await talk.answer(FERRY)
        await talk.ask(FERRY, stream_id="lane")
        request = await upstream.request(4)
        created = await talk.until("response.in_progress")
        steer = {
            "type": "response.steer",
            "previous_response_id": created["response"]["id"],
            "input": [{"type": "message", "role": "user", "content": "And dogs?"}],
            "event_id": "s",
        }
        await talk.send(steer)
        await talk.until("response.completed")
        await talk.send(steer)
        await talk.until("response.steer.failed")
        tide = {"type": "function", "name": "tide", "parameters": {"type": "object"}}
        await talk.answer(FERRY, tools=[tide], tool_choice="required", reasoning={"effort": "low"})
        await talk.send("{")
        await talk.until("error")
        await talk.send({"type": "response.cancel"})
        await talk.send({"type": "ragsocket:ping"})
        await talk.until("ragsocket:pong")
        return talk.seen


async def test_every_server_event_is_the_standards(served: Served, upstream: Upstream) -> None:
    """Each event without our prefix validates strictly against the SDK's type of that name."""
    events = await everything(served, upstream)
    types = standard_types()
    seen = set()
    for event in events:
        if event["type"].startswith("ragsocket:"):
            continue
        seen.add(event["type"])
        model = types[event["type"]]
        model.model_validate_json(json.dumps(event), strict=True)
        declared(model, event)
        if "response" in event:
            Response.model_validate_json(json.dumps(event["response"]), strict=True)
            declared(Response, {k: v for k, v in event["response"].items() if k != "store"})
    assert seen == {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.steer.accepted",
        "response.steer.failed",
        "error",
    }


def test_a_broken_event_would_be_noticed() -> None:
    """The check above can fail: a delta without its log probabilities is refused."""
    event: dict[str, Any] = {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "sequence_number": 0,
        "delta": "",
    }
    with pytest.raises(ValueError, match="logprobs"):
        standard_types()[event["type"]].model_validate_json(json.dumps(event), strict=True)


async def test_the_official_client_holds_a_conversation(upstream: Upstream, state: Path) -> None:
    """`client.responses.connect()` asks three turns with `previous_response_id`."""
    upstream.queue(*(Script(tokens=(f"answer {n} ", "[1].")) for n in range(3)))
    assert int(openai.__version__.split(".")[0]) >= 3
    async with serving(state, upstream=upstream) as served:
        client = AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="none")
        previous: str | None = None
        texts = []
        async with client, client.responses.connect() as connection:
            for turn in range(3):
                fields: dict[str, Any] = {"previous_response_id": previous} if previous else {}
                await connection.response.create(
                    model="scripted", input=f"{FERRY} ({turn})", **fields
                )
                async for event in connection:
                    if event.type == "response.completed":
                        previous = event.response.id
                        texts.append(event.response.output_text)
                        break
    assert texts == [f"answer {n} [1]." for n in range(3)]
    last = (await upstream.request(2)).messages
    assert [m["role"] for m in last] == ["system", *["user", "assistant"] * 2, "user"]


async def test_results_go_out_elsewhere_only_when_asked_for(served: Served) -> None:
    """On `/v1/responses` the search item carries its passages if `include` names them."""

    async def search(talk: Talk, **fields: Any) -> Any:
        end = (await talk.answer(FERRY, **fields))[-1]
        assert answer_text(end["response"])
        return end["response"]["output"][0]["results"]

    async with served.talk("/v1/responses") as talk:
        assert await search(talk) is None
        [result, *_] = await search(talk, include=["file_search_call.results"])
        assert result["filename"] == "ferry.md"
        assert result["attributes"]["place"]


async def test_the_official_client_steers(served: Served, upstream: Upstream) -> None:
    """`connection.response.steer()`: accepted, ended as steered, and the successor follows."""
    upstream.queue(Script(tokens=("At ", "7:40."), gated=True), Script(tokens=("Free.",)))
    client = AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="none")
    types: list[str] = []
    async with client, client.responses.connect() as connection:
        await connection.response.create(model="scripted", input=FERRY)
        async for event in connection:
            types.append(event.type)
            if event.type == "response.in_progress" and len(types) == 2:
                (await upstream.request(0)).release(1)
            elif event.type == "response.output_text.delta" and event.delta == "At ":
                (first,) = served.runner._unfinished
                await connection.response.steer(previous_response_id=first.id, input="And dogs?")
            elif event.type == "response.incomplete":
                assert event.response.incomplete_details is not None
                assert event.response.incomplete_details.reason == "steered"
                assert event.response.output_text == "At "
            elif event.type == "response.completed":
                assert event.response.previous_response_id == first.id
                assert event.response.output_text == "Free."
                break
    assert "response.steer.accepted" in types


async def test_the_official_client_asks_in_the_background(
    served: Served, upstream: Upstream
) -> None:
    """`background=True` returns at once, and `retrieve` finds the end."""
    upstream.queue(Script(tokens=("At ", "7:40."), gated=True))
    client = AsyncOpenAI(base_url=f"http://{served.address}/v1", api_key="none")
    async with client:
        asked = await client.responses.create(input=FERRY, background=True)
        assert asked.status == "in_progress"
        (await upstream.request(0)).release(2)
        await served.idle()
        found = await client.responses.retrieve(asked.id)
    assert (found.status, found.output_text) == ("completed", "At 7:40.")
