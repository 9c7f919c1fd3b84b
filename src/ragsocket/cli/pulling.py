"""Shows a pull on stderr: what is fetched, how far it is, and why its source does not matter."""

from __future__ import annotations

import time
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ragsocket.cli.logs import LOG
from ragsocket.engine.models.catalog import Model
from ragsocket.engine.models.choice import absent_model
from ragsocket.engine.models.pull import Pulled, megabytes, pull
from ragsocket.errors import PullError
from ragsocket.settings import Settings

WHY = (
    "Where it comes from does not matter: it is used only if its SHA-256 is the official file's, {}"
)


class Bar:
    """A progress bar where there is a terminal, sentences everywhere."""

    def __init__(self, name: str) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def says(self, text: str) -> None:
        """Show a sentence."""
        self._console.print(text)

    def at(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total)


def pull_and_report(model: Model, directory: Path, own_file: Path | None) -> None:
    """Fetch a model and print its path on stdout.

    Args:
        model: what to fetch.
        directory: where to.
        own_file: where from; None asks hub and registry.

    Raises:
        PullError: it could not be fetched.
    """
    typer.echo(_pull(model, directory, own_file).path)


def pull_if_absent(settings: Settings) -> None:
    """Fetch the model that these settings would run, if it is not here; go on without it if not."""
    model = absent_model(settings)
    if model is None:
        return
    try:
        _pull(model, settings.models_path, None)
    except PullError as error:
        LOG.warning("going on without the model: %s", error)


def _pull(model: Model, directory: Path, own_file: Path | None) -> Pulled:
    began = time.monotonic()
    with Bar(model.name) as bar:
        if not model.is_present(directory):
            bar.says(
                f"{model.name}: {megabytes(model.size)}, {model.licence} ({model.page})\n"
                + WHY.format(model.sha256)
            )
        pulled = pull(model, directory, bar, own_file=own_file)
        took = time.monotonic() - began
        bar.says(
            "already here"
            if pulled.source is None
            else f"here after {took:.0f} s, and it is the official file"
        )
    return pulled
