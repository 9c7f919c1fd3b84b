"""The behaviours that the Open Responses compliance suite names, held to its schema as data.

The schema knows neither `file_search_call` nor `file_citation`, so nothing is searched here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError

from harness import Event, Served, answer_text, serving, text_of
from upstream import Script, Upstream, calls

SCHEMA = Path(__file__).parents[1] / "data" / "open_responses.json"
NO_SEARCH: dict[str, Any] = {"tools": []}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Gets the weather.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": True,
}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


@cache
def schemas() -> dict[str, Any]:
    """Every schema of the specification by its name."""
    document: dict[str, Any] = json.loads(SCHEMA.read_text())
    return document["components"]["schemas"]  # type: ignore[no-any-return]


@cache
def event_schemas() -> dict[str, str]:
    """The schema's name of each event type."""
    return {
        schema["properties"]["type"]["enum"][0]: name
        for name, schema in schemas().items()
        if name.endswith("StreamingEvent")
    }


def validate(name: str, value: Any) -> None:
    """Fail unless a value fits the schema of that name."""
    root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas()}}
    Draft202012Validator(root).validate(value)


def hold_to_schema(events: list[Event]) -> dict[str, Any]:
    """Validate every event, and return the response at the end."""
    for event in events:
        validate(event_schemas()[event["type"]], event)
        if "response" in event:
            validate("ResponseResource", event["response"])
    response: dict[str, Any] = events[-1]["response"]
    return response


@pytest.fixture
async def open_served(upstream: Upstream, state: Path) -> AsyncIterator[Served]:
    """A server whose model takes pictures."""
    async with serving(state, upstream=upstream, llm_images=True) as server:
        yield server


Door = Literal["socket", "sse", "json"]


@pytest.fixture(params=get_args(Door))
def door(request: pytest.FixtureRequest) -> Door:
    """Each of the doors that speak the protocol."""
    which: Door = request.param
    return which


async def ask(served: Served, door: Door, items: Any, **fields: Any) -> list[Event]:
    """Ask at a door; what comes as JSON is the end of an answer, and has no other events."""
    fields = {**NO_SEARCH, **fields}
    if door == "socket":
        async with served.talk("/v1/responses") as talk:
            return await talk.answer(items, **fields)
    async with served.http() as http:
        asked = {"input": items, "stream": door == "sse", **fields}
        answer = await http.post("/v1/responses", json=asked)
    assert answer.status_code == 200
    if door == "json":
        end: Event = answer.json()
        return [{"type": f"response.{end['status']}", "sequence_number": 0, "response": end}]
    *events, done = [
        line.removeprefix("data: ") for line in answer.text.splitlines() if line[:5] == "data:"
    ]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def test_the_check_can_fail() -> None:
    """A response without its status is no response."""
    with pytest.raises(ValidationError, match="is a required property"):
        validate("ResponseResource", {"id": "resp_1"})


async def test_basic_and_streaming(open_served: Served, upstream: Upstream, door: Door) -> None:
    """A text comes in deltas that add up to it."""
    upstream.queue(Script(tokens=("One, ", "two, ", "three.")))
    events = await ask(open_served, door, "Count to three.")
    response = hold_to_schema(events)
    assert (response["status"], answer_text(response)) == ("completed", "One, two, three.")
    assert door == "json" or text_of(events) == "One, two, three."
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_system_prompt(open_served: Served, upstream: Upstream, door: Door) -> None:
    """A system message is told to the model as its instructions."""
    said = [
        {"type": "message", "role": "system", "content": "Talk like a pirate."},
        {"type": "message", "role": "user", "content": "Hello."},
    ]
    hold_to_schema(await ask(open_served, door, said))
    system, user = (await upstream.request(0)).messages
    assert "Talk like a pirate." in system["content"]
    assert user["content"] == "Hello."


async def test_tool_calling(open_served: Served, upstream: Upstream, door: Door) -> None:
    """A function is called, in pieces of its arguments, and nothing else is said."""
    upstream.queue(Script(tokens=calls("get_weather", '{"place":', '"Holm"}')))
    events = await ask(open_served, door, "How is the weather in Holm?", tools=[WEATHER])
    (call,) = hold_to_schema(events)["output"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"]) == {"place": "Holm"}
    if door == "json":
        return
    types = [event["type"] for event in events]
    assert "response.function_call_arguments.delta" in types
    assert types.count("response.function_call_arguments.done") == 1


async def test_image_input(open_served: Served, upstream: Upstream, door: Door) -> None:
    """A picture stands beside the text of the user's message."""
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PICTURE},
    ]
    hold_to_schema(
        await ask(open_served, door, [{"type": "message", "role": "user", "content": parts}])
    )
    content = (await upstream.request(0)).messages[1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


async def test_multi_turn(open_served: Served, upstream: Upstream, door: Door) -> None:
    """A conversation that is handed in as a whole is told in its order."""
    said = [
        {"type": "message", "role": role, "content": text}
        for role, text in (
            ("user", "I am Ada."),
            ("assistant", "Hello Ada."),
            ("user", "Who am I?"),
        )
    ]
    hold_to_schema(await ask(open_served, door, said))
    messages = (await upstream.request(0)).messages[1:]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]


async def test_ways_to_end(open_served: Served, upstream: Upstream) -> None:
    """Answers that the model broke off or never gave have the same shape."""
    upstream.queue(Script(finish_reason="length"), Script(cut=3))
    async with open_served.talk("/v1/responses") as talk:
        assert hold_to_schema(await talk.answer("a", **NO_SEARCH))["status"] == "incomplete"
        assert hold_to_schema(await talk.answer("b", **NO_SEARCH))["status"] == "failed"


async def test_several_in_sequence_on_one_socket(open_served: Served, upstream: Upstream) -> None:
    """One socket answers one after the other, each going on from the one before."""
    previous: dict[str, str] = {}
    async with open_served.talk("/v1/responses") as talk:
        for turn in range(3):
            response = hold_to_schema(await talk.answer(f"turn {turn}", **NO_SEARCH, **previous))
            previous = {"previous_response_id": response["id"]}
    assert len((await upstream.request(2)).messages) == 6


def turn(text: str) -> list[dict[str, Any]]:
    """A user's message as an item."""
    return [{"type": "message", "role": "user", "content": text}]


async def test_continuation_of_an_answer_that_is_not_stored(
    open_served: Served, upstream: Upstream
) -> None:
    """Known by its id on its socket; after reconnecting not, and the whole conversation helps."""
    fields = {**NO_SEARCH, "store": False}
    async with open_served.talk("/v1/responses") as talk:
        first = hold_to_schema(await talk.answer(turn("I am Ada."), **fields))
        go_on = {**fields, "previous_response_id": first["id"]}
        second = hold_to_schema(await talk.answer(turn("Who am I?"), **go_on))
        assert second["previous_response_id"] == first["id"]
        assert "Ada" in str(upstream.requests[1].messages)
    async with open_served.talk("/v1/responses") as talk:
        await talk.ask(turn("Who am I?"), **go_on)
        error = await talk.recv()
        assert (error["type"], error["error"]["code"]) == ("error", "previous_response_not_found")
        assert (error["status"], error["error"]["param"]) == (400, "previous_response_id")
        whole = [*turn("I am Ada."), *first["output"], *turn("Who am I?")]
        hold_to_schema(await talk.answer(whole, **fields))
    assert [m["role"] for m in upstream.requests[2].messages][1:] == ["user", "assistant", "user"]


async def test_a_previous_response_that_never_was(open_served: Served) -> None:
    """It is named as the fault, and the socket answers what comes next."""
    async with open_served.talk("/v1/responses") as talk:
        await talk.ask(turn("Hello."), previous_response_id="resp_never", **NO_SEARCH)
        assert (await talk.recv())["error"]["code"] == "previous_response_not_found"
        hold_to_schema(await talk.answer(turn("Hello."), **NO_SEARCH))


async def test_a_failed_continuation_evicts_what_was_remembered(open_served: Served) -> None:
    """After a function's output that no call asked for, the answer before it is forgotten."""
    fields = {**NO_SEARCH, "store": False}
    async with open_served.talk("/v1/responses") as talk:
        first = hold_to_schema(await talk.answer(turn("Hello."), **fields))
        go_on = {**fields, "previous_response_id": first["id"]}
        output = {"type": "function_call_output", "call_id": "call_never", "output": "1"}
        assert (await talk.answer([output], **go_on))[-1]["type"] == "response.failed"
        await talk.ask(turn("Hello again."), **go_on)
        assert (await talk.recv())["error"]["code"] == "previous_response_not_found"
