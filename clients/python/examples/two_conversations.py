"""Two conversations on one socket, side by side: python two_conversations.py ws://127.0.0.1:8000"""

import asyncio
import sys

from ragsocket_client import connect


async def main(url: str) -> None:
    async with connect(url) as client:
        one, two = client.conversation(), client.conversation()
        answers = one.ask("Which huts allow dogs?"), two.ask("What does a night cost?")
        for answer in answers:
            print(await answer)
        print(await one.ask("Why not the others?"))
        print(one.id != two.id)


asyncio.run(main(sys.argv[1]))
