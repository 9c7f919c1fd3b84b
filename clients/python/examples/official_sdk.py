"""The official SDK, and how to stop from it: python official_sdk.py ws://127.0.0.1:8000

Leaving the stream of `client.responses.create(stream=True)` closes its connection, and that stops
the answer. Over a socket the cancel is an event of this server, sent as it is.
"""

import asyncio
import sys

import openai


async def main(url: str) -> None:
    base_url = url.replace("ws://", "http://") + "/v1"
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none")
    async with client.responses.connect() as connection:
        await connection.response.create(input="Tell me about every hut.")
        told = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                told += event.delta
                if len(told) > 40:
                    await connection.send_raw('{"type": "response.cancel"}')
            elif event.type in ("response.completed", "response.incomplete"):
                print(event.response.status, len(event.response.output_text))
                break


asyncio.run(main(sys.argv[1]))
