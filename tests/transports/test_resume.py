"""`response.resume`: coming back to an answer from anywhere, nothing lost and nothing twice."""

from __future__ import annotations

import random

import anyio
import pytest

from harness import TERMINAL, Event, Served, Talk, serving, text_of, until
from ragsocket.responses.running import Running
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
TOKENS = tuple(f"t{n} " for n in range(12))
DOORS = ("/ws", "/v1/responses")


async def resume(talk: Talk, response_id: str, after: int | None = None) -> None:
    """Ask to follow a response."""
    fields = {} if after is None else {"starting_after": after}
    await talk.send({"type": "response.resume", "response_id": response_id, **fields})


async def begun(served: Served, talk: Talk, question: str) -> Running:
    """Ask, and return the response once it exists."""
    await talk.ask(question)
    created = await talk.until("response.created")
    run = served.runner.lineage.get(created["response"]["id"], owner="local")
    assert run is not None
    return run


async def rest(talk: Talk) -> list[Event]:
    """Return everything up to the terminal event, greetings left out."""
    first = len(talk.seen)
    await talk.terminal()
    return [event for event in talk.seen[first:] if not event["type"].startswith("ragsocket:")]


async def test_a_socket_lost_at_any_event_loses_nothing(served: Served, upstream: Upstream) -> None:
    """Cut after each event in turn and resumed elsewhere, the events are all there, once each."""
    cut = 0
    while True:
        upstream.queue(Script(tokens=TOKENS, gated=True))
        asked = len(upstream.requests)
        seen: list[Event] = []
        async with served.talk("/v1/responses") as talk:
            await talk.ask(FERRY)
            while len(seen) <= cut:
                seen.append(await talk.recv())
                if seen[-1]["type"] in TERMINAL:
                    break
                if len(upstream.requests) > asked:
                    upstream.requests[asked].release(1)
            talk.socket.transport.abort()
        (await upstream.request(asked)).release(len(TOKENS))
        async with served.talk(random.Random(cut).choice(DOORS)) as talk:
            await resume(talk, seen[0]["response"]["id"], seen[-1]["sequence_number"])
            after = await rest(talk)
            # Whoever has seen the end is told it again.
            assert seen[-1]["type"] not in TERMINAL or after == [seen.pop()]
            seen += after
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
        assert text_of(seen) == "".join(TOKENS)
        if cut >= len(seen) - 1:
            break
        cut += 1
    assert cut > len(TOKENS)


async def test_many_follow_one_answer_and_any_of_them_can_stop_it(
    served: Served, upstream: Upstream
) -> None:
    """All read the same bytes to the same end."""
    upstream.queue(Script(tokens=TOKENS, gated=True))
    async with (
        served.talk() as first,
        served.talk() as second,
        served.talk("/v1/responses") as third,
    ):
        run = await begun(served, first, FERRY)
        request = await upstream.request(0)
        request.release(2)
        await first.until("response.output_text.delta")
        heard: dict[str, list[Event]] = {}

        async def follow(name: str, talk: Talk) -> None:
            await resume(talk, run.id)
            heard[name] = await rest(talk)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, "second", second)
            tasks.start_soon(follow, "third", third)
            await until(lambda: run.log.followers == 3)
            await third.send({"type": "response.cancel", "response_id": run.id})
        end = await first.terminal()
        await request.closed()
    assert end["response"]["status"] == "cancelled"
    assert heard["second"] == heard["third"]
    assert heard["second"][0]["type"] == "response.created"
    assert heard["second"][-1] == end


async def test_followed_side_by_side_every_event_says_whose_it_is(
    served: Served, upstream: Upstream
) -> None:
    """Of two answers on one lane, followed on one connection, each event names one."""
    upstream.queue(Script(tokens=TOKENS), Script(tokens=TOKENS))
    asked = []
    for _ in range(2):
        async with served.talk("/v1/responses") as talk:
            asked.append(await talk.answer(FERRY))
    async with served.talk("/v1/responses") as talk:
        for events in asked:
            await resume(talk, events[0]["response"]["id"])
        for _ in asked:
            await talk.terminal()

    def names(event: Event, id: str) -> bool:
        whole: Event = event.get("response") or event.get("item") or {"id": event.get("item_id")}
        return str(whole["id"]).split("_")[1] == id.removeprefix("resp_")

    for events in asked:
        id = events[0]["response"]["id"]
        assert [event for event in talk.seen if names(event, id)] == events


async def test_the_grace_does_not_run_while_somebody_follows(
    upstream: Upstream, served: Served
) -> None:
    """A follower that came back is one like the first."""
    upstream.queue(Script(tokens=TOKENS, gated=True))
    state = served.settings.state_dir.parent / "other"
    async with serving(state, upstream=upstream, detach_grace_s=0.2) as quick:
        async with quick.talk("/v1/responses") as talk, quick.talk() as other:
            run = await begun(quick, talk, "hello")
            await resume(other, run.id)
            await until(lambda: run.log.followers == 2)
            talk.socket.transport.abort()
            await until(lambda: run.log.followers == 1)
            assert run not in quick.runner._detached
            (await upstream.request(0)).release(len(TOKENS))
            assert (await other.terminal())["response"]["status"] == "completed"


async def test_what_anybody_saw_is_kept_whoever_leaves_last(
    served: Served, upstream: Upstream
) -> None:
    """A follower that was handed less and goes last does not shorten the answer."""
    upstream.queue(Script(tokens=TOKENS, gated=True))
    state = served.settings.state_dir.parent / "other"
    async with serving(state, upstream=upstream, detach_grace_s=0.2) as quick:
        async with quick.talk("/v1/responses") as talk:
            run = await begun(quick, talk, "hello")
            # One that reads nothing, as a connection does that is stuck.
            stuck = run.follow(lambda: None)
            request = await upstream.request(0)
            for _ in range(3):
                request.release(1)
                await talk.until("response.output_text.delta")
        await until(lambda: run.log.followers == 1)
        stuck.close()
        await quick.idle()
        record = await quick.runner.history.get(run.id, owner="local")
    assert record is not None
    assert [turn.text for turn in record.turns()] == ["hello", "t0 t1 t2 "]


async def test_asked_twice_on_one_socket_nothing_comes_twice(
    served: Served, upstream: Upstream
) -> None:
    """The second resume takes the place of the first, and of the asking itself."""
    upstream.queue(Script(tokens=TOKENS, gated=True))
    async with served.talk("/v1/responses") as talk:
        run = await begun(served, talk, FERRY)
        request = await upstream.request(0)
        request.release(1)
        delta = await talk.until("response.output_text.delta")
        await resume(talk, run.id, delta["sequence_number"])
        await resume(talk, run.id, delta["sequence_number"])
        await talk.send({"type": "ragsocket:ping"})
        await talk.until("ragsocket:pong")
        assert run.log.followers == 1
        request.release(len(TOKENS))
        after = await rest(talk)
    numbers = [event["sequence_number"] for event in after]
    assert numbers == list(range(delta["sequence_number"] + 1, numbers[-1] + 1))


async def test_after_a_restart_the_end_is_what_there_is(served: Served, upstream: Upstream) -> None:
    """The gap is named, unless only the end was missing."""
    async with served.talk("/v1/responses") as talk:
        events = await talk.answer(FERRY)
    end = events[-1]
    id, last = end["response"]["id"], end["sequence_number"]
    served.server.should_exit = True
    await served.stopped.wait()
    async with serving(served.settings.state_dir, upstream=upstream) as again:
        for after in (None, 3, last - 2):
            async with again.talk("/v1/responses") as talk:
                await resume(talk, id, after)
                gap = await talk.recv()
                assert (gap["type"], gap["code"]) == ("error", "resume_gap")
                assert await talk.recv() == end
        for after in (last - 1, last, last + 5):
            async with again.talk("/v1/responses") as talk:
                await resume(talk, id, after)
                assert await talk.recv() == end


@pytest.mark.parametrize("after", [0, 10_000])
async def test_an_unknown_response_is_an_error_that_says_so(served: Served, after: int) -> None:
    """The socket lives, and the error finds its event."""
    async with served.talk("/v1/responses") as talk:
        event = {"type": "response.resume", "response_id": "resp_x", "event_id": "e1"}
        await talk.send({**event, "starting_after": after})
        error = await talk.until("error")
        assert error["code"] == "response_not_found"
        assert error["error"]["event_id"] == "e1"
        await talk.send({"type": "response.resume", "event_id": "e2"})
        error = await talk.until("error")
        assert error["param"] == "response_id"
        assert (await talk.answer(FERRY))[-1]["type"] == "response.completed"
