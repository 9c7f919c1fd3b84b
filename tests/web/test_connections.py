"""The page while networks and servers come and go."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Browser, expect

from browser import visit
from faults import FaultProxy
from harness import Served, serving
from upstream import Script, Upstream, words
from web.asking import FERRY, answered, ask


async def test_offline_and_back_ten_times(
    browser: Browser, served: Served, upstream: Upstream
) -> None:
    """Every word comes once and in order, and the line of status says how it stands."""
    upstream.queue(Script(tokens=words(40), gated=True))
    async with FaultProxy(served.address) as proxy:
        page = (await visit(browser, served)).page
        await page.goto(f"http://{proxy.address}/")
        await ask(page)
        request = await upstream.request(0)
        line = page.locator("#connection")
        for count in range(10):
            request.release(2)
            await expect(page.locator(".prose")).to_have_text("".join(words(2 * count + 2)).strip())
            await page.context.set_offline(True)
            proxy.reset()
            await expect(line).to_contain_text("This device is offline. Next try in")
            request.release(2)
            await request.wrote(2 * count + 2)
            await page.context.set_offline(False)
            await expect(line).to_be_hidden()
            request.released -= 2
        request.release(20)
        await answered(page)
        await expect(page.locator(".prose")).to_have_text("".join(words(40)).strip())
        await page.context.close()


async def test_a_question_waits_for_the_network(
    browser: Browser, served: Served, upstream: Upstream
) -> None:
    """What is asked while there is none is asked once there is."""
    async with FaultProxy(served.address) as proxy:
        page = (await visit(browser, served)).page
        await page.goto(f"http://{proxy.address}/")
        await expect(page.locator("html")).to_have_attribute("data-connection", "ready")
        await page.context.set_offline(True)
        proxy.reset()
        await ask(page)
        await expect(page.locator(".status")).to_have_text("Waits for the connection…")
        await page.context.set_offline(False)
        await answered(page)
        assert len(upstream.requests) == 1
        await page.context.close()


async def test_the_server_restarts_in_mid_answer(
    browser: Browser, upstream: Upstream, state: Path
) -> None:
    """What came stays, with the reason; the page finds the server again, and asks again."""
    upstream.queue(Script(tokens=words(20), gated=True), Script(tokens=("At 7:40.",)))
    async with serving(state, upstream=upstream, drain_s=0.0) as first:
        page = (await visit(browser, first)).page
        await ask(page)
        request = await upstream.request(0)
        request.release(3)
        await expect(page.locator(".prose")).to_have_text("w0 w1 w2")
        port = int(first.address.rpartition(":")[2])
    await expect(page.locator(".notice")).to_contain_text("shut down in the middle of the answer")
    await expect(page.locator(".prose")).to_have_text("w0 w1 w2")
    await expect(page.locator("#connection")).to_contain_text("Next try in")
    async with serving(state, upstream=upstream, port=port):
        await page.get_by_role("button", name="Try now").click()
        await expect(page.locator("#connection")).to_be_hidden()
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator(".prose")).to_have_text("At 7:40.")
        await answered(page)
        await expect(page.get_by_role("heading", name=FERRY, level=2)).to_be_visible()
        await page.context.close()
