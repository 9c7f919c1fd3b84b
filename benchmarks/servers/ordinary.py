"""What an ordinary FastAPI WebSocket can be at best: aiohttp, msgspec, merged tokens, uvloop.

A system prompt, the chat history and a streamed answer; no search, no stop, no resume, nothing
stored. It is the yardstick for what those cost.
"""

from __future__ import annotations

import argparse
import json
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta


class Chunk(msgspec.Struct):
    choices: list[Choice]


class Question(msgspec.Struct):
    question: str


encode = msgspec.json.Encoder().encode
decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_question = msgspec.json.Decoder(Question).decode


def application(model_url: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        history = [{"role": "system", "content": "Answer in short sentences."}]
        try:
            while True:
                asked = decode_question(await socket.receive_text())
                history.append({"role": "user", "content": asked.question})
                answer = await relay(app.state.session, socket, history)
                history.append({"role": "assistant", "content": answer})
        except WebSocketDisconnect:
            pass

    async def relay(
        session: aiohttp.ClientSession, socket: WebSocket, history: list[dict[str, str]]
    ) -> str:
        answer: list[str] = []
        body = encode({"model": "scripted", "messages": history, "stream": True})
        headers = {"Content-Type": "application/json"}
        url = f"{model_url}/chat/completions"
        async with session.post(url, data=body, headers=headers) as response:
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                texts = [
                    content
                    for event in events
                    if event != b"data: [DONE]"
                    for choice in decode_chunk(event[6:]).choices
                    if (content := choice.delta.content)
                ]
                if texts:
                    text = "".join(texts)
                    answer.append(text)
                    await socket.send_text(encode({"token": text}).decode())
        await socket.send_text('{"done":true}')
        return "".join(answer)

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
