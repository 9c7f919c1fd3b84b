"""`/ws?conversation=…`: an earlier conversation is taken up, and followed whoever asks in it."""

from __future__ import annotations

import json

from openai.types.responses import Response

from harness import Served, answer_text, serving, text_of, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
GATED = Script(tokens=("one ", "two ", "three "), gated=True)
TIDE = Script(tokens=("ok",))


async def test_what_runs_comes_as_a_snapshot_and_then_live(
    served: Served, upstream: Upstream
) -> None:
    """Both what runs and what waits; the snapshot and what follows it make the whole answer."""
    upstream.queue(GATED, TIDE)
    async with served.talk() as talk:
        conversation = (await talk.recv())["conversation"]
        await talk.ask(FERRY)
        await talk.until("response.created")
        request = await upstream.request(0)
        for _ in range(2):
            request.release(1)
            await talk.until("response.output_text.delta")
        await talk.ask("And dogs?")
        queued = await talk.until("response.queued")
        async with served.talk(f"/ws?conversation={conversation}") as other:
            hello = await other.recv()
            assert (hello["type"], hello["conversation"]) == ("ragsocket:hello", conversation)
            snapshot, waiting = await other.recv(), await other.recv()
            assert snapshot["response"]["ragsocket"]["snapshot"] is True
            assert snapshot["type"] == "response.in_progress"
            assert answer_text(snapshot["response"]) == "one two "
            Response.model_validate_json(json.dumps(snapshot["response"]), strict=True)
            assert [i["status"] for i in snapshot["response"]["output"]] == [
                "completed",
                "in_progress",
            ]
            assert (waiting["type"], waiting["sequence_number"]) == ("response.queued", 1)
            assert waiting["response"]["id"] == queued["response"]["id"]
            request.release(1)
            end = await other.terminal()
            live = other.seen[3:]
            assert text_of(live) == "three "
            number = snapshot["sequence_number"]
            assert [e["sequence_number"] for e in live] == [
                number + 1 + n for n in range(len(live))
            ]
            assert answer_text(end["response"]) == "one two three "
            assert answer_text((await other.terminal())["response"]) == "ok"
        assert [(await talk.terminal())["type"] for _ in range(2)] == ["response.completed"] * 2


async def test_every_new_answer_comes_whoever_asks(served: Served, upstream: Upstream) -> None:
    """Another socket, HTTP, a successor and the connection itself: each event comes once."""
    upstream.default = TIDE
    async with served.talk() as talk:
        conversation = (await talk.recv())["conversation"]
        await talk.answer(FERRY)
    named = {"conversation": conversation}
    async with (
        served.talk(f"/ws?conversation={conversation}") as follower,
        served.talk("/v1/responses") as other,
        served.http() as http,
    ):
        assert (await follower.recv())["type"] == "ragsocket:hello"
        first = await other.answer("ferry one?", **named)
        assert [await follower.recv() for _ in first] == first
        posted = (await http.post("/v1/responses", json={"input": "ferry two?", **named})).json()
        assert (await follower.terminal())["response"] == posted
        upstream.queue(GATED)
        await other.ask("ferry three?", **named)
        running = (await follower.until("response.in_progress"))["response"]["id"]
        await upstream.request(3)
        steer = {"type": "response.steer", "previous_response_id": running, "input": "dogs?"}
        await other.send(steer)
        assert (await follower.terminal())["response"]["id"] == running
        successor = (await follower.terminal())["response"]
        assert successor["previous_response_id"] == running
        await other.until("response.completed")
        events = await follower.answer("ferry four?")
        assert events[-1]["response"]["previous_response_id"] == successor["id"]
        await follower.send({"type": "ragsocket:ping"})
        assert (await follower.recv())["type"] == "ragsocket:pong"
    keys = [(e["response"]["id"], e["type"]) for e in follower.seen if "response" in e]
    assert len(keys) == len(set(keys))
    # Somebody else's ask that comes to nothing is not news.
    assert not any(e["type"] == "error" for e in follower.seen)


async def test_its_follower_keeps_an_answer_alive(served: Served, upstream: Upstream) -> None:
    """Whoever asked may leave; the grace begins when the follower leaves as well."""
    upstream.queue(TIDE, GATED)
    state = served.settings.state_dir.parent / "other"
    async with serving(state, upstream=upstream, detach_grace_s=0.1) as quick:
        async with quick.talk() as talk:
            conversation = (await talk.recv())["conversation"]
            await talk.answer(FERRY)
            async with quick.talk(f"/ws?conversation={conversation}") as follower:
                await talk.ask(FERRY)
                created = await follower.until("response.created")
                run = quick.runner.lineage.get(created["response"]["id"], owner="local")
                assert run is not None
                (await upstream.request(1)).release(1)
                await follower.until("response.output_text.delta")
                talk.socket.transport.abort()
                await until(lambda: run.log.followers == 1)
                assert run not in quick.runner._detached
        await quick.idle()
        assert run.response.ragsocket.reason == "client_lost"
        assert answer_text(run.response.model_dump(mode="json")) == "one "


async def test_after_a_restart_it_is_taken_up(served: Served, upstream: Upstream) -> None:
    """The default lane goes on where it was, and other lanes have conversations of their own."""
    async with served.talk() as talk:
        conversation = (await talk.recv())["conversation"]
        await talk.answer("ferry one?")
    served.server.should_exit = True
    await served.stopped.wait()
    state = served.settings.state_dir
    async with (
        serving(state, upstream=upstream) as again,
        again.talk(f"/ws?conversation={conversation}") as talk,
    ):
        end = (await talk.answer("ferry two?"))[-1]
        aside = (await talk.answer("ferry three?", stream_id="aside"))[-1]
    assert end["response"]["conversation"] == {"id": conversation}
    assert aside["response"]["conversation"] != {"id": conversation}
    assert "ferry one?" in str(upstream.requests[1].messages)


async def test_an_unknown_conversation_is_named_and_another_begun(served: Served) -> None:
    """The error comes before the greeting, which names the conversation that is used instead."""
    async with served.talk("/ws?conversation=conv_nope") as talk:
        error, hello = await talk.recv(), await talk.recv()
        assert (error["code"], error["param"]) == ("conversation_not_found", "conversation")
        assert hello["conversation"] != "conv_nope"
        end = (await talk.answer(FERRY))[-1]
        assert end["response"]["conversation"] == {"id": hello["conversation"]}
