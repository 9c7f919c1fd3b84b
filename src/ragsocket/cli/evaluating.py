"""`ragsocket eval`: asks a file of questions over the socket, and counts what came back.

One JSON object a line, see `scoring.Record`. Facts are looked for word by word in the answer, so
figures compare systems with each other; they are not a judgement of style. A record of kind
`unanswerable` should be refused; one of kind `conversation` should not.

Each question is searched for once more than it is answered, with ten passages, so that ranks can
be told. The comparison of ways to search makes no answers at all.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import websockets
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ragsocket.cli.scoring import (
    RANKS,
    Figures,
    Outcome,
    Ranking,
    Record,
    outcome,
    ranked,
    read,
    summarise,
    summarise_search,
)
from ragsocket.errors import ConfigError, RequestError
from ragsocket.settings import Settings

TABLE_WIDTH = 120
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")
QueryFrom = Literal["last", "turns", "model"]

_WAYS: dict[str, dict[str, Any]] = {
    "words (BM25)": {"mode": "sparse", "rerank": False},
    "vectors": {"mode": "dense", "rerank": False},
    "both (hybrid)": {"mode": "hybrid", "rerank": False},
    "both, reranked": {"mode": "hybrid", "rerank": True},
}
_QUERIES: dict[QueryFrom, str] = {
    "last": "last turn",
    "turns": "last three turns",
    "model": "by the model",
}


@dataclass(frozen=True, slots=True)
class Compared:
    """What one way to search found.

    Attributes:
        way: which indexes were asked, and whether a reranker was.
        query: what was searched for; empty where the questions have no history.
        figures: of all questions.
    """

    way: str
    query: str
    figures: Figures


def evaluate(
    settings: Settings,
    path: Path,
    *,
    url: str | None,
    per_kind: int | None,
    k: int,
    json_path: Path | None,
) -> bool:
    """Ask every question of a file, and print the table.

    Args:
        settings: of the server that is started if no address is given.
        path: the questions.
        url: a running server's `/v1/responses`; None starts one for the purpose.
        per_kind: at most so many of each kind, taken evenly; None for all.
        k: among how many passages places are counted.
        json_path: where every outcome and the summary go, or None.

    Returns:
        False if a question could not be asked or its answer failed.
    """
    records = _sample(read(path), per_kind)
    console = _console()
    outcomes, model = anyio.run(_ask_all, settings, records, url, k, console)
    summary = summarise(outcomes, k)
    console.print(_table(model, "kind", list(summary.items())))
    if json_path is not None:
        _write(
            json_path,
            {"model": model, "summary": summary, "outcomes": [asdict(one) for one in outcomes]},
        )
    return all(one.status in ("completed", "incomplete") for one in outcomes)


def compare(
    settings: Settings,
    path: Path,
    *,
    url: str | None,
    per_kind: int | None,
    k: int,
    model_query: bool,
    json_path: Path | None,
) -> None:
    """Search for every question that names its places in every way there is; print the table.

    Args:
        settings: of the server that is started if no address is given.
        path: the questions.
        url: a running server's `/v1/responses`; None starts one for the purpose.
        per_kind: at most so many of each kind, taken evenly; None for all.
        k: among how many passages places are counted, beside 1 and 10.
        model_query: whether the model shall write queries as well, where there is a history.
        json_path: where the table goes as well, or None.

    Raises:
        ConfigError: no question names its places.
        RequestError: the server cannot write queries, or refuses a search for another reason.
    """
    records = [record for record in _sample(read(path), per_kind) if record.places]
    if not records:
        raise ConfigError(
            f"{path}: no question says where its answer stands; give file, files or passages."
        )
    console = _console()
    queries: list[QueryFrom] = ["last", "turns"]
    if model_query:
        queries.append("model")
    rows, left_out = anyio.run(_search_all, settings, records, url, queries, k, console)
    named = [(" · ".join(filter(None, (row.way, row.query))), row.figures) for row in rows]
    console.print(_table(f"{path.name}: {len(records)} questions", "search", named))
    for way, why in left_out.items():
        console.print(f"left out: {way}. {why}")
    if json_path is not None:
        document = {"questions": len(records), "rows": [asdict(row) for row in rows]}
        _write(json_path, {**document, "left_out": left_out})


async def _ask_all(
    settings: Settings, records: Sequence[Record], url: str | None, k: int, console: Console
) -> tuple[list[Outcome], str]:
    outcomes: list[Outcome] = []
    model = ""
    async with _server(settings, url) as address:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("asking", total=len(records))
            for record in records:
                async with websockets.connect(address, max_size=None) as socket:
                    ranking = Ranking({}, None, None)
                    if record.places:
                        ranking = await _search(socket, record, {}, [k])
                    response = await _ask(socket, record)
                outcomes.append(outcome(record, response, ranking))
                model = str(response.get("model", model))
                progress.advance(task)
    return outcomes, model


async def _search_all(
    settings: Settings,
    records: Sequence[Record],
    url: str | None,
    queries: Sequence[QueryFrom],
    k: int,
    console: Console,
) -> tuple[list[Compared], dict[str, str]]:
    if not any(record.is_follow_up for record in records):
        queries = ()
    ks = sorted({1, k, RANKS})
    rows: list[Compared] = []
    left_out: dict[str, str] = {}
    total = len(_WAYS) * max(1, len(queries)) * len(records)
    async with _server(settings, url) as address:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("searching", total=total)
            async with websockets.connect(address, max_size=None) as socket:
                for query in queries or (None,):
                    for way, how in _WAYS.items():
                        rankings: list[Ranking] = []
                        fields = {**how, "query": query}
                        try:
                            for record in records:
                                rankings.append(await _search(socket, record, fields, ks))
                                progress.advance(task)
                        except RequestError as refusal:
                            if refusal.param == "retrieval.query":
                                raise
                            left_out[way] = refusal.message
                            progress.advance(task, len(records) - len(rankings))
                            continue
                        figures = summarise_search(rankings, ks)
                        rows.append(Compared(way, _QUERIES[query] if query else "", figures))
    return rows, left_out


async def _search(
    socket: websockets.ClientConnection,
    record: Record,
    retrieval: dict[str, Any],
    ks: Sequence[int],
) -> Ranking:
    """Search for a question as for its answer, but for ten passages.

    Raises:
        RequestError: the server refuses it.
    """
    response = await _exchange(
        socket,
        record,
        tool_choice="required",
        retrieval={**retrieval, "response_mode": "no_text", "similarity_top_k": RANKS},
    )
    if response["status"] != "completed":
        raise RequestError(
            response["status"],
            response.get("message", "the search failed"),
            param=response.get("param"),
        )
    found = [one for item in response["output"] for one in item.get("results") or ()]
    return ranked(record, found, response["ragsocket"].get("retrieval_ms"), ks=ks)


async def _ask(socket: websockets.ClientConnection, record: Record) -> dict[str, Any]:
    return await _exchange(socket, record)


async def _exchange(
    socket: websockets.ClientConnection, record: Record, **fields: Any
) -> dict[str, Any]:
    """Ask, and return the Response; of an error, what there is of one."""
    said = [
        {"role": turn.get("role", "user"), "content": turn.get("content", "")}
        for turn in record.history
    ]
    ask = {
        "type": "response.create",
        "input": [*said, {"role": "user", "content": record.question}],
        "include": ["file_search_call.results"],
        "store": False,
        **fields,
    }
    await socket.send(json.dumps(ask))
    event: dict[str, Any] = {"type": ""}
    while event["type"] not in TERMINAL:
        event = json.loads(await socket.recv())
    response: dict[str, Any] | None = event.get("response")
    if response is None:
        facts = {name: event.get(name) for name in ("message", "param")}
        return {"status": event.get("code", "error"), "output": [], **facts}
    if response["status"] == "failed":
        facts = {"message": response["error"]["message"], "param": None}
        return {**response, **facts, "status": response["ragsocket"]["code"]}
    return response


@asynccontextmanager
async def _server(settings: Settings, url: str | None) -> AsyncIterator[str]:
    """Give the address to ask at: the one named, or a server started for the purpose."""
    if url is not None:
        yield url
        return
    from ragsocket.app import create_app
    from ragsocket.engine.ingestion import run_ingestion
    from ragsocket.server import Server

    with tempfile.TemporaryDirectory(prefix="ragsocket-eval-") as folder:
        chosen = settings.model_copy(update={"state_dir": Path(folder), "port": 0})
        if chosen.data is not None:
            # To its end: a server is ready before the vectors are, and would be measured without.
            await run_ingestion(chosen, chosen.data)
        app = create_app(chosen)
        server = Server(app, chosen)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            await _until(lambda: server.started)
            await _until(lambda: not app.state.runner.engine.readiness())
            host, port = server.address
            yield f"ws://{host}:{port}/v1/responses"
            server.should_exit = True


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - readiness is a state that nobody announces
        await anyio.sleep(0.05)


def _sample(records: list[Record], per_kind: int | None) -> list[Record]:
    if per_kind is None:
        return records
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.kind].append(record)
    chosen = []
    for group in groups.values():
        step = max(1.0, len(group) / per_kind)
        chosen += [group[int(n * step)] for n in range(min(per_kind, len(group)))]
    return chosen


def _console() -> Console:
    return Console(highlight=False, width=TABLE_WIDTH)


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def _table(title: str, first: str, rows: Sequence[tuple[str, Figures]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in rows[-1][1] if rows else ():
        table.add_column(name, justify="right")
    for name, figures in rows:
        table.add_row(name, *(_cell(column, value) for column, value in figures.items()))
    return table


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    if column.startswith("MRR"):
        return f"{value:.3f}"
    if column.startswith("recall") or column in ("facts in answer", "citations right", "refused"):
        return f"{value:.1%}" if column.startswith("recall") else f"{value:.0%}"
    return f"{value:,.1f}" if column == "search ms" else f"{value:,.0f}"
