"""`make bench-retrieval`: searches of made-up passages, and the event loop beside them.

First how long a search takes over 1,000, 10,000 and 100,000 passages, and how long their index
takes to build. Then whether the loop stands still: while people are answered at a human pace, the
largest index is searched without a pause, and a folder is ingested as well. Figures go to
benchmarks/results/retrieval.json; what they mean stands in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import uvloop
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from benchmarks.load import Figures, Load
from benchmarks.processes import ROOT, Processes, environment
from benchmarks.stalls import EDGES_MS, Stalls, histogram
from ragsocket.app import create_app
from ragsocket.engine.base import Comparison, Filter, RetrievalMode
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion import run_ingestion
from ragsocket.engine.ingestion.job import DEFAULT_OWNER, DEFAULT_VECTOR_STORE
from ragsocket.engine.load import load_engine
from ragsocket.engine.passages import Passages
from ragsocket.engine.vector_store import PassageVectorStore
from ragsocket.server import Server
from ragsocket.settings import Settings

RESULTS = ROOT / "benchmarks/results/retrieval.json"
SIZES = (1_000, 10_000, 100_000)
DIMENSIONS = 384
WORDS = 120
VOCABULARY = 50_000
QUERY_WORDS = 24
PER_FILE = 100
VECTORS = 1_000
AT_ONCE = 50
RATE = 20
SEARCHERS = 2


class Arbitrary(BaseEmbedding):
    """A vector for any text, at once; what embeds is a figure of its own."""

    def __init__(self) -> None:
        super().__init__(model_name="arbitrary")

    def _get_text_embedding(self, text: str) -> list[float]:
        seed = int.from_bytes(text.encode()[:8].ljust(8), "little")
        return np.random.default_rng(seed).standard_normal(DIMENSIONS).tolist()  # type: ignore[no-any-return]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class Prose:
    """Texts whose words are as unevenly common as in prose."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = np.cumsum(shares / shares.sum())

    def text(self, words: int) -> str:
        """A text of so many words."""
        drawn = np.searchsorted(self._shares, self._random.random(words))
        return " ".join(f"word{number}" for number in drawn)


def build(path: Path, count: int) -> float:
    """Publish so many passages with vectors, and return the seconds that it took."""
    prose = Prose()
    # Some vectors serve many passages: in Python each is a list of numbers.
    vectors = np.random.default_rng(1).standard_normal((min(count, VECTORS), DIMENSIONS)).tolist()
    nodes = [
        TextNode(
            text=prose.text(WORDS),
            embedding=vectors[number % len(vectors)],
            metadata={"file_name": f"{number // PER_FILE}.md"},
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"file_{number // PER_FILE}")
            },
        )
        for number in range(count)
    ]
    db = Passages(path, create=True)
    store = PassageVectorStore(
        db, DEFAULT_OWNER, DEFAULT_VECTOR_STORE, embed_model=Arbitrary().model_name
    )
    began = time.perf_counter()
    store.add(nodes)
    took = time.perf_counter() - began
    db.close()
    return took


@dataclass(frozen=True)
class Latency:
    """Searches of an index of so many passages; milliseconds, but for `_s` seconds.

    `cpu` is the mean of what a search computes, which other processes do not change.
    """

    passages: int
    build_s: float
    load_s: float
    kind: str
    cpu: float
    p50: float
    p95: float


async def latencies(path: Path, count: int, build_s: float, searches: int) -> list[Latency]:
    """Time searches one after another."""
    index = Index(path, Arbitrary())
    began = time.perf_counter()
    await index.open()
    load_s = time.perf_counter() - began
    first_tenth = tuple(f"file_{n}" for n in range(max(1, count // PER_FILE // 10)))
    few = Comparison("file_id", "in", first_tenth)
    kinds: list[tuple[str, RetrievalMode, Filter | None]] = [
        ("words", "sparse", None),
        ("vectors", "dense", None),
        ("both", "hybrid", None),
        ("both, filtered to a tenth", "hybrid", few),
    ]
    found = []
    for kind, mode, filters in kinds:
        prose = Prose(2)
        took = []
        used = 0.0
        for number in range(searches + 2):
            query = prose.text(QUERY_WORDS)
            began, before = time.perf_counter(), time.process_time()
            result = await index.search(
                query, owner=DEFAULT_OWNER, top_k=5, mode=mode, filters=filters
            )
            # The first ones pay for what is made once.
            if number >= 2:
                took.append((time.perf_counter() - began) * 1e3)
                used += time.process_time() - before
            assert result.sources
        cuts = statistics.quantiles(took, n=20)
        cpu = used / searches * 1e3
        found.append(Latency(count, build_s, load_s, kind, cpu, statistics.median(took), cuts[-1]))
    index.close()
    return found


@dataclass(frozen=True)
class Standing:
    """How long the loop stood still in one phase.

    Attributes:
        phase: what went on.
        looks: how often the clock was looked at.
        late: a histogram over `EDGES_MS` of how late, and the same of what was ours of it.
        worst_ms: the longest, and the longest that was ours.
        searches: how many were done meanwhile.
    """

    phase: str
    looks: int
    late: list[int]
    ours: list[int]
    worst_ms: float
    worst_ours_ms: float
    searches: int
    forward_p50_us: float
    forward_p99_us: float


async def phases(
    folder: Path, *, at_once: int, tokens: int, files: int, processes: Processes
) -> list[Standing]:
    """Serve in this process, and measure three phases."""
    assert processes.model is not None
    settings = Settings(
        port=0,
        state_dir=folder / "state",
        llm_url=processes.model_url,
        llm_model="scripted",
        embed_model="none",
        max_unfinished=max(64, at_once),
    )
    engine = await load_engine(settings, embed_model=Arbitrary())
    index = engine.index
    app = create_app(settings, engine=engine)
    server = Server(app, settings)
    search = partial(_search, index)
    ingest = partial(_ingest, index, settings, folder / "folder", files)
    measured = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started:
            await anyio.sleep(0.02)
        try:
            url = f"ws://127.0.0.1:{server.address[1]}/ws"
            ask = partial(_client, url, processes.model.pid, at_once)
            await ask(tokens=5)
            _write_folder(folder / "folder", files)
            # As the server does when it is ready.
            gc.collect()
            gc.freeze()
            for phase, beside in (
                (f"{at_once} answers", []),
                ("and searches", [search]),
                ("and searches and a folder taken in", [search, ingest]),
            ):
                measured.append(await _phase(phase, partial(ask, tokens=tokens), beside))
        finally:
            server.should_exit = True
            gc.unfreeze()
    await engine.aclose()
    return measured


async def _phase(
    phase: str,
    ask: Callable[[], Awaitable[Figures]],
    beside: Sequence[Callable[[list[int]], Coroutine[Any, Any, None]]],
) -> Standing:
    counts: list[int] = []
    with Stalls() as stalls:
        async with anyio.create_task_group() as tasks:
            for work in beside:
                tasks.start_soon(work, counts)
            figures = await ask()
            tasks.cancel_scope.cancel()
    forward = sorted(figures.forward_us)
    return Standing(
        phase=phase,
        looks=len(stalls.late_ms),
        late=histogram(stalls.late_ms),
        ours=histogram(stalls.ours_ms),
        worst_ms=max(stalls.late_ms),
        worst_ours_ms=max(stalls.ours_ms),
        searches=len(counts),
        forward_p50_us=forward[len(forward) // 2],
        forward_p99_us=forward[len(forward) * 99 // 100],
    )


async def _client(url: str, model_pid: int, at_once: int, *, tokens: int) -> Figures:
    load = Load(
        url=url,
        protocol="responses",
        pids={"server": os.getpid(), "model": model_pid},
        at_once=at_once,
        turns=1,
        tokens=tokens,
        rate=RATE,
    )
    client = partial(
        subprocess.run,
        [sys.executable, "-m", "benchmarks.client"],
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env=environment(),
    )
    # Not by the loop, which would stand still for it.
    done = await to_thread.run_sync(client)
    return msgspec.json.decode(done.stdout, type=Figures)


async def _search(index: Index, counts: list[int]) -> None:
    """Search without a pause, several at a time, until cancelled."""

    async def one(seed: int) -> None:
        prose = Prose(seed)
        while True:
            query = prose.text(QUERY_WORDS)
            found = await index.search(query, owner=DEFAULT_OWNER, top_k=5)
            counts.append(len(found.sources))

    async with anyio.create_task_group() as tasks:
        for seed in range(SEARCHERS):
            tasks.start_soon(one, seed)


async def _ingest(
    index: Index, settings: Settings, folder: Path, files: int, counts: list[int]
) -> None:
    """Take a folder in, in a process of its own, into another store, and load what comes of it."""
    await run_ingestion(settings, folder, vector_store_id="vs_folder")
    await index.refresh()


def _write_folder(folder: Path, files: int) -> None:
    folder.mkdir()
    prose = Prose(3)
    for number in range(files):
        (folder / f"{number}.txt").write_text(prose.text(400))


def run(
    sizes: tuple[int, ...], *, searches: int, at_once: int, tokens: int, files: int
) -> tuple[list[Latency], list[Standing]]:
    """Measure it all; the stalls beside the largest index."""
    found: list[Latency] = []
    with tempfile.TemporaryDirectory(prefix="ragsocket-bench-") as name:
        folder = Path(name)
        for size in sizes:
            path = folder / str(size) / "state" / "index" / "passages.sqlite3"
            path.parent.mkdir(parents=True)
            build_s = build(path, size)
            print(f"{size:,} passages built in {build_s:.1f} s", file=sys.stderr)
            found += uvloop.run(latencies(path, size, build_s, searches))
        processes = Processes(folder)
        with processes.running:
            processes.start([])
            standing = uvloop.run(
                phases(
                    folder / str(sizes[-1]),
                    at_once=at_once,
                    tokens=tokens,
                    files=files,
                    processes=processes,
                )
            )
    return found, standing


def tables(found: list[Latency], standing: list[Standing]) -> str:
    """Both tables, as Markdown."""
    lines = [
        "| passages | build s | load s | search | CPU ms | p50 ms | p95 ms |",
        "|---:|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one.passages:,} | {one.build_s:.1f} | {one.load_s:.2f} | {one.kind} | {one.cpu:.1f} |"
        f" {one.p50:.1f} | {one.p95:.1f} |"
        for one in found
    ]
    edges = [f"< {edge}" for edge in EDGES_MS] + [f"≥ {EDGES_MS[-1]}"]
    lines += [
        "",
        f"| beside | late, ms | {' | '.join(edges)} | worst | searches | forward p50, p99 ms |",
        "|---|---|" + "---:|" * (len(edges) + 3),
    ]
    for one in standing:
        pace = f"{one.forward_p50_us / 1e3:.1f}, {one.forward_p99_us / 1e3:.1f}"
        rows = (("all", one.late, one.worst_ms), ("ours", one.ours, one.worst_ours_ms))
        for what, counts, worst in rows:
            told = " | ".join(f"{count:,}" for count in counts)
            rest = f"{worst:.1f} | {one.searches} | {pace}"
            lines.append(f"| {one.phase} | {what} | {told} | {rest} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--searches", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=15, help="of each phase")
    parser.add_argument("--files", type=int, default=500, help="of the folder")
    options = parser.parse_args()
    found, standing = run(
        tuple(options.sizes),
        searches=options.searches,
        at_once=AT_ONCE,
        tokens=RATE * options.seconds,
        files=options.files,
    )
    document = {"latency": list(map(asdict, found)), "loop": list(map(asdict, standing))}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1))
    print(tables(found, standing))


if __name__ == "__main__":
    main()
