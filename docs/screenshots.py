"""Takes the nine pictures of the page in `docs/images`: `python docs/screenshots.py`.

The server is the real one over `data/`; a scripted model gives the answers, so that the pictures
show the same whenever they are taken. They look as the fonts of the machine make them look.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
from playwright.async_api import Browser, Page, expect

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from browser import browsing  # noqa: E402
from harness import index, serving  # noqa: E402
from upstream import Script, Upstream  # noqa: E402

DOGS = "Which huts can I bring my dog to?"
DOGS_TOLD = """Dogs are welcome at two of the huts [1]:

- **Mirefoot** takes at most two dogs a night, in the dog room on the ground floor [1].
- **Twelve Pines** takes one dog a night, in the heated porch [1].

They cost **7 euros** per dog and night, and their place is booked together with the bed [1]. \
Keep your dog on a lead within 100 metres of the hut, and bring its own blanket and bowl [1].

At **Cairn Hollow** and **Highspur** dogs are not admitted [1][3]; trained assistance dogs are \
welcome everywhere [3].
"""
VOUCHERS = "How long are gift vouchers valid?"
VOUCHERS_TOLD = "Gift vouchers are valid for three years from the day they are bought [1].\n"
WINTER = "What must I know before I go to Highspur in winter?"
WINTER_TOLD = """## Before you leave

1. Read the avalanche bulletin of the day [1].
2. Tell the emergency line where you are going, and when you mean to be back [2].
3. Be at the turn-round point **by noon**; later than that, go back [1].

## What you find there

| In the winter room | |
|---|---|
| Beds | first come, first served |
| Blankets | on the shelf by the door |
| Stove | wood is in the lean-to |

> The winter room is a shelter and not a hut in service: leave it as you would like to find it [3].

To ask for the state of the path from a script:

```sh
curl -N -G localhost:8000/stream-question/ \\
  --data-urlencode "query_text=Is the path to Highspur open?"
```
"""
ARABIC = "في أي الأكواخ يُسمح بالكلاب؟ (dogs, huts)"
ARABIC_TOLD = """يُسمح بالكلاب في كوخين فقط [1]:

- **Mirefoot** — كلبان على الأكثر في الليلة، في غرفة الكلاب [1].
- **Twelve Pines** — كلب واحد في الليلة [1].

الرسوم 7 يورو لكل كلب في الليلة [1].
"""


def script(text: str, **how: Any) -> Script:
    """Return a script that writes a text word by word."""
    return Script(tokens=tuple(re.findall(r"\S+\s*", text)), **how)


async def open_page(browser: Browser, url: str, width: int, height: int, **how: Any) -> Page:
    """Open the page in a profile of its own."""
    size: Any = {"width": width, "height": height}
    context = await browser.new_context(viewport=size, device_scale_factor=1.5, **how)
    page = await context.new_page()
    await page.goto(url)
    await expect(page.locator("#about")).to_contain_text("documents")
    return page


async def ask(page: Page, question: str, answers: int = 1) -> None:
    """Ask, and wait for the end of the answer."""
    await page.locator("#question").fill(question)
    await page.locator("#send").click()
    await expect(page.get_by_role("button", name="Answer again")).to_have_count(answers)


async def shoot(page: Page, name: str) -> None:
    """Take one picture, with nothing moving."""
    if "#conv" in page.url and await page.locator("#side").is_visible():
        await expect(page.locator("#conversations [aria-current]")).to_have_count(1)
    await page.screenshot(
        path=IMAGES / f"page-{name}.png", animations="disabled", caret="hide", scale="device"
    )


async def desktop(browser: Browser, url: str, upstream: Upstream) -> str:
    """Take those of a desktop in light; return the address of the first conversation."""
    page = await open_page(browser, url, 1280, 800)
    await expect(page.locator("#samples button")).to_have_count(4)
    await shoot(page, "empty")
    upstream.queue(script(VOUCHERS_TOLD), script(WINTER_TOLD), script(DOGS_TOLD))
    await ask(page, VOUCHERS)
    await page.get_by_role("link", name="New conversation").click()
    await ask(page, WINTER)
    await page.locator("#scroller").evaluate("e => e.scrollTop = 0")
    await page.mouse.move(640, 780)
    await shoot(page, "long")
    await page.get_by_role("link", name="New conversation").click()
    await ask(page, DOGS)
    address = page.url
    await page.mouse.move(640, 780)
    await shoot(page, "answer")
    await page.locator(".cite").nth(3).hover()
    await expect(page.locator("#card")).to_be_visible()
    await shoot(page, "citation")
    await page.locator(".cite").nth(3).click()
    await expect(page.locator("#panel mark")).to_be_in_viewport()
    await page.mouse.move(640, 780)
    await shoot(page, "source")
    await page.locator("#panel-close").click()
    upstream.queue(Script(status=500))
    await page.get_by_role("link", name="New conversation").click()
    await ask(page, VOUCHERS)
    await shoot(page, "error")
    upstream.queue(script(ARABIC_TOLD))
    await page.get_by_role("link", name="New conversation").click()
    await ask(page, ARABIC)
    await shoot(page, "right-to-left")
    await page.context.close()
    return address


async def main() -> None:
    """Take all of them."""
    IMAGES.mkdir(exist_ok=True)
    expect.set_options(timeout=30_000)
    with tempfile.TemporaryDirectory() as state:
        await anyio.to_thread.run_sync(index, ROOT / "data", Path(state))
        async with (
            Upstream(models=("qwen2.5:7b",)) as upstream,
            serving(
                Path(state),
                data=ROOT / "data",
                llm_url=upstream.url,
                llm_model="qwen2.5:7b",
                gate_min_score=0.0,
                gate_min_coverage=0.0,
            ) as served,
            browsing() as browser,
        ):
            url = f"http://{served.address}/"
            address = await desktop(browser, url, upstream)
            dark: Any = {"color_scheme": "dark"}
            page = await open_page(browser, address, 1280, 800, **dark)
            await expect(page.locator(".actions")).to_be_visible()
            await shoot(page, "dark")
            phone: Any = {"is_mobile": True, "has_touch": True}
            page = await open_page(browser, address, 390, 844, **phone)
            await expect(page.locator(".actions")).to_be_visible()
            await shoot(page, "phone")


if __name__ == "__main__":
    anyio.run(main)
