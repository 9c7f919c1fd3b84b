"""How one request is searched for, and what the response says about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness import Served, Talk, serving
from ragsocket.engine.load import load_engine
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings
from reranker import RerankServer, rerank_server
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
CHAT = [
    {"role": "user", "content": FERRY},
    {"role": "assistant", "content": "At 7:40 [1]."},
    {"role": "user", "content": "And what does a bicycle pay?"},
]
JOINED = f"{CHAT[2]['content']}\n{FERRY}"


@pytest.fixture
def reranker() -> Iterator[RerankServer]:
    """A reranker."""
    with rerank_server() as server:
        yield server


async def ended(talk: Talk, ask: Any = FERRY, **fields: Any) -> dict[str, Any]:
    """Ask, and return the Response of the terminal event."""
    events = await talk.answer(ask, **fields)
    response: dict[str, Any] = events[-1]["response"]
    return response


def queries(response: dict[str, Any]) -> list[str]:
    """What was searched for."""
    found: list[str] = response["output"][0]["queries"]
    return found


async def test_the_query_is_made_as_the_request_says(served: Served, upstream: Upstream) -> None:
    """Of the last turns, the last one or by the model, whose tokens the usage holds as well."""
    written = ("bicycle ", "on the ferry")
    upstream.queue(
        Script(tokens=("3 crowns.",)),
        Script(tokens=("3 crowns.",)),
        Script(tokens=written),
        Script(tokens=("It pays 3 crowns.",)),
    )
    async with served.talk("/v1/responses") as talk:
        turns = await ended(talk, CHAT)
        last = await ended(talk, CHAT, retrieval={"query": "last"})
        model = await ended(talk, CHAT, retrieval={"query": "model"})
    assert [queries(one) for one in (turns, last, model)] == [
        [JOINED],
        [CHAT[2]["content"]],
        ["bicycle on the ferry"],
    ]
    assert [one["ragsocket"]["query"] for one in (turns, last, model)] == ["turns", "last", "model"]
    assert turns["usage"]["output_tokens"] == 1
    assert model["usage"]["output_tokens"] == 3
    assert model["usage"]["input_tokens"] > turns["usage"]["input_tokens"]
    assert not model["ragsocket"]["usage_estimated"]


async def test_what_the_model_wrote_of_a_query_counts_where_the_documents_cannot_answer(
    served: Served, upstream: Upstream
) -> None:
    """The fixed refusal is no call, but the query before it was one."""
    upstream.queue(Script(tokens=("zeppelin ", "timetable ", "quasar")))
    lost = [*CHAT[:2], {"role": "user", "content": "Where do zeppelins moor near quasars?"}]
    async with served.talk("/v1/responses") as talk:
        response = await ended(talk, lost, retrieval={"query": "model"})
    assert queries(response) == ["zeppelin timetable quasar"]
    assert len(upstream.requests) == 1
    assert response["usage"]["output_tokens"] > 3
    assert response["ragsocket"]["usage_estimated"]


async def test_a_query_that_the_model_fails_to_write_is_the_last_turns(
    served: Served, upstream: Upstream
) -> None:
    """The answer goes on, and says what was searched for."""
    upstream.queue(Script(status=500), Script(tokens=("3 crowns.",)))
    async with served.talk("/v1/responses") as talk:
        response = await ended(talk, CHAT, retrieval={"query": "model"})
    assert response["status"] == "completed"
    assert queries(response) == [JOINED]
    assert response["ragsocket"]["query"] == "turns"


async def test_a_cancel_reaches_a_model_that_writes_the_query(
    served: Served, upstream: Upstream
) -> None:
    """It leaves the model at once, nothing was searched, and what it wrote is counted."""
    upstream.queue(Script(gated=True))
    async with served.talk("/v1/responses") as talk:
        await talk.ask(CHAT, retrieval={"query": "model"})
        request = await upstream.request(0)
        request.release(2)
        await talk.until("response.in_progress")
        await request.wrote(2)
        await talk.send({"type": "ragsocket:ping"})
        await talk.until("ragsocket:pong")
        await talk.send({"type": "response.cancel"})
        terminal = await talk.terminal()
    left = await request.closed()
    assert left.written == 2
    response = terminal["response"]
    assert response["status"] == "cancelled"
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["usage"]["input_tokens"] > 0
    assert response["usage"]["output_tokens"] <= 2


async def test_the_operator_chooses_for_those_who_do_not(upstream: Upstream, state: Path) -> None:
    """The setting is the default, and a first question costs no call more."""
    upstream.queue(Script(tokens=("At 7:40.",)), Script(tokens=("bicycle",)))
    async with serving(state, upstream=upstream, query="model") as served:
        async with served.talk("/v1/responses") as talk:
            first = await ended(talk)
            assert (queries(first), first["ragsocket"]["query"]) == ([FERRY], "turns")
            model = await ended(talk, CHAT)
            turns = await ended(talk, CHAT, retrieval={"query": "turns"})
    assert queries(model) == ["bicycle"]
    assert queries(turns) == [JOINED]


async def test_where_no_model_can_write_queries_that_is_said(state: Path, tmp_path: Path) -> None:
    """A request for it is refused by name, and so is the setting, at start."""
    async with serving(state) as served, served.talk("/v1/responses") as talk:
        await talk.ask(CHAT, retrieval={"query": "model"})
        failed = await talk.until("response.failed")
        assert failed["response"]["ragsocket"]["code"] == "unsupported_parameter"
        assert "search queries" in failed["response"]["error"]["message"]
    settings = Settings(state_dir=tmp_path, llm_model="none", embed_model="none", query="model")
    with pytest.raises(ConfigError, match="RAGSOCKET_QUERY"):
        await load_engine(settings)


async def test_a_response_says_what_became_of_the_reranker(
    upstream: Upstream, state: Path, reranker: RerankServer
) -> None:
    """It ordered the passages, was not asked, or failed, and then its answer goes on without."""
    upstream.queue(*[Script(tokens=("Yes [1].",))] * 3)
    async with serving(state, upstream=upstream, rerank_url=reranker.url) as served:
        async with served.talk() as talk:
            reranker.favourite = "harbour"
            by_it = await ended(talk, store=False)
            without = await ended(talk, store=False, retrieval={"rerank": False})
            reranker.status = 503
            failed = await ended(talk, store=False, retrieval={"rerank": True})
    assert by_it["ragsocket"]["reranked"] is True
    assert "reranked" not in without["ragsocket"]
    assert failed["ragsocket"]["reranked"] is False
    assert failed["status"] == "completed"
    assert failed["output"][0]["results"] == without["output"][0]["results"]
    assert len(reranker.bodies) == 2
    async with serving(state, upstream=upstream) as bare, bare.talk() as talk:
        await talk.ask(FERRY, retrieval={"rerank": True})
        refused = await talk.until("response.failed")
    assert refused["response"]["ragsocket"]["code"] == "unsupported_parameter"


def cited(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The citations of an answer."""
    found: list[dict[str, Any]] = response["output"][-1]["content"][0]["annotations"]
    return found


async def test_marks_of_no_passage_are_no_citations_and_stay_in_the_text(
    served: Served, upstream: Upstream
) -> None:
    """Invented numbers cite nothing; places count code points; each names its passage."""
    upstream.queue(
        Script(
            tokens=(
                "🐕 ride [7",
                "] free",
                " [1",
                "] of charge [99].",
            )
        )
    )
    async with served.talk() as talk:
        response = await ended(talk)
    text = "🐕 ride [7] free [1] of charge [99]."
    assert response["output"][-1]["content"][0]["text"] == text
    (mark,) = cited(response)
    assert mark["index"] == text.index("[1]") + 3
    assert mark["ragsocket"] == {"passage": 1, "matched": False}
    assert mark["filename"] == response["output"][0]["results"][0]["filename"] == "ferry.md"


async def test_an_answer_without_marks_is_matched_to_the_passages_and_says_so(
    served: Served, upstream: Upstream
) -> None:
    """A sentence that a passage holds gets a citation at its end; what none says gets none."""
    said = "🚢 The ferry to Holm leaves at 7:40 every morning."
    upstream.queue(
        Script(tokens=(said[:20], said[20:], " Enjoy the wonderful journey!")),
        Script(tokens=(said, " See [1]."), reasoning=("Hm.",)),
        Script(tokens=(said,), reasoning=("Hm.",)),
    )
    async with served.talk() as talk:
        matched = await ended(talk)
        assert talk.seen[-5]["type"] == "response.output_text.annotation.added"
        marked = await ended(talk)
        thought = await ended(talk)
    (mark,) = cited(matched)
    assert mark["index"] == len(said)
    assert mark["ragsocket"] == {"passage": 1, "matched": True}
    assert [one["ragsocket"]["matched"] for one in cited(marked)] == [False]
    assert [one["index"] for one in cited(thought)] == [len(said)]


async def test_a_cut_takes_the_citations_behind_it_away(served: Served, upstream: Upstream) -> None:
    """What stands behind the last event that was shown is cited no more, wherever it is read."""
    upstream.queue(Script(tokens=("🐕 free [1].", " Bicycles pay [1].", " More."), gated=True))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        shown = []
        for _ in range(2):
            request.release(1)
            shown.append(await talk.until("response.output_text.delta"))
            await talk.until("response.output_text.annotation.added")
        cut = shown[0]["sequence_number"]
        await talk.send({"type": "response.cancel", "after": cut})
        terminal = await talk.terminal()
        *_, done = [e for e in talk.seen if e["type"] == "response.output_item.done"]
    response = terminal["response"]
    async with served.http() as http:
        kept = (await http.get(f"/v1/responses/{response['id']}")).json()
    for item in (response["output"][-1], done["item"], kept["output"][-1]):
        part = item["content"][0]
        assert part["text"] == "🐕 free [1]."
        assert [mark["index"] for mark in part["annotations"]] == [len("🐕 free [1]")]


async def test_a_cut_answer_without_marks_is_not_matched(
    served: Served, upstream: Upstream
) -> None:
    """Matching comes at the end of an answer, and this one has none."""
    upstream.queue(Script(tokens=("The ferry to Holm leaves at 7:40.", " More."), gated=True))
    async with served.talk() as talk:
        await talk.ask(FERRY)
        request = await upstream.request(0)
        request.release(1)
        await talk.until("response.output_text.delta")
        await talk.send({"type": "response.cancel"})
        terminal = await talk.terminal()
    with anyio.fail_after(20):
        await request.closed()
    assert cited(terminal["response"]) == []
