"""Runs the server: says where it is, tells how far it got, and ends with a clean status."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import typer
from fastapi import FastAPI

from ragsocket import __version__
from ragsocket.app import create_app
from ragsocket.cli.listening import EVERYWHERE, dialled
from ragsocket.cli.logs import LOG
from ragsocket.cli.printable import one_line, without_secrets
from ragsocket.engine.ingestion import BuiltInEmbed, choose_embedding
from ragsocket.engine.models.choice import local_model
from ragsocket.errors import ConfigError
from ragsocket.responses.runner import Runner
from ragsocket.server import Server
from ragsocket.settings import Settings

WHERE_CHAT_LOOKS = "127.0.0.1:8000"
TELL_EVERY_S = 1.0


def serve_until_told(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Serve until SIGTERM or an interrupt; returns after a clean shutdown.

    Args:
        settings: checked.
        sockets: listening.

    Raises:
        ConfigError: the conversations' database cannot be opened.
    """
    app = create_app(settings)
    refusals = _refusals_of(app)
    server = _TellingServer(app, settings)
    # uvicorn raises a signal again after it has acted on it; the shutdown was the answer.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    try:
        server.run(list(sockets))
    except SystemExit:
        if refusals:
            raise refusals[0] from None
        raise


def _refusals_of(app: FastAPI) -> list[ConfigError]:
    """Collect what the start-up refuses, which uvicorn would only show as a traceback."""
    refusals: list[ConfigError] = []
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def watched(started: Any) -> AsyncIterator[Any]:
        try:
            async with lifespan(started) as state:
                yield state
        except ConfigError as error:
            refusals.append(error)
            raise

    app.router.lifespan_context = watched
    logging.getLogger("uvicorn.error").addFilter(lambda _: not refusals)
    return refusals


class _TellingServer(Server):
    """Tells the operator when it listens, and each time that readiness changes."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(app, settings)
        self._state = app.state
        self._chosen = settings
        self._missing: dict[str, str] | None = None
        self._began = self._told_at = time.monotonic()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            typer.echo(greeting(self._chosen, *self.address))

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        runner: Runner = self._state.runner
        missing = dict(runner.engine.readiness())
        changed = missing != self._missing
        if changed and (not missing or now - self._told_at >= TELL_EVERY_S):
            self._missing, self._told_at = missing, now
            if missing:
                LOG.info("not ready yet: %s", "; ".join(f"{k} {v}" for k, v in missing.items()))
            else:
                # What was loaded stays. A full collection that looks at all of it again would
                # stop every stream for a tenth of a second and more.
                gc.collect()
                gc.freeze()
                LOG.info("ready for questions after %.1f s", now - self._began)
        return await super().on_tick(counter)


def greeting(settings: Settings, host: str, port: int) -> str:
    """Return what an operator needs to know of a server that now listens."""
    at = dialled(host, port)
    documents = str(settings.data or "what the index holds; name a folder with --data")
    lines = {
        "listens on": f"http://{at}" + (" (every address)" if host in EVERYWHERE else ""),
        "documents": documents,
        "model": model_line(settings),
        "search": search_line(settings),
        "state": str(settings.state_dir),
        "try it": f"ragsocket chat{'' if at == WHERE_CHAT_LOOKS else f' --url ws://{at}/ws'}",
        "reference": f"http://{at}/docs",
    }
    return "\n".join(
        [f"ragsocket {__version__}", *(f"  {k:<12}{one_line(v)}" for k, v in lines.items())]
    )


def model_line(settings: Settings) -> str:
    """Return who answers, without what a URL may carry of secrets."""
    if (local := local_model(settings)) is not None:
        return f"{local.name}, on this machine"
    if settings.llm_url is None or settings.llm_model in (None, "none"):
        return "extracts, no model"
    return f"{settings.llm_model} at {without_secrets(settings.llm_url)}"


def search_line(settings: Settings) -> str:
    """Return how passages are found."""
    chosen = choose_embedding(settings)
    if chosen is None:
        return "by words"
    if isinstance(chosen, BuiltInEmbed):
        return f"by words and by meaning, {chosen.built_in}, built in"
    return f"by words and by meaning, {chosen.model} at {without_secrets(chosen.url)}"
