"""A chat in ten lines: python chat.py ws://127.0.0.1:8000"""

import asyncio
import sys

from ragsocket_client import connect


async def main(url: str) -> None:
    async with connect(url) as client:
        chat = client.conversation()
        while question := (await asyncio.to_thread(sys.stdin.readline)).strip():
            async for text in chat.ask(question).texts():
                print(text, end="", flush=True)
            print()


asyncio.run(main(sys.argv[1]))
