"""The tutorial way: a FastAPI WebSocket around LlamaIndex's context chat engine.

One engine per connection, `astream_chat`, one `send_json` per token. Its retriever hands out the
same four passages at no cost, so what is measured is the streaming. It runs in an environment of
its own (requirements/bench-tutorial.txt) and imports nothing of this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import socket as sockets

os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.openai_like import OpenAILike  # type: ignore

PASSAGES = [
    NodeWithScore(node=TextNode(text=f"Passage {number}. " + "The harbour opens at nine. " * 8))
    for number in range(4)
]


class FixedPassages(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return PASSAGES


def application(model_url: str) -> FastAPI:
    app = FastAPI()
    llm = OpenAILike(
        model="scripted",
        api_base=model_url,
        api_key="none",
        is_chat_model=True,
        context_window=8192,
    )

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        engine = ContextChatEngine.from_defaults(
            retriever=FixedPassages(),
            llm=llm,
            memory=ChatMemoryBuffer.from_defaults(token_limit=3000),
            system_prompt="Answer in short sentences.",
        )
        try:
            while True:
                asked = await socket.receive_json()
                answer = await engine.astream_chat(asked["question"])
                async for token in answer.async_response_gen():
                    await socket.send_json({"token": token})
                await socket.send_json({"done": True})
        except WebSocketDisconnect:
            pass

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-url", required=True)
    options = parser.parse_args()
    listener = sockets.create_server(("127.0.0.1", 0), backlog=2048)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(
        application(options.model_url),
        loop="uvloop",
        log_level="warning",
        ws_per_message_deflate=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
