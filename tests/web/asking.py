"""Asking on the page, and waiting for what comes of it."""

from __future__ import annotations

from playwright.async_api import Page, expect

from upstream import Request, Script, Upstream

FERRY = "When does the ferry to Holm leave?"
TOLD = ("It leaves ", "at 7:40 ", "every morning ", "[1]. ", "Dogs ", "travel ", "free [1].")
WHOLE = "It leaves at 7:40 every morning 1. Dogs travel free 1."


async def ask(page: Page, question: str = FERRY) -> None:
    """Write a question, and send it with Enter."""
    await page.get_by_role("textbox", name="Question").fill(question)
    await page.keyboard.press("Enter")


async def answered(page: Page, count: int = 1) -> None:
    """Wait until so many answers are there and whole."""
    await expect(page.get_by_role("button", name="Answer again")).to_have_count(count)


async def gated(upstream: Upstream, page: Page, tokens: tuple[str, ...] = TOLD) -> Request:
    """Ask something whose answer the test writes."""
    number = len(upstream.requests)
    upstream.queue(Script(tokens=tokens, gated=True))
    await ask(page)
    return await upstream.request(number)


def questions(request: Request) -> list[str]:
    """What the user said in a prompt."""
    return [message["content"] for message in request.messages if message["role"] == "user"]
