"""Clients that other people wrote, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio

from harness import Served
from upstream import Request, Script, Upstream

ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "tests" / "js"
TUTORIAL = ROOT / ".venv-bench-tutorial" / "bin" / "python"
ANSWER = "At 7:40 [1]."


def tutorial_python() -> str:
    """The Python of the environment that has LlamaIndex's own clients."""
    python = os.environ.get("BENCH_TUTORIAL_PYTHON", str(TUTORIAL))
    assert Path(python).exists(), "run `make setup`: the environment of OpenAILike is missing"
    return python


async def run(*command: str, **environment: str) -> str:
    """Run a program to its end, and return what it printed."""
    with anyio.fail_after(100):
        done = await anyio.run_process(
            command, check=False, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


async def test_the_official_client_for_node(served: Served, upstream: Upstream) -> None:
    """Over HTTP, as events, as chat completions and on a socket it gets what the server says."""
    assert (JAVASCRIPT / "node_modules" / "openai").exists(), "run `make setup`: npm's openai"

    def script(request: Request) -> Script:
        # These answers wait until they are stopped.
        held = "Tell me all about it" in request.messages[-1]["content"]
        return Script(tokens=("At ", "7:40 ", "[1]."), gated=held)

    upstream.default = script
    url = f"http://{served.address}/v1"
    got: dict[str, Any] = json.loads(await run("node", str(JAVASCRIPT / "official.mjs"), url))
    types = got["stream"].pop("types")
    numbers = got["stream"].pop("numbers")
    assert numbers == list(range(len(types)))
    assert (types[0], types[-1]) == ("response.created", "response.completed")
    assert got == {
        "models": ["scripted"],
        "json": {"text": ANSWER, "file": "ferry.md", "previous": True, "same": True},
        "stream": {"text": ANSWER},
        "helper": ANSWER,
        "cancelled": "cancelled",
        "last": "response.incomplete",
        "refused": {
            "kind": "NotFoundError",
            "status": 404,
            "code": "model_not_found",
            "param": "model",
        },
        "chat": {"text": ANSWER, "reason": "stop"},
        "chunks": {"text": ANSWER, "usage": 3},
        "socket": [ANSWER] * 3,
        "stopped": "cancelled",
        "error": "model_not_found",
    }


LIKE = """
import asyncio, json, sys
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(model="scripted", api_base=sys.argv[1], api_key="none", is_chat_model=True,
                 max_retries=0, timeout=20)
asked = [ChatMessage(role="system", content="Be brief."),
         ChatMessage(role="user", content="When does the ferry to Holm leave?")]

async def main():
    stream = await llm.astream_chat(asked)
    return [part.delta async for part in stream]

print(json.dumps({
    "chat": llm.chat(asked).message.content,
    "complete": llm.complete("When does the ferry to Holm leave?").text,
    "stream": "".join(part.delta or "" for part in llm.stream_chat(asked)),
    "async": "".join(asyncio.run(main())),
}))
"""


async def test_llama_index_as_a_client(served: Served, upstream: Upstream) -> None:
    """LlamaIndex's `OpenAILike` asks this server as if it were a model, whole and streamed."""
    python = tutorial_python()
    upstream.default = Script(tokens=("At ", "7:40 ", "[1]."))
    url = f"http://{served.address}/v1"
    got = json.loads(await run(python, "-c", LIKE, url, PYTHONPATH=""))
    assert got == dict.fromkeys(("chat", "complete", "stream", "async"), ANSWER)
    assert "Be brief." in upstream.requests[0].messages[0]["content"]
