"""axe finds no fault with the page, in any state, by day and by night, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from upstream import Script, Upstream

AXE = Path(__file__).parents[1] / "js" / "node_modules" / "axe-core" / "axe.min.js"
FAULTS = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, nodes }) =>
    `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\\n")}`);
}"""
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

# Everything that an answer can consist of.
ANSWER = """The ferry leaves at *7:40* [1], see `timetable` and [the site](https://ferry.example).

# Prices

| Who | Crowns |
|-----|-------:|
| A bicycle [1] | 3 |

### To do

- [x] a ticket
- [ ] a coat

1. Go to the **harbour**.

   Look for the [shed](mailto:shed@ferry.example).

> Dogs travel free of charge.

```python
print("a long line of code that is wider than any phone, and so has to be scrolled to be read")
```
"""


@pytest.fixture
async def page(page: Page) -> Page:
    """The page, at rest, with axe in it."""
    assert AXE.exists(), "run `make setup`: npm's axe-core is missing"
    await page.emulate_media(reduced_motion="reduce")
    await page.evaluate(AXE.read_text())
    return page


async def has_no_faults(page: Page) -> None:
    """Fail if axe finds anything to mend, in either scheme, on a desk or on a phone."""
    for size in (DESK, PHONE):
        await page.set_viewport_size(size)  # type: ignore[arg-type]
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await page.evaluate(FAULTS) == [], (size, scheme)
    await page.set_viewport_size(DESK)  # type: ignore[arg-type]


async def ask(page: Page) -> None:
    """Ask something."""
    await page.get_by_role("textbox", name="Question").fill("When does the ferry to Holm leave?")
    await page.keyboard.press("Enter")


async def test_the_empty_page(page: Page) -> None:
    """Nothing has been asked yet."""
    await expect(page.locator("#empty")).to_be_visible()
    await has_no_faults(page)


async def test_an_answer_and_the_card_of_a_source(page: Page, upstream: Upstream) -> None:
    """An answer of every kind of block, while it is written and afterwards, and a source's card."""
    upstream.queue(Script(tokens=(*ANSWER.splitlines(keepends=True), "end"), gated=True))
    await ask(page)
    request = await upstream.request(0)
    request.release(6)
    await expect(page.locator(".prose h3")).to_be_visible()
    assert await page.evaluate(FAULTS) == []
    request.release(100)
    await expect(page.get_by_role("button", name="Answer again")).to_be_visible()
    await has_no_faults(page)
    await page.keyboard.press("Shift+Tab")
    await page.locator(".cite").first.focus()
    await expect(page.locator("#card")).to_be_visible()
    assert await page.evaluate(FAULTS) == []
    await page.keyboard.press("Enter")
    await expect(page.locator("#panel")).to_be_visible()
    await has_no_faults(page)


async def test_the_documents(page: Page) -> None:
    """The panel with the documents."""
    await page.locator("#about").click()
    await expect(page.locator(".documents li").first).to_be_visible()
    await has_no_faults(page)


async def test_an_error(page: Page, upstream: Upstream) -> None:
    """An answer that failed, and the way out of it."""
    upstream.default = Script(status=500)
    await ask(page)
    await expect(page.locator(".notice")).to_be_visible()
    await has_no_faults(page)
