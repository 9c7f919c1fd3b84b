"""Stop after n words: python stop_after_words.py ws://127.0.0.1:8000 5"""

import asyncio
import sys

from ragsocket_client import connect


async def main(url: str, most: int) -> None:
    async with connect(url) as client:
        async with client.conversation().ask("Tell me about every hut.") as answer:
            async for _ in answer.texts():
                if len(answer.text.split()) >= most:
                    break
        await answer.wait()
        print(answer.text)
        print(f"{answer.status} after {len(answer.text.split())} words")


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
