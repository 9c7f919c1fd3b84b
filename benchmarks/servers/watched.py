"""Our server over a folder that it watches, with clocks that notice when its loop stands still.

Says its port when it listens, a line for each ingestion that has ended, and at its end, counted
since it was sent SIGUSR1 and in milliseconds: how late a timer was (`late`, which a busy machine
makes longer, whoever makes it busy), and how long each callback kept the processor on the loop's
thread (`busy`, which is ours alone). A loop of asyncio's own, since its callbacks can be timed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import anyio.lowlevel

from ragsocket.app import create_app
from ragsocket.server import Server
from ragsocket.settings import Settings

TICK_S = 0.002
WORTH_NAMING_MS = 10
EDGES_MS = (2, 5, 10, 20, 50, 100, 10_000)


class Told(logging.Handler):
    """Passes on what the engine tells of each ingestion, as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("revision"):
            revision, passages = record.args or (0, 0)
            print(json.dumps({"revision": revision, "passages": passages}), flush=True)


async def serve(settings: Settings) -> None:
    server = Server(create_app(settings), settings)
    late: Counter[int] = Counter()
    busy: Counter[int] = Counter()
    worst: list[tuple[float, str]] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        took = (time.thread_time() - began) * 1000
        busy[next(edge for edge in EDGES_MS if took < edge)] += 1
        if took >= WORTH_NAMING_MS:
            worst.append((round(took, 1), repr(handle)[:300]))
            worst.sort(reverse=True)
            del worst[8:]

    wanted = anyio.Event()

    async def begin() -> None:
        await wanted.wait()
        # As the command line does it when everything is loaded.
        gc.collect()
        gc.freeze()
        await anyio.lowlevel.checkpoint()
        worst.clear()
        late.clear()
        busy.clear()

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await anyio.sleep(TICK_S)
            over = (time.perf_counter() - began - TICK_S) * 1000
            late[next(edge for edge in EDGES_MS if over < edge)] += 1

    asyncio.Handle._run = timed  # type: ignore[method-assign, assignment]

    async def announce() -> None:
        while not server.started:
            await anyio.sleep(0.01)
        print(json.dumps({"port": server.address[1]}), flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, wanted.set)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(announce)
        tasks.start_soon(begin)
        tasks.start_soon(tick)
        await server.serve()
        tasks.cancel_scope.cancel()
    print(json.dumps({"late": late, "busy": busy, "worst": worst}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--folder", "--documents", "--model-url", "--embed-url"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    logger = logging.getLogger("ragsocket.engine")
    logger.setLevel(logging.INFO)
    logger.addHandler(Told())
    logger.addHandler(logging.StreamHandler(sys.stderr))
    settings = Settings(
        host="127.0.0.1",
        port=0,
        data=Path(given.documents),
        watch=True,
        state_dir=Path(given.folder) / "state",
        llm_url=given.model_url,
        llm_model="scripted",
        embed_url=given.embed_url,
        embed_model="scripted",
        drain_s=1,
    )
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
