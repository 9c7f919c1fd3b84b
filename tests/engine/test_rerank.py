"""Passages in the order of a reranker, which is a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from material import CHUNKS, write_files

from ragsocket.engine.index import Index
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.rerank import RerankSettings, open_reranker
from ragsocket.errors import ConfigError, EngineError, RequestError
from ragsocket.settings import Settings
from reranker import RerankServer, rerank_server

FILES: dict[str, str | bytes] = {
    "dogs.md": "Dogs may stay at Mirefoot, two dogs at most, and dogs pay.",
    "huts.md": "Mirefoot has forty beds and room for dogs.",
    "soup.md": "The soup at Mirefoot is not for dogs, says the cook of the hut on the hill.",
}


@pytest.fixture
def server() -> Iterator[RerankServer]:
    """A reranker that likes soup."""
    with rerank_server() as running:
        yield running


@asynccontextmanager
async def searchable(tmp_path: Path, url: str, **settings: Any) -> AsyncIterator[Index]:
    """An open index of the folder with that reranker."""
    root = write_files(tmp_path / "documents", FILES)
    path = tmp_path / "passages.sqlite3"
    ingest(root, path, embed=None, **CHUNKS)
    async with open_reranker(RerankSettings(url, **settings)) as reranker:
        index = Index(path, reranker=reranker)
        await index.open()
        yield index
        index.close()


async def names(index: Index, **options: Any) -> tuple[list[str], bool | None]:
    """The files found for a question about dogs, and what became of the reranker."""
    found = await index.search("dogs at Mirefoot", owner="local", **{"top_k": 3, **options})
    return [source.file_name for source in found.sources], found.reranked


async def test_the_reranker_decides_the_order_and_nothing_else(
    server: RerankServer, tmp_path: Path
) -> None:
    """It is shown more than is wanted; the best of its order come, with the search's scores."""
    async with searchable(tmp_path, server.url, model="r-1", api_key="secret") as index:
        own = await index.search("dogs at Mirefoot", owner="local", top_k=3, rerank=False)
        assert own.reranked is None
        assert not server.bodies
        assert own.sources[-1].file_name == "soup.md"
        ordered = await index.search("dogs at Mirefoot", owner="local", top_k=2)
        assert ordered.reranked is True
        assert ordered.sources == [own.sources[2], own.sources[0]]
    (body,) = server.bodies
    assert (body["model"], body["query"], body["top_n"]) == ("r-1", "dogs at Mirefoot", 3)
    assert body["documents"] == [source.text for source in own.sources]
    assert server.keys == ["Bearer secret"]


async def test_what_the_reranker_is_not_shown_or_does_not_name_comes_last(
    server: RerankServer, tmp_path: Path
) -> None:
    """Nothing is lost by it."""
    async with searchable(tmp_path, server.url, top_n=2) as index:
        assert await names(index) == (["dogs.md", "huts.md", "soup.md"], True)
        assert "model" not in server.bodies[0]
        assert len(server.bodies[0]["documents"]) == 2
        server.answer = {"results": [{"index": 1, "relevance_score": -3.5}]}
        assert await names(index) == (["huts.md", "dogs.md", "soup.md"], True)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense",
        {},
        {"results": []},
        {"results": [{"index": 9, "relevance_score": 1}]},
        {"results": [{"index": "0", "relevance_score": 1}]},
        {"results": [{"index": 0, "relevance_score": None}]},
        b'{"results": [{"index": 0, "relevance_score": NaN}]}',
        500,
    ],
)
async def test_a_reranker_that_fails_is_gone_without(
    server: RerankServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """Whatever it answers that is no order, the search's own stands, and the log says so."""
    if answer == 500:
        server.status = 500
    else:
        server.answer = answer
    async with searchable(tmp_path, server.url) as index:
        assert await names(index) == (["dogs.md", "huts.md", "soup.md"], False)
    assert "the reranker failed" in caplog.text


async def test_a_reranker_that_is_slow_or_away_is_gone_without(
    server: RerankServer, tmp_path: Path
) -> None:
    """Its deadline is its own; one that cannot be reached is the same."""
    server.gate.clear()
    async with searchable(tmp_path, server.url, timeout_s=0.05) as index:
        assert await names(index) == (["dogs.md", "huts.md", "soup.md"], False)
    async with searchable(tmp_path, "http://127.0.0.1:9/v1") as index:
        assert await names(index) == (["dogs.md", "huts.md", "soup.md"], False)


async def test_a_cancelled_search_leaves_the_reranker(server: RerankServer, tmp_path: Path) -> None:
    """A stop does not wait for it."""
    server.gate.clear()
    async with searchable(tmp_path, server.url, timeout_s=60) as index:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(names, index)
            await to_thread.run_sync(server.asked.wait, 30)
            tasks.cancel_scope.cancel()
        assert not server.gate.is_set()


async def test_a_reranker_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Asking for one where there is none is refused, and so is an address that is none."""
    index = Index(tmp_path / "none.sqlite3")
    await index.open()
    with pytest.raises(RequestError, match="RAGSOCKET_RERANK_URL"):
        await index.search("dogs", owner="local", top_k=1, rerank=True)
    with pytest.raises(ConfigError, match="RAGSOCKET_RERANK_URL"):
        async with open_reranker(RerankSettings("ftp://host")):
            pass
    with pytest.raises(ConfigError, match="RAGSOCKET_RERANK_URL"):
        Settings(rerank_model="r-1").check()
    async with open_reranker(RerankSettings("http://127.0.0.1:9")) as reranker:
        with pytest.raises(EngineError) as raised:
            await reranker.order("q", ["a"])
    assert raised.value.code == "rerank_unavailable"
