"""Chromium, with an eye on everything that a page must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

from harness import Served

BROWSERS = ("chromium", "google-chrome", "chromium-browser")

REPORTS = """
globalThis.reports = [];
addEventListener("securitypolicyviolation", (event) =>
  reports.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""


def chromium() -> str:
    """Return the path of a Chromium; where there is none, the test is skipped, but not in CI."""
    found = next(filter(None, map(shutil.which, BROWSERS)), os.environ.get("CHROMIUM"))
    if found is None and "CI" not in os.environ:
        pytest.skip("there is no Chromium here; set CHROMIUM to the path of one")
    assert found is not None, "apt-get install chromium"
    return found


@dataclass
class Watched:
    """A page of the server's, and all that it did.

    Attributes:
        page: Playwright's.
        address: the server's, `host:port`.
        requests: the address of every request, WebSockets too.
        told: what went to the console, and errors that nobody caught.
        dialogs: the text of every dialog.
    """

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> list[str]:
        """The requests that left the server's origin."""
        ours = (f"http://{self.address}/", f"ws://{self.address}/")
        return [url for url in self.requests if not url.startswith(ours)]

    async def reports(self) -> list[str]:
        """What the page tried against its Content-Security-Policy."""
        found: list[str] = await self.page.evaluate("reports")
        return found

    async def did_nothing_wrong(self) -> None:
        """Fail if the page ran, asked for or told anything that it should not have."""
        assert await self.reports() == []
        assert self.elsewhere == []
        assert self.dialogs == []
        assert self.told == []


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run Chromium until the block ends."""
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


async def visit(browser: Browser, served: Served, path: str = "/", **context: Any) -> Watched:
    """Open a page of the server's in a profile of its own."""
    page = await (await browser.new_context(**context)).new_page()
    watched = Watched(page, served.address)

    async def dismiss(dialog: Any) -> None:
        watched.dialogs.append(dialog.message)
        await dialog.dismiss()

    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("websocket", lambda socket: watched.requests.append(socket.url))
    page.on("console", lambda message: watched.told.append(message.text))
    page.on("pageerror", lambda error: watched.told.append(str(error)))
    page.on("dialog", dismiss)
    await page.add_init_script(REPORTS)
    await page.goto(f"http://{served.address}{path}")
    return watched
