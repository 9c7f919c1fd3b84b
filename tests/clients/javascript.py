"""Plays scenarios of the JavaScript client, in Node or in Chromium."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from browser import chromium

JAVASCRIPT = Path(__file__).parents[2] / "clients" / "js"
ENDS_WITHIN_S = 60.0


@dataclass
class Play:
    """A scenario that is being played.

    Attributes:
        said: every line that it said, its result last.
    """

    process: Process
    lines: BufferedByteReceiveStream
    said: list[Any]

    async def line(self) -> Any:
        """Return the next thing that it says."""
        with anyio.fail_after(ENDS_WITHIN_S):
            try:
                raw = await self.lines.receive_until(b"\n", 1 << 24)
            except (anyio.EndOfStream, anyio.IncompleteRead):
                assert self.process.stderr is not None
                told = b"".join([chunk async for chunk in self.process.stderr])
                raise AssertionError(told.decode()) from None
        self.said.append(json.loads(raw))
        return self.said[-1]

    async def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        await self.process.stdin.send(b"\n")

    async def result(self) -> Any:
        """Read to the end, and return what the scenario returned."""
        while not (isinstance(said := await self.line(), dict) and "states" in said):
            pass
        return said["result"]

    @property
    def states(self) -> list[str]:
        """The states that the client went through, once the result is there."""
        states: list[str] = self.said[-1]["states"]
        return states


@asynccontextmanager
async def playing(
    name: str, url: str, *, script: str = "play.mjs", **about: Any
) -> AsyncIterator[Play]:
    """Play a scenario of `clients/js/tests/scenarios.js` until the block ends.

    Args:
        name: the scenario's.
        url: of the server.
        script: what plays it; all but `play.mjs` need a browser.
        about: what it is told; `options` are the client's.
    """
    assert (JAVASCRIPT / "node_modules").exists(), "run `make setup`: npm's packages are missing"
    browser = {} if script == "play.mjs" else {"CHROMIUM": chromium()}
    process = await anyio.open_process(
        ["node", f"tests/{script}", name, url, json.dumps(about)],
        cwd=JAVASCRIPT,
        stdin=subprocess.PIPE,
        env={**os.environ, **browser},
    )
    assert process.stdout is not None
    try:
        yield Play(process, BufferedByteReceiveStream(process.stdout), [])
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


async def played(name: str, url: str, **about: Any) -> Any:
    """Play a scenario that needs no company, and return what it returned."""
    async with playing(name, url, **about) as play:
        return await play.result()
