"""The model behind every server: the tests' scripted one, told by the question what to do.

`[300 tokens]` in the question writes that many as fast as they are read; `[100 tokens at 50]`
writes fifty a second, each carrying the instant of CLOCK_MONOTONIC at which it was written, which
is what forwarding latency is measured with.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import overload

import anyio
import uvloop

from upstream import Request, Script, Upstream, words

ASK = re.compile(r"\[(\d+) tokens(?: at (\d+))?\]")


def wish(tokens: int, rate: int | None) -> str:
    """The part of a question that says how it is to be answered."""
    return f"[{tokens} tokens]" if rate is None else f"[{tokens} tokens at {rate}]"


class Stamped(Sequence[str]):
    """Tokens `<index>@<nanoseconds> `, made at the instant at which they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        now = time.monotonic_ns()
        if isinstance(index, slice):
            return [f"{each}@{now} " for each in range(*index.indices(self._count))]
        return f"{index}@{now} "


def script(request: Request) -> Script:
    """What the last user's message wishes for."""
    wishes = ASK.findall(request.messages[-1]["content"])
    tokens, rate = int(wishes[-1][0]), wishes[-1][1]
    if rate:
        return Script(tokens=Stamped(tokens), rate=float(rate))
    return Script(tokens=words(tokens))


async def serve() -> None:
    async with Upstream(script) as upstream:
        print(json.dumps({"url": upstream.url}), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    uvloop.run(serve())
