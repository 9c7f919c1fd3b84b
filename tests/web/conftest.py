"""One browser for a module, and the page with an eye on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from browser import Watched, browsing, visit
from harness import Served, serving
from upstream import Upstream
from words import WordEmbedding

expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the module, since its browser lives in it."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests here; each has a profile of its own."""
    async with browsing() as chromium:
        yield chromium


@pytest.fixture
async def served(upstream: Upstream, state: Path, documents: Path) -> AsyncIterator[Served]:
    """The whole server over a folder of two documents; it takes uploads in quickly."""
    async with serving(
        state, upstream=upstream, data=documents, embed_model=WordEmbedding()
    ) as server:
        yield server


@pytest.fixture
async def watched(browser: Browser, served: Served) -> AsyncIterator[Watched]:
    """The page, which at the end of the test has done nothing that it must not."""
    page = await visit(browser, served)
    yield page
    await page.did_nothing_wrong()
    await page.page.context.close()


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page."""
    return watched.page
