"""`from_start`: the first question of a conversation is asked anew, or another in its place."""

from __future__ import annotations

from typing import Any

from harness import Served, Talk
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"


async def conversation(served: Served, id: str) -> Any:
    """Read a conversation."""
    async with served.http() as http:
        return (await http.get(f"/v1/conversations/{id}")).json()


async def begun(talk: Talk) -> str:
    """Ask twice, and return the conversation."""
    hello = await talk.recv()
    await talk.answer(FERRY)
    await talk.answer("And dogs on the ferry?")
    id: str = hello["conversation"]
    return id


async def test_nothing_before_it_is_told(served: Served, upstream: Upstream) -> None:
    """The head moves to the new first answer, which the next question goes on from."""
    async with served.talk() as talk:
        id = await begun(talk)
        events = await talk.answer("Does a bicycle travel on the ferry?", from_start=True)
        await talk.answer("And a dog on the ferry?")
    assert events[-1]["response"]["previous_response_id"] is None
    assert events[-1]["response"]["conversation"] == {"id": id}
    asked = [
        [message["content"] for message in request.messages if message["role"] == "user"]
        for request in upstream.requests
    ]
    assert [len(questions) for questions in asked] == [1, 2, 1, 2]
    assert "bicycle" in asked[3][0]
    async with served.http() as http:
        items = (await http.get(f"/v1/conversations/{id}/items?order=asc")).json()["data"]
    questions = [item["content"][0]["text"] for item in items if item.get("role") == "user"]
    assert questions == ["Does a bicycle travel on the ferry?", "And a dog on the ferry?"]


async def test_its_words_are_the_title(served: Served) -> None:
    """Unless somebody gave the conversation another, which stays."""
    async with served.talk() as talk:
        id = await begun(talk)
        await talk.answer("Does a Bicycle travel on the ferry?", from_start=True)
        told = await conversation(served, id)
        assert told["ragsocket"]["title"] == "Does a Bicycle travel on the ferry?"
        async with served.http() as http:
            found = await http.get("/v1/conversations", params={"q": "bicycle"})
            assert [one["id"] for one in found.json()["data"]] == [id]
            await http.post(f"/v1/conversations/{id}", json={"metadata": {"title": "Crossing"}})
        await talk.answer(FERRY, from_start=True)
        told = await conversation(served, id)
        assert told["ragsocket"]["title"] == "Crossing"


async def test_what_is_steered_then_goes_on_from_it(served: Served, upstream: Upstream) -> None:
    """The successor inherits its settings, and not its place."""
    async with served.talk() as talk:
        await begun(talk)
        upstream.queue(Script(gated=True))
        await talk.ask("Does a bicycle travel on the ferry?", from_start=True)
        request = await upstream.request(2)
        request.release(1)
        delta = await talk.until("response.output_text.delta")
        target = "resp_" + delta["item_id"].split("_")[1]
        steer = {"type": "response.steer", "previous_response_id": target, "input": "In miles."}
        await talk.send(steer)
        await talk.until("response.completed")
    said = [message["content"] for message in upstream.requests[3].messages]
    assert any("bicycle" in text for text in said)


async def test_it_is_before_everything(served: Served) -> None:
    """Naming something to go on from as well is refused."""
    async with served.talk() as talk:
        await talk.ask(FERRY, from_start=True, previous_response_id="resp_" + "0" * 32)
        error = await talk.until("error")
    assert (error["code"], error["param"]) == ("invalid_event", "from_start")
