"""Ingests a folder with a progress bar, and reports what came of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import anyio
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from ragsocket.cli import INTERRUPTED
from ragsocket.cli.printable import one_line
from ragsocket.engine.ingestion import Progress, Report, run_ingestion
from ragsocket.settings import Settings

STAGES = {
    "waiting": "waiting for another ingestion",
    "reading": "files",
    "embedding": "passages embedded",
    "indexing": "passages indexed",
}


def ingest_and_report(settings: Settings, folder: Path) -> bool:
    """Ingest, show how far it is, and print the report; False if a file failed.

    Raises:
        ConfigError: the folder or the index cannot be used.
        EngineError: the ingestion broke; what was published by then stays.
        Exit: it was interrupted; what was published by then stays.
    """
    bars = _Bars()
    try:
        with bars.shown:
            report = anyio.run(_ingest, settings, folder, bars)
    except KeyboardInterrupt:
        typer.echo(
            "ragsocket: stopped; what was published by then stays, and the next ingestion goes on.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(summary(report))
    return not report.failed


async def _ingest(settings: Settings, folder: Path, bars: _Bars) -> Report:
    report = await run_ingestion(settings, folder, on_progress=bars.show)
    bars.fill()
    return report


class _Bars:
    """One bar per stage on stderr; nothing where that is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:>20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[file]}", style="dim", markup=False),
            console=console,
        )
        self.shown = self._bars if console.is_terminal else nullcontext()
        self._task: dict[str, TaskID] = {}

    def fill(self) -> None:
        """Show every stage so far as done."""
        for stage in self._bars.tasks:
            self._bars.update(stage.id, completed=stage.total, file="")

    def show(self, progress: Progress) -> None:
        """Move the bar of the stage, and end those of the stages before."""
        if progress.stage not in self._task:
            self.fill()
            self._task[progress.stage] = self._bars.add_task(STAGES[progress.stage], file="")
        self._bars.update(
            self._task[progress.stage],
            completed=progress.done,
            total=progress.total or None,
            file=one_line(progress.file or ""),
        )


def summary(report: Report) -> str:
    """Return the report as lines: what changed, what there is now, what failed and why."""
    lines = [
        f"files      {report.added} added, {report.changed} changed, "
        f"{report.unchanged} unchanged, {report.removed} removed, {len(report.failed)} failed",
        f"index      revision {report.revision}, {report.passages} passages, "
        f"{report.seconds:.1f} s",
        *(f"note       {one_line(note)}" for note in report.notes),
        *(f"failed     {one_line(file)}: {one_line(why)}" for file, why in report.failed),
    ]
    return "\n".join(lines)
