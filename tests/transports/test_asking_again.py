"""The same ask twice is one answer: `event_id` as the key of an ask within its conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from harness import TERMINAL, Event, Served, Talk, serving, text_of, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
GATED = Script(tokens=("one ", "two ", "three "), gated=True)


async def conversation_of(served: Served, upstream: Upstream) -> str:
    """Make a conversation with one answer in it."""
    upstream.queue(Script(tokens=("hello",)))
    async with served.talk() as talk:
        conversation: str = (await talk.recv())["conversation"]
        await talk.answer("hello", event_id="hello")
    return conversation


async def whole(talk: Talk) -> list[Event]:
    """Return the events of the next answer, greetings left out."""
    first = len(talk.seen)
    await talk.terminal()
    return [event for event in talk.seen[first:] if not event["type"].startswith("ragsocket:")]


async def test_asked_again_after_a_lost_socket_it_goes_on(
    served: Served, upstream: Upstream
) -> None:
    """The second connection follows the first one's answer from its start; the model is asked once.

    The answer may be found by its ask's key there, to stop it.
    """
    conversation = await conversation_of(served, upstream)
    upstream.queue(GATED)
    ask: dict[str, Any] = {"event_id": "k", "conversation": conversation}
    async with served.talk() as talk:
        await talk.ask(FERRY, **ask)
        request = await upstream.request(1)
        request.release(1)
        await talk.until("response.output_text.delta")
        talk.socket.transport.abort()
    async with served.talk("/v1/responses") as talk:
        await talk.ask(FERRY, **ask)
        await talk.until("response.output_text.delta")
        await talk.send({"type": "response.cancel", "create_event_id": "k"})
        events = await whole(talk)
    events = talk.seen
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["event_id"] == "k"
    assert (text_of(events), events[-1]["response"]["status"]) == ("one ", "cancelled")
    assert len(upstream.requests) == 2


async def test_asked_twice_at_once_it_is_one_answer(served: Served, upstream: Upstream) -> None:
    """From two connections and over HTTP, before it is known whether the conversation exists."""
    conversation = await conversation_of(served, upstream)
    ask: dict[str, Any] = {"event_id": "k", "conversation": conversation, "input": FERRY}
    bodies: list[Event] = []
    async with served.talk("/v1/responses") as one, served.talk("/v1/responses") as two:
        async with served.http() as http, anyio.create_task_group() as tasks:

            async def post() -> None:
                bodies.append((await http.post("/v1/responses", json=ask)).json())

            for _ in range(2):
                tasks.start_soon(post)
            for talk in (one, two):
                await talk.send({"type": "response.create", **ask})
            ends = [(await talk.terminal())["response"] for talk in (one, two)]
        assert one.seen == two.seen
    assert [*bodies, *ends] == [ends[0]] * 4
    assert len(upstream.requests) == 2


async def test_after_a_restart_the_stored_end_answers(served: Served, upstream: Upstream) -> None:
    """On every door; it is not asked again, and another body is refused."""
    conversation = await conversation_of(served, upstream)
    ask: dict[str, Any] = {"event_id": "k", "conversation": conversation}
    async with served.talk() as talk:
        end = (await talk.answer(FERRY, **ask))[-1]
    served.server.should_exit = True
    await served.stopped.wait()
    state = served.settings.state_dir
    async with serving(state, upstream=upstream) as again:
        async with again.talk("/v1/responses") as talk, again.http() as http:
            await talk.ask(FERRY, **ask)
            assert await talk.recv() == {**end, "event_id": "k"}
            await talk.ask("And dogs?", **ask)
            error = await talk.recv()
            assert (error["code"], error["status"]) == ("idempotency_conflict", 409)
            answer = await http.post("/v1/responses", json={"input": FERRY, **ask})
            assert answer.json() == end["response"]
            assert answer.headers["X-Response-Id"] == end["response"]["id"]
            events = await talk.answer("And dogs?", event_id="other", conversation=conversation)
        assert events[-1]["response"]["previous_response_id"] == end["response"]["id"]
        await until(lambda: again.runner.running == 0)
    assert len(upstream.requests) == 3


async def test_another_body_is_refused_while_it_runs(served: Served, upstream: Upstream) -> None:
    """The key belongs to the first ask, whichever connection asks; in another conversation not."""
    conversation = await conversation_of(served, upstream)
    upstream.queue(GATED)
    async with served.talk() as talk, served.talk() as other:
        await talk.ask(FERRY, event_id="k", conversation=conversation)
        await talk.until("response.created")
        await upstream.request(1)
        await other.ask(FERRY, event_id="k", conversation=conversation, temperature=0)
        error = await other.until("error")
        assert (error["code"], error["param"]) == ("idempotency_conflict", "event_id")
        assert (await other.answer(FERRY, event_id="k"))[-1]["type"] in TERMINAL
        await talk.send({"type": "response.cancel"})


async def test_asked_again_at_the_limit_it_is_no_other_answer(
    state: Path, upstream: Upstream
) -> None:
    """A connection with as many unfinished responses as it may have can ask after each of them."""
    upstream.queue(GATED)
    async with (
        serving(state, upstream=upstream, max_unfinished=1) as served,
        served.talk() as talk,
    ):
        for _ in range(2):
            await talk.ask(FERRY, event_id="k")
            assert (await talk.until("response.created", "error"))["event_id"] == "k"
        (await upstream.request(0)).release(3)
        await talk.terminal()
    assert len(upstream.requests) == 1


async def test_without_a_conversation_the_key_is_the_connections(
    served: Served, upstream: Upstream
) -> None:
    """Two connections may use the same one; on one of them it is the same answer."""
    async with served.talk("/v1/responses") as one, served.talk("/v1/responses") as two:
        first = await one.answer(FERRY, event_id="k")
        assert (await two.answer("And dogs?", event_id="k"))[-1]["type"] == "response.completed"
        await one.ask(FERRY, event_id="k")
        assert await whole(one) == first
    assert len(upstream.requests) == 2


async def test_what_was_refused_may_be_asked_again(served: Served, upstream: Upstream) -> None:
    """An ask that never came to be keeps no key."""
    conversation = await conversation_of(served, upstream)
    async with served.talk("/v1/responses") as talk:
        ask = {"event_id": "k", "conversation": conversation}
        for _ in range(2):
            await talk.ask(FERRY, previous_response_id="resp_x", **ask)
            assert (await talk.recv())["param"] == "previous_response_id"
        assert (await talk.answer(FERRY, **ask))[-1]["type"] == "response.completed"
