"""An embeddings server that costs next to nothing, and counts what it is asked.

Vectors are made of the text's hash: 64 dimensions, the same for the same text.
"""

from __future__ import annotations

import hashlib
import json

import anyio
import uvloop
from aiohttp import web

DIMENSIONS = 64


def vector(text: str) -> list[int]:
    """Return numbers that depend on a text and on nothing else."""
    return list(hashlib.blake2b(text.encode(), digest_size=DIMENSIONS).digest())


async def serve() -> None:
    texts = 0

    async def embed(request: web.Request) -> web.Response:
        nonlocal texts
        wanted = (await request.json())["input"]
        texts += len(wanted)
        data = [{"index": n, "embedding": vector(text)} for n, text in enumerate(wanted)]
        return web.json_response({"data": data})

    async def count(_: web.Request) -> web.Response:
        return web.json_response({"texts": texts})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.add_routes([web.post("/v1/embeddings", embed), web.get("/count", count)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
    await anyio.sleep_forever()


if __name__ == "__main__":
    uvloop.run(serve())
