"""`ragsocket eval`: asks a file of questions over the socket, and counts what came back.

One JSON object a line: `question`; `kind`, a name that the table groups by; `file`, where the
answer stands, or null; `facts`, what a right answer holds, where one string may offer
alternatives between bars; `history`, the messages before. A record of kind `unanswerable`
should be refused; one of kind `conversation` should not.

Facts are looked for word by word in the answer, so figures compare systems with each other; they
are not a judgement of style.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import websockets
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

TOP = 5
TABLE_WIDTH = 110
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")

SAYS_NO = re.compile(
    r"(documents?|passages?|text|context|sources?)[^.]{0,40} (do(es)? not|don't|doesn't|cannot)"
    r"|not (mentioned|stated|specified|provided|given|in the (documents?|passages?))"
    r"|no (information|mention|answer)|(do not|don't|cannot|can't) (know|answer|find)",
    re.IGNORECASE,
)
"""How models and this server say that the documents do not answer."""


class Record(BaseModel):
    """One question of the file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: str
    kind: str = "fact"
    file: str | None = None
    facts: tuple[str, ...] = ()
    history: tuple[dict[str, str], ...] = ()


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one question.

    Attributes:
        status: of the response, or the code of the error.
        found: the files of the sources, best first.
        file_found: whether the expected file is among the first five; None if none is expected.
        facts_held: whether the answer holds every fact; None if none is expected.
        refused: whether the answer says that the documents do not answer.
        ttft_ms: to the first text.
        tokens_per_s: while it was written; None for fewer than two tokens.
    """

    question: str
    kind: str
    status: str
    text: str
    found: tuple[str, ...]
    file_found: bool | None
    facts_held: bool | None
    refused: bool
    ttft_ms: float | None
    tokens_per_s: float | None


def read(path: Path) -> list[Record]:
    """Return the records of a file.

    Raises:
        ConfigError: it cannot be read, or a line is not a record; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(RECORD.validate_json(line))
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(str(part) for part in fault["loc"])
                raise ConfigError(f"{path}, line {number}: {where} {fault['msg']}") from None
    if not records:
        raise ConfigError(f"{path} holds no questions: write one JSON object per line.")
    return records


def evaluate(
    settings: Settings, path: Path, *, url: str | None, per_kind: int | None, json_path: Path | None
) -> bool:
    """Ask every question of a file, and print the table.

    Args:
        settings: of the server that is started if no address is given.
        path: the questions.
        url: a running server's `/v1/responses`; None starts one for the purpose.
        per_kind: at most so many of each kind, taken evenly; None for all.
        json_path: where every outcome and the summary go, or None.

    Returns:
        False if a question could not be asked or its answer failed.
    """
    records = _sample(read(path), per_kind)
    console = Console(highlight=False, width=TABLE_WIDTH)
    outcomes, model = anyio.run(_ask_all, settings, records, url, console)
    summary = summarise(outcomes)
    console.print(_table(model, summary))
    if json_path is not None:
        document = {"model": model, "summary": summary, "outcomes": [asdict(o) for o in outcomes]}
        json_path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    return all(outcome.status in ("completed", "incomplete") for outcome in outcomes)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    """Return, for each kind and for all, the shares and the medians of the table."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.kind].append(outcome)
    groups["all"] = list(outcomes)
    return {
        kind: {
            "questions": len(group),
            f"file in top {TOP}": _share(o.file_found for o in group),
            "facts in answer": _share(o.facts_held for o in group),
            "refused": _share(o.refused for o in group),
            "failed": sum(o.status not in ("completed", "incomplete") for o in group),
            "first text ms": _median(o.ttft_ms for o in group),
            "tokens/s": _median(o.tokens_per_s for o in group),
        }
        for kind, group in groups.items()
    }


def holds(text: str, fact: str) -> bool:
    """True if an answer holds a fact, or one of its alternatives; case and marks aside."""
    said = _plain(text)
    return any(_plain(one) in said for one in fact.split("|"))


async def _ask_all(
    settings: Settings, records: Sequence[Record], url: str | None, console: Console
) -> tuple[list[Outcome], str]:
    outcomes: list[Outcome] = []
    model = ""
    async with _server(settings, url) as address:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("asking", total=len(records))
            for record in records:
                outcome, model = await _ask(address, record)
                outcomes.append(outcome)
                progress.advance(task)
    return outcomes, model


async def _ask(address: str, record: Record) -> tuple[Outcome, str]:
    said = [
        {"role": turn.get("role", "user"), "content": turn.get("content", "")}
        for turn in record.history
    ]
    ask = {
        "type": "response.create",
        "input": [*said, {"role": "user", "content": record.question}],
        "include": ["file_search_call.results"],
    }
    async with websockets.connect(address, max_size=None) as socket:
        await socket.send(json.dumps(ask))
        event: dict[str, Any] = {"type": ""}
        while event["type"] not in TERMINAL:
            event = json.loads(await socket.recv())
    response = event.get("response") or {"status": event.get("code", "error"), "output": []}
    return _outcome(record, response), str(response.get("model", ""))


def _outcome(record: Record, response: dict[str, Any]) -> Outcome:
    found: list[str] = []
    text = ""
    for item in response["output"]:
        if item["type"] == "message":
            text += "".join(part["text"] for part in item["content"])
        else:
            found += [result["filename"] for result in item.get("results") or ()]
    facts = response.get("ragsocket") or {}
    ttft, total = facts.get("ttft_ms"), facts.get("total_ms")
    tokens = (response.get("usage") or {}).get("output_tokens", 0)
    writing = (total - ttft) / 1000 if ttft is not None and total is not None else 0
    return Outcome(
        question=record.question,
        kind=record.kind,
        status=response["status"],
        text=text,
        found=tuple(dict.fromkeys(found)),
        file_found=record.file in found[:TOP] if record.file else None,
        facts_held=all(holds(text, fact) for fact in record.facts) if record.facts else None,
        refused=SAYS_NO.search(text) is not None,
        ttft_ms=ttft,
        tokens_per_s=(tokens - 1) / writing if tokens > 1 and writing > 0 else None,
    )


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


def _table(model: str, summary: dict[str, dict[str, float | None]]) -> Table:
    table = Table(title=model, title_justify="left")
    table.add_column("kind")
    for name in summary["all"]:
        table.add_column(name, justify="right")
    for kind, figures in summary.items():
        shares = (f"file in top {TOP}", "facts in answer", "refused")
        table.add_row(kind, *(_cell(v, share=name in shares) for name, v in figures.items()))
    return table


def _cell(value: float | None, *, share: bool) -> str:
    if value is None:
        return "–"
    return f"{value:.0%}" if share else f"{value:,.0f}"


def _share(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`’']", "", text.lower()).split())
