"""`store: false` leaves no trace, `background` needs nobody, `generate: false` only prepares."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import Event, Served, Talk, answer_text, serving, text_of, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
GATED = Script(tokens=("one ", "two ", "three "), gated=True)


def on_disk(served: Served) -> bytes:
    """Return every byte that the history's database holds."""
    files = served.settings.state_dir.glob("history.sqlite3*")
    return b"".join(file.read_bytes() for file in files)


async def unstored(talk: Talk, question: str = FERRY, **fields: Any) -> dict[str, Any]:
    """Ask, with `store: false`, and return the response."""
    response: dict[str, Any] = (await talk.answer(question, store=False, **fields))[-1]["response"]
    return response


async def refusal(talk: Talk, **fields: Any) -> str:
    """Ask what is refused, and return the code."""
    await talk.send({"type": "response.create", "input": "And dogs?", **fields})
    code: str = (await talk.until("error"))["code"]
    return code


async def test_nothing_of_it_is_on_disk(served: Served, upstream: Upstream) -> None:
    """Neither question nor answer; while it is in memory it can be looked up and followed."""
    upstream.default = Script(tokens=("Sesame.",))
    async with served.talk("/v1/responses") as talk, served.http() as http:
        events = await talk.answer("ferry Alibaba?", store=False)
        id = events[-1]["response"]["id"]
        assert events[-1]["response"]["store"] is False
        await talk.answer("ferry stored?")
        assert (await http.get(f"/v1/responses/{id}")).json() == events[-1]["response"]
        await talk.send({"type": "response.resume", "response_id": id})
        assert [await talk.recv() for _ in events] == events
        posted = await http.post("/v1/responses", json={"input": "ferry Alibaba?", "store": False})
        assert posted.json()["store"] is False
        stored = on_disk(served)
    assert b"ferry stored?" in stored
    assert b"Alibaba" not in stored
    assert id.encode() not in stored


async def test_it_is_gone_on_from_on_its_own_connection_alone(
    served: Served, upstream: Upstream
) -> None:
    """There it is history; elsewhere, over HTTP and after reconnecting there is none."""
    async with served.talk("/v1/responses") as talk, served.talk("/v1/responses") as other:
        upstream.queue(Script(tokens=("Seven.",)), Script(tokens=("Free.",)))
        first = await unstored(talk, "ferry one?")
        # What is not said about it is inherited.
        second = (await talk.answer("ferry two?", previous_response_id=first["id"]))[-1]["response"]
        assert second["store"] is False
        await unstored(talk, "ferry three?", previous_response_id=second["id"])
        code = await refusal(other, previous_response_id=second["id"], store=False)
        assert code == "previous_response_not_found"
    async with served.talk("/v1/responses") as talk:
        code = await refusal(talk, previous_response_id=second["id"])
        assert code == "previous_response_not_found"
    said = {"input": "x", "previous_response_id": second["id"]}
    status, error = await served.refusal("/v1/responses", said)
    assert (status, error["code"]) == (400, "previous_response_not_found")
    messages = (await upstream.request(2)).messages
    roles = [(m["role"], m["content"]) for m in messages if m["role"] == "assistant"]
    assert roles == [("assistant", "Seven."), ("assistant", "Free.")]
    assert "ferry one?" in messages[1]["content"]


async def test_a_stored_answer_may_be_gone_on_from_without_storing(
    served: Served, upstream: Upstream
) -> None:
    """The other way round is refused, since the first one would get to disk with it."""
    async with served.talk() as talk:
        conversation = (await talk.recv())["conversation"]
        stored = (await talk.answer("ferry stored?"))[-1]["response"]
        aside = await unstored(talk, "ferry aside?", previous_response_id=stored["id"])
        assert "ferry stored?" in str((await upstream.request(1)).messages)
        for fields in ({"store": True}, {"conversation": conversation}, {"background": True}):
            again = await unstored(talk, "ferry aside?")
            assert await refusal(talk, previous_response_id=again["id"], **fields) == (
                "invalid_event"
            )
        # Nor is it part of the lane's conversation.
        assert aside["conversation"] is None
        await talk.answer("ferry next?")
    assert "aside" not in str(upstream.requests[-1].messages)


async def test_a_failed_continuation_forgets_what_it_went_on_from(
    served: Served, upstream: Upstream
) -> None:
    """Refused, rejected or failed on the way: the next one has to bring its history along."""
    output = {"type": "function_call_output", "call_id": "call_x", "output": "1"}
    async with served.talk("/v1/responses") as talk:
        for fields in ({"colour": "red"}, {"model": "gpt-9"}, {"input": [output]}):
            first = await unstored(talk)
            go_on = {"previous_response_id": first["id"], "store": False}
            await talk.send({"type": "response.create", "input": "x", **go_on, **fields})
            await talk.until("error", "response.failed")
            assert await refusal(talk, **go_on) == "previous_response_not_found"
        whole = [
            {"type": "message", "role": "user", "content": FERRY},
            *first["output"],
            {"type": "message", "role": "user", "content": "And dogs?"},
        ]
        assert (await talk.answer(whole, store=False))[-1]["type"] == "response.completed"
    roles = [m["role"] for m in upstream.requests[-1].messages]
    assert roles == ["system", "user", "assistant", "user"]


async def test_it_may_go_on_from_one_that_still_runs(served: Served, upstream: Upstream) -> None:
    """And be steered, on its own connection; a stop keeps what was seen, as everywhere."""
    upstream.queue(GATED, GATED, Script(tokens=("Free.",)))
    async with served.talk("/v1/responses") as talk, served.talk("/v1/responses") as other:
        await talk.ask("ferry one?", store=False, stream_id="a")
        first = (await talk.until("response.created"))["response"]["id"]
        (await upstream.request(0)).release(1)
        await talk.until("response.output_text.delta")
        await talk.ask("ferry two?", previous_response_id=first, stream_id="b")
        second = (await talk.until("response.queued"))["response"]["id"]
        await talk.send({"type": "response.cancel", "stream_id": "a"})
        await talk.until("response.in_progress")
        (await upstream.request(1)).release(1)
        await talk.until("response.output_text.delta")
        steer = {"type": "response.steer", "previous_response_id": second, "input": "And dogs?"}
        await other.send(steer)
        refused = await other.until("response.steer.failed")
        assert refused["error"]["code"] == "response_not_found"
        await talk.send(steer)
        assert (await talk.until("response.completed"))["response"]["store"] is False
    texts = [m["content"] for m in upstream.requests[2].messages if m["role"] == "assistant"]
    assert texts == ["one ", "one "]
    assert b"ferry" not in on_disk(served)


async def test_only_so_many_are_remembered(served: Served) -> None:
    """The oldest answer that nobody went on from is forgotten."""
    async with served.talk("/v1/responses") as talk:
        ids = [(await unstored(talk))["id"] for _ in range(33)]
        code = await refusal(talk, previous_response_id=ids[0], store=False)
        assert code == "previous_response_not_found"
        await unstored(talk, previous_response_id=ids[1])


@pytest.mark.parametrize("path", ["/ws", "/v1/responses"])
async def test_a_background_answer_needs_nobody(
    upstream: Upstream, served: Served, path: str
) -> None:
    """Left by its socket it goes on past any grace; another one, not so asked for, is cut."""
    upstream.queue(GATED, GATED)
    state = served.settings.state_dir.parent / "other"
    async with serving(state, upstream=upstream, detach_grace_s=0.05) as quick:
        async with quick.talk(path) as talk:
            await talk.ask("ferry one?", background=True, stream_id="a")
            await talk.ask("ferry two?", stream_id="b")
            await upstream.request(1)
        await until(lambda: quick.runner.running == 1)
        (run,) = quick.runner._unfinished
        assert run.request.background
        assert run not in quick.runner._detached
        one, two = upstream.requests
        assert (one.left is None) != (two.left is None)
        (one if one.left is None else two).release(3)
        await quick.idle()
        assert run.response.status == "completed"
        assert run.response.background


async def test_a_background_answer_is_returned_at_once(served: Served, upstream: Upstream) -> None:
    """Over HTTP: in progress, then looked up until its end; or refused, if it cannot be."""
    upstream.queue(GATED)
    async with served.http() as http:
        body = {"input": FERRY, "background": True}
        asked = (await http.post("/v1/responses", json=body)).json()
        assert (asked["status"], asked["background"]) == ("in_progress", True)
        url = f"/v1/responses/{asked['id']}"
        assert (await http.get(url)).json()["status"] == "in_progress"
        (await upstream.request(0)).release(3)
        await served.idle()
        whole = (await http.get(url)).json()
    assert (whole["status"], answer_text(whole)) == ("completed", "one two three ")
    status, error = await served.refusal("/v1/responses", {**body, "conversation": "conv_x"})
    assert (status, error["code"]) == (404, "conversation_not_found")


async def test_a_background_stream_outlives_its_client(served: Served, upstream: Upstream) -> None:
    """Hanging up on the events of a POST does not stop it."""
    upstream.queue(GATED)
    body = {"input": FERRY, "background": True, "stream": True}
    async with served.http() as http:
        async with http.stream("POST", "/v1/responses", json=body) as response:
            id = response.headers["X-Response-Id"]
            (await upstream.request(0)).release(1)
        run = served.runner.lineage.get(id, owner="local")
        assert run is not None
        await until(lambda: run.log.followers == 0)
        upstream.requests[0].release(2)
        await served.idle()
        assert answer_text((await http.get(f"/v1/responses/{id}")).json()) == "one two three "


async def test_prepared_it_says_nothing_and_is_gone_on_from(
    served: Served, upstream: Upstream
) -> None:
    """`generate: false` completes without output; the next prompt holds what was handed in."""
    told = [{"type": "message", "role": "user", "content": "I am Ada."}]
    for fields in ({}, {"store": False}):
        asked = len(upstream.requests)
        async with served.talk("/v1/responses") as talk:
            events = await _prepare(talk, input=told, **fields)
            assert [e["type"] for e in events] == [
                "response.created",
                "response.in_progress",
                "response.completed",
            ]
            end = events[-1]["response"]
            assert (end["status"], end["output"]) == ("completed", [])
            assert len(upstream.requests) == asked
            await talk.answer("Who am I?", previous_response_id=end["id"], tools=[], **fields)
        messages = upstream.requests[-1].messages
        assert [m["role"] for m in messages] == ["system", "user"]
        assert "Ada" in messages[1]["content"]


async def test_prepared_with_nothing_it_is_gone_on_from(served: Served) -> None:
    """Without any input, stored or not; an empty question is still refused elsewhere."""
    async with served.talk("/v1/responses") as talk:
        for fields in ({}, {"store": False}):
            end = (await _prepare(talk, **fields))[-1]["response"]
            events = await talk.answer(FERRY, previous_response_id=end["id"], **fields)
            assert text_of(events)
        assert await refusal(talk, input=[]) == "invalid_event"


async def _prepare(talk: Talk, **fields: Any) -> list[Event]:
    first = len(talk.seen)
    await talk.send(json.dumps({"type": "response.create", "generate": False, **fields}))
    await talk.terminal()
    return talk.seen[first:]
