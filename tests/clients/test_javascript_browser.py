"""The JavaScript client in Chromium, on a page of another port."""

from __future__ import annotations

from javascript import playing
from test_javascript import FERRY, LONG, TOKENS, lost_twenty_times, url

from harness import Served
from upstream import Script, Upstream

CHROMIUM = "chromium.mjs"


async def test_twenty_lost_connections_lose_nothing(served: Served, upstream: Upstream) -> None:
    """A browser notices none of the dead networks by itself; the client does."""
    upstream.default = LONG
    await lost_twenty_times(served, upstream, 7, script=CHROMIUM)


async def test_leaving_the_loop_stops_the_answer(served: Served, upstream: Upstream) -> None:
    """As in Node, and the conversation was made over HTTP from another origin."""
    upstream.queue(Script(tokens=TOKENS, rate=200))
    async with playing("leave", url(served), script=CHROMIUM, question=FERRY, pieces=3) as play:
        left = await play.result()
    await (await upstream.request(0)).closed()
    assert left["told"] == left["text"] != ""
    assert left["status"] == "cancelled"
