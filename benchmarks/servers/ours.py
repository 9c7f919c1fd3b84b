"""ragsocket as it is served: the whole application in uvicorn, on uvloop."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anyio
import uvloop

from ragsocket.app import create_app
from ragsocket.server import Server
from ragsocket.settings import Settings


async def serve(model_url: str, folder: Path) -> None:
    settings = Settings(
        port=0,
        state_dir=folder / "state",
        data=folder / "documents",
        llm_url=model_url,
        llm_model="scripted",
        # What embeds is a figure of its own; here it would run beside the rest.
        embed_model="none",
    )
    app = create_app(settings)
    server = Server(app, settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started or app.state.runner.engine.readiness():
            await anyio.sleep(0.02)
        print(json.dumps({"port": server.address[1]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-url", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="holds documents/ and state/")
    options = parser.parse_args()
    uvloop.run(serve(options.model_url, options.folder))


if __name__ == "__main__":
    main()
