"""Whatever comes first: asks, stops, steerings, lost bytes and two tabs, in many orders.

Few of them with every run of the suite, and many with `make soak`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise, permutations

import anyio
import pytest
import websockets

from faults import FaultProxy
from harness import PATIENCE_S, TERMINAL, Event, Served, Talk, answer_text, text_of, until
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
TOKENS = tuple(f"t{n} " for n in range(12))
ORDERS = sorted(set(permutations(("create", "create", "by id", "by event", "by lane"))))
AT_ONCE = 10


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """Run a test with a small number always, and with a large one in a soak."""
    soak = pytest.param(many, marks=[pytest.mark.soak, pytest.mark.timeout(1_200)])
    return pytest.mark.parametrize("count", [few, soak])


async def settled(served: Served, upstream: Upstream) -> None:
    """Nothing runs any more, here or at the model, but what keeps its connections open."""
    await served.idle()
    assert served.runner.running == 0
    await until(lambda: all(r.left is not None or r.finished for r in upstream.requests))


async def read_ends(talk: Talk, count: int) -> list[Event]:
    """Read until `count` responses have ended, and return one terminal event of each."""
    ends: dict[str, Event] = {}
    at = 0
    while len(ends) < count:
        if at == len(talk.seen):
            await talk.recv()
        event = talk.seen[at]
        at += 1
        assert event["type"] != "error", event
        if event["type"] in TERMINAL:
            # A late stop is answered by the same event again.
            assert ends.setdefault(event["response"]["id"], event) == event
    return list(ends.values())


@counts(len(ORDERS), 1_000)
async def test_asks_and_stops_in_every_order(
    served: Served, upstream: Upstream, count: int
) -> None:
    """Back to back, by id, by the ask's key and by lane: no error, one end each, no orphan."""
    upstream.default = Script(tokens=TOKENS, rate=2_000)
    rng = random.Random(20261125)

    async def chat(number: int) -> None:
        async with served.talk(rng.choice(("/ws", "/v1/responses"))) as talk:
            made = 0
            for op in ORDERS[number % len(ORDERS)]:
                stop: Event = {"type": "response.cancel"}
                if op == "create":
                    lane = rng.choice("xy")
                    await talk.ask(f"ferry {number}?", event_id=f"{made}", stream_id=lane)
                    made += 1
                elif op == "by event":
                    await talk.send({**stop, "create_event_id": f"{rng.randrange(2)}"})
                elif op == "by lane":
                    await talk.send({**stop, "stream_id": rng.choice("xy")})
                elif made:
                    known = [e for e in talk.seen if e["type"] == "response.created"]
                    created = known[-1] if known else await talk.until("response.created")
                    await talk.send({**stop, "response_id": created["response"]["id"]})
            await read_ends(talk, made)

    await in_crowds(chat, count)
    await settled(served, upstream)


async def in_crowds(one: object, count: int) -> None:
    """Run `one` for every number up to `count`, some at a time."""
    for first in range(0, count, AT_ONCE):
        async with anyio.create_task_group() as tasks:
            for number in range(first, min(count, first + AT_ONCE)):
                tasks.start_soon(one, number)  # type: ignore[arg-type]


@counts(40, 500)
async def test_steerings_among_asks_and_stops(
    served: Served, upstream: Upstream, count: int
) -> None:
    """Each steering is answered once; what was accepted has a successor, and all of them end."""
    upstream.default = Script(tokens=TOKENS, rate=2_000)
    rng = random.Random(4)

    async def chat(number: int) -> None:
        async with served.talk() as talk:
            steered = made = 0
            for _ in range(6):
                op = rng.choice(("create", "create", "steer", "steer", "cancel"))
                known = [e["response"]["id"] for e in talk.seen if e["type"] == "response.created"]
                if op == "create" or not known:
                    await talk.ask(f"ferry {number}?")
                    made += 1
                elif op == "cancel":
                    await talk.send({"type": "response.cancel", "response_id": known[-1]})
                else:
                    steer = {"type": "response.steer", "previous_response_id": known[-1]}
                    await talk.send({**steer, "input": "And dogs?"})
                    steered += 1
                with anyio.move_on_after(rng.random() * 0.02):
                    while True:
                        await talk.recv()
            accepted = await steering_answers(talk, steered)
            ends = await read_ends(talk, made + accepted)
            reasons = Counter(end["response"]["ragsocket"]["reason"] for end in ends)
            assert reasons["steered"] == accepted
            follow = {end["response"]["previous_response_id"] for end in ends}
            assert all(
                end["response"]["id"] in follow
                for end in ends
                if end["response"]["ragsocket"]["reason"] == "steered"
            )

    await in_crowds(chat, count)
    await settled(served, upstream)
    alternate(upstream)


async def steering_answers(talk: Talk, count: int) -> int:
    """Read until every steering was accepted or has failed; return how many were accepted."""
    kinds = ("response.steer.accepted", "response.steer.failed")
    while sum(e["type"] in kinds for e in talk.seen) < count:
        await talk.recv()
    answers = [e for e in talk.seen if e["type"] in kinds]
    assert len(answers) == count
    ids = [e["steer"]["id"] for e in answers if e["type"] == kinds[0]]
    assert len(set(ids)) == len(ids)
    return len(ids)


def alternate(upstream: Upstream) -> None:
    """No prompt holds two messages of the user in a row."""
    for request in upstream.requests:
        roles = [message["role"] for message in request.messages]
        assert ("user", "user") not in pairwise(roles), roles


@counts(40, 2_000)
async def test_cut_at_any_byte_nothing_is_lost(
    served: Served, upstream: Upstream, count: int
) -> None:
    """Resumed elsewhere, no event is missing and none comes twice; half of them are stopped then.

    The text is the model's, or the beginning of it that was there when the stop came.
    """
    upstream.default = Script(tokens=TOKENS, rate=3_000)
    rng = random.Random(3)
    cuts = Counter[str]()

    async def chat(number: int) -> None:
        seen: list[Event] = []
        try:
            after = [rng.randrange(300, 9_000)]
            async with FaultProxy(served.address, cuts=1, after=after, faults=["fin"]) as proxy:
                seen = await read_until_lost(proxy.address)
        except websockets.WebSocketException:
            pass
        if not seen:
            cuts["before anything"] += 1
            return
        ended = seen[-1]["type"] in TERMINAL
        cuts["after the end" if ended else "in the middle"] += 1
        id, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        async with served.talk("/v1/responses") as talk:
            event = {"type": "response.resume", "response_id": id, "starting_after": last}
            await talk.send(event)
            stops = rng.random() < 0.5
            if stops:
                await talk.send({"type": "response.cancel", "response_id": id})
            end = await talk.terminal()
        # Who has seen the end is told it again, and so is who stops too late.
        assert in_order(talk.seen)
        whole = {e["sequence_number"]: e for e in (*seen, *talk.seen)}
        assert list(whole) == list(range(len(whole)))
        assert stops or ended or len(whole) == len(seen) + len(talk.seen)
        text = text_of(list(whole.values()))
        assert text == answer_text(end["response"])
        assert "".join(TOKENS).startswith(text)
        assert end["type"] == "response.incomplete" or text == "".join(TOKENS)

    await in_crowds(chat, count)
    await settled(served, upstream)
    assert cuts["in the middle"] > count / 3


def in_order(events: list[Event]) -> bool:
    """True if every event came after those with lower numbers."""
    return all(a["sequence_number"] < b["sequence_number"] for a, b in pairwise(events))


async def read_until_lost(address: str) -> list[Event]:
    """Ask over a connection that may be lost, and return what came of the answer."""
    seen: list[Event] = []
    try:
        uri = f"ws://{address}/v1/responses"
        async with websockets.connect(uri, max_size=None, close_timeout=0.1) as socket:
            await socket.send(json.dumps({"type": "response.create", "input": FERRY}))
            with anyio.fail_after(PATIENCE_S):
                while not seen or seen[-1]["type"] not in TERMINAL:
                    seen.append(json.loads(await socket.recv()))
    except websockets.ConnectionClosed:
        pass
    return seen


@counts(8, 60)
async def test_two_tabs_edit_and_regenerate_at_once(
    served: Served, upstream: Upstream, count: int
) -> None:
    """No item is lost, no prompt holds two questions in a row, and every history is readable."""
    upstream.default = Script(tokens=("ok ", "then."), rate=2_000)
    rng = random.Random(7)
    parents: dict[str, str | None] = {}
    asked: dict[str, str] = {}
    async with served.talk() as first:
        conversation = (await first.recv())["conversation"]
        root = (await first.answer("ferry root?"))[-1]["response"]["id"]
    parents[root], asked[root] = None, "ferry root?"
    path = f"/ws?conversation={conversation}"
    async with served.talk("/v1/responses") as left, served.talk(path) as right:
        for turn in range(count):

            async def edit(talk: Talk, question: str, parent: str) -> None:
                event_id = question
                await talk.ask(
                    question,
                    conversation=conversation,
                    previous_response_id=parent,
                    event_id=event_id,
                )
                created = await talk.until("response.created", event_id=event_id)
                id = created["response"]["id"]
                while (end := await talk.terminal())["response"]["id"] != id:
                    pass
                assert end["type"] == "response.completed"
                parents[id], asked[id] = parent, question

            known = list(parents)
            async with anyio.create_task_group() as tasks:
                for name, talk in (("left", left), ("right", right)):
                    tasks.start_soon(edit, talk, f"ferry {turn} {name}?", rng.choice(known))
    assert len(parents) == 1 + 2 * count
    for id in parents:
        questions: list[str] = []
        at: str | None = id
        while at is not None:
            questions.insert(0, asked[at])
            at = parents[at]
        turns = await served.runner.history.turns(id, owner="local")
        assert [turn.text for turn in turns if turn.role == "user"] == questions
        assert [turn.role for turn in turns] == ["user", "assistant"] * len(questions)
    alternate(upstream)
