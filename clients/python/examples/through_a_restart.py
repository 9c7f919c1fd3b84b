"""Live through a restart of the server: python through_a_restart.py ws://127.0.0.1:8000"""

import asyncio
import sys

from ragsocket_client import Interrupted, connect


async def main(url: str) -> None:
    async with connect(url) as client:
        chat = client.conversation()
        for question in ("Which huts allow dogs?", "Why not the others?"):
            answer = chat.ask(question)
            try:
                print(await answer, flush=True)
            except Interrupted as cut:
                print(f"{cut.text} … ({cut.reason})", flush=True)
                print(await chat.ask("Go on, please."), flush=True)
            await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main(sys.argv[1]))
