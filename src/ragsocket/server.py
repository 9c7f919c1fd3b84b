"""uvicorn, taught to let running answers finish before it closes their sockets."""

from __future__ import annotations

import logging
import socket
from types import FrameType

import anyio
import uvicorn
from fastapi import FastAPI

from ragsocket.protocol.errors import CloseCode
from ragsocket.responses.runner import Runner
from ragsocket.settings import Settings
from ragsocket.transports.websocket import Connections

log = logging.getLogger("ragsocket.server")

LAST_WORDS_S = 2.0
"""How long sockets get to take their last events and close."""


class Server(uvicorn.Server):
    """A server whose shutdown is: listener closed, answers drained, sockets closed with 1012."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        """Configure uvicorn for token streams.

        Args:
            app: what `create_app` returned.
            settings: the same settings.
        """
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                # Frames of forty bytes do not shrink, and inflating is work for an attacker.
                ws_per_message_deflate=False,
                ws_max_size=settings.max_frame_bytes,
                timeout_graceful_shutdown=int(LAST_WORDS_S) + 1,
            )
        )
        self._app = app
        self._settings = settings
        self._second_interrupt = anyio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first one asks for a drain, a second interrupt for haste."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._second_interrupt.set()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, once started."""
        name = self.servers[0].sockets[0].getsockname()
        return name[0], name[1]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let answers finish or cut them, store all, close, stop."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        runner: Runner | None = getattr(self._app.state, "runner", None)
        if runner is not None:
            log.info("shutting down: %d answers are running", runner.running)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hurry, runner)
                await runner.drain(self._settings.drain_s)
                tasks.cancel_scope.cancel()
        connections: Connections = self._app.state.connections
        connections.close_all(CloseCode.RESTART)
        with anyio.move_on_after(LAST_WORDS_S):
            await connections.all_closed()
        await super().shutdown(sockets)

    async def _hurry(self, runner: Runner) -> None:
        """A second interrupt cuts what still runs; it is stored all the same."""
        await self._second_interrupt.wait()
        runner.stop_all("shutdown")
