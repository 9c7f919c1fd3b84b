"""Documents on the page: brought in, asked about, deleted; and what is suggested to ask."""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.async_api import Browser, FilePayload, expect

from browser import Watched, visit
from harness import serving
from upstream import Script, Upstream
from web.asking import answered, ask

# A process of its own starts for it.
READ_WITHIN_MS = 60_000
BUS = b"# Bus\n\nThe night bus to Brackwater leaves at 23:15 from platform 4.\n"
DROP = """(text) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([text], "night bus.md", { type: "text/markdown" }));
  for (const type of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(
      new DragEvent(type, { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""


async def test_upload_and_ask(watched: Watched, upstream: Upstream) -> None:
    """A dropped file can be asked about at once, is named as the source, and can be deleted."""
    page = watched.page
    await expect(page.locator("#about")).to_have_text("2 documents")
    await page.evaluate(DROP, BUS.decode())
    panel = page.get_by_role("dialog", name="Documents")
    row = panel.locator(".documents:not(.uploads) li", has_text="night bus.md")
    await expect(row).to_contain_text("uploaded", timeout=READ_WITHIN_MS)
    await expect(page.locator("#about")).to_have_text("3 documents")
    upstream.queue(Script(tokens=("At 23:15 [1].",)))
    await ask(page, "When does the night bus to Brackwater leave?")
    await answered(page)
    await expect(page.locator(".source").first).to_contain_text("night bus.md")
    assert "platform 4" in str(upstream.requests[0].messages)
    await row.get_by_role("button", name="Delete night bus.md").click()
    await expect(row).to_have_count(0)
    await expect(page.locator("#about")).to_have_text("2 documents")
    await page.get_by_role("button", name="Source 1: night bus.md").click()
    await expect(page.locator("#panel .notice")).to_contain_text("not there any more")
    await expect(page.locator("#panel mark")).to_contain_text("platform 4")
    # Chromium tells the console of every 404.
    assert "404" in watched.told.pop()


async def test_what_cannot_be_read(browser: Browser, state: Path, upstream: Upstream) -> None:
    """It is named with the reason, and the others go in."""
    async with serving(state, upstream=upstream) as served:
        page = (await visit(browser, served)).page
        picture: FilePayload = {
            "name": "a.png",
            "mimeType": "image/png",
            "buffer": b"\x89PNG\r\n\x1a\n\xff",
        }
        text: FilePayload = {
            "name": "b.txt",
            "mimeType": "text/plain",
            "buffer": b"Trams run all night.",
        }
        await page.locator("#picker").set_input_files([picture, text])
        await expect(page.locator(".uploads .failed")).to_contain_text("is a picture (PNG)")
        await expect(page.locator(".documents:not(.uploads)")).to_contain_text(
            "b.txt", timeout=READ_WITHIN_MS
        )
        await page.context.close()


async def test_suggestions(
    browser: Browser, documents: Path, ingested: Path, tmp_path: Path, upstream: Upstream
) -> None:
    """The folder says what one could ask; a click asks it, and nothing else is suggested."""
    folder = shutil.copytree(documents, tmp_path / "documents")
    lines = (
        '{"question": "Do dogs pay on the ferry?", "sample": true}',
        '{"question": "Not this one"}',
        '{"question": 7, "sample": true}',
        "no JSON",
    )
    (folder / "questions.jsonl").write_text("\n".join(lines))
    state = shutil.copytree(ingested, tmp_path / "state")
    async with serving(state, upstream=upstream, data=folder) as served:
        watched = await visit(browser, served)
        samples = watched.page.locator("#samples button")
        await expect(samples).to_have_text(["Do dogs pay on the ferry?"])
        await expect(watched.page.locator("#model")).to_have_text("scripted")
        await samples.click()
        await answered(watched.page)
        await watched.did_nothing_wrong()
        await watched.page.context.close()
