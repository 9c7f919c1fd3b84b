"""Hostile texts through the whole page: as answer, document, file name, question and title."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from playwright.async_api import expect

from browser import browsing, visit
from harness import index, serving
from upstream import Script, Upstream

HOSTILE: list[str] = json.loads((Path(__file__).parent / "hostile.json").read_text())
CANARY = "globalThis.canaries = 0; globalThis.canary = () => { canaries += 1; };"
TEXTS_OF_ONE = 24
ANSWER_WITHIN_MS = 30_000

# Shows the card of each chip of the last answer; how many different ones there were.
CARDS = """() => {
  const [turn] = [...document.querySelectorAll(".turn")].slice(-1);
  const shown = new Set();
  for (const chip of turn.querySelectorAll(".cite")) {
    chip.focus();
    shown.add(document.querySelector("#card:popover-open").textContent);
  }
  return shown.size;
}"""

S = TypeVar("S", bound=Sequence[str])


def parts(whole: S, length: int) -> list[S]:
    """Cut a text or a list into parts."""
    return [whole[at : at + length] for at in range(0, len(whole), length)]  # type: ignore[misc]


def file_names() -> Iterator[str]:
    """Every hostile text that a file can be named."""
    for text in HOSTILE:
        if "\0" not in text and 0 < len(name := text.replace("/", "\u2215").encode()) < 200:
            try:
                yield name.decode() + ".md"
            except UnicodeEncodeError:
                continue


async def test_the_whole_page_does_nothing_that_a_text_says(tmp_path: Path) -> None:
    """Nothing runs, nothing is asked of elsewhere, no rule is touched, and the page still works.

    Sources, cards, the document and its list, the question and the title of the conversation show
    hostile texts, and so does the answer while it is written.
    """
    folder = tmp_path / "documents"
    folder.mkdir()
    groups = parts(HOSTILE, TEXTS_OF_ONE)
    names = file_names()
    for group in groups:
        texts = [f"The ferry.\n\n{text}" for text in group]
        (folder / next(names)).write_text("\n\n".join(texts), errors="replace")
    for name in names:
        (folder / name).write_text("# Huts\n\nThe hut is open.\n")
    index(folder, tmp_path / "state")
    async with (
        Upstream() as upstream,
        serving(tmp_path / "state", upstream=upstream, similarity_top_k=50) as served,
        browsing() as browser,
    ):
        watched = await visit(browser, served)
        page = watched.page
        await page.evaluate(f"() => {{ {CANARY} }}")
        question = page.get_by_role("textbox", name="Question")
        again = page.get_by_role("button", name="Answer again")
        for number, group in enumerate(groups):
            answer = "Ferry. " + "".join(f"[{n}]" for n in range(1, 51)) + "\n\n"
            answer += "\n\n".join(group)
            upstream.queue(Script(tokens=parts(answer, 5)))
            await question.fill(f"{group[0]} ferry"[:2000])
            await page.keyboard.press("Enter")
            await expect(again).to_have_count(number + 1, timeout=ANSWER_WITHIN_MS)
            await page.keyboard.press("Shift+Tab")
            assert await page.evaluate(CARDS) > 5
            await page.keyboard.press("Enter")
            await expect(page.locator("#panel")).to_be_visible()
            await page.keyboard.press("Escape")
        await page.locator("#about").click()
        await expect(page.locator(".documents li").nth(50)).to_be_attached()
        assert await page.evaluate("canaries") == 0
        await watched.did_nothing_wrong()
        await page.reload()
        await expect(again).to_have_count(len(groups), timeout=ANSWER_WITHIN_MS)
        await expect(page.locator("#conversations")).to_contain_text("<script>")
        await watched.did_nothing_wrong()
