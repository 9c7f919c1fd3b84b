"""What people do on the page, in Chromium, over the real server and the scripted model."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from browser import Watched, visit
from harness import Served, serving, until
from upstream import Script, Upstream, words
from web.asking import FERRY, TOLD, WHOLE, answered, ask, gated, questions


async def saved(page: Page, button: Locator) -> str:
    """Press a button, and return the text of the file that it saves."""
    async with page.expect_download() as download:
        await button.click()
    return await anyio.Path(await (await download.value).path()).read_text()


async def test_ask_and_ask_on(page: Page, upstream: Upstream) -> None:
    """Sources come before the text, the text as it is written, and a follow-up knows of it."""
    request = await gated(upstream, page)
    prose = page.locator(".prose")
    await expect(page.locator(".source").first).to_contain_text("ferry.md")
    await expect(prose).to_have_text("")
    request.release(2)
    await expect(prose).to_have_text("It leaves at 7:40")
    request.release(len(TOLD))
    await answered(page)
    await expect(prose).to_have_text(WHOLE)
    await expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    await ask(page, "And the bicycles on it?")
    await answered(page, 2)
    assert FERRY in questions(upstream.requests[1])[0]
    await expect(page).to_have_title(f"{FERRY} – ragsocket")


@pytest.mark.parametrize("how", ["button", "key"])
async def test_stop(page: Page, served: Served, upstream: Upstream, how: str) -> None:
    """The model is left at once, and what was seen is what is kept."""
    request = await gated(upstream, page)
    request.release(2)
    await expect(page.locator(".prose")).to_have_text("It leaves at 7:40")
    if how == "button":
        await page.get_by_role("button", name="Stop").click()
    else:
        await page.keyboard.press("Escape")
    assert (await request.closed()).written == 2
    await expect(page.get_by_text("Stopped.", exact=True).last).to_be_visible()
    await expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    conversation = page.url.partition("#")[2]
    async with served.http() as http:
        items = (await http.get(f"/v1/conversations/{conversation}/items")).json()["data"]
    assert items[0]["content"][0]["text"] == "It leaves at 7:40 "


async def test_a_citation_shows_its_passage(page: Page, upstream: Upstream) -> None:
    """By pointer and by keyboard, with file, place and score; the document opens there."""
    upstream.queue(Script(tokens=TOLD))
    await ask(page)
    await answered(page)
    chip = page.get_by_role("button", name="Source 1: ferry.md").first
    card = page.locator("#card")
    await chip.hover()
    await expect(card).to_be_visible()
    for part in ("ferry.md", "lines 1–3", "score", "A bicycle travels for 3 crowns"):
        await expect(card).to_contain_text(part)
    await page.keyboard.press("Escape")
    await expect(card).to_be_hidden()
    await page.locator(".source").last.focus()
    await page.keyboard.press("Tab")
    await expect(chip).to_be_focused()
    await expect(card).to_be_visible()
    await page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="ferry.md")
    await expect(panel.locator("mark")).to_contain_text("Dogs travel free of charge.")
    await expect(panel.locator("mark")).to_be_in_viewport()
    original = await saved(page, panel.get_by_role("button", name="Original"))
    assert original.startswith("# Ferry")
    await page.keyboard.press("Escape")
    await expect(panel).to_be_hidden()
    await expect(chip).to_be_focused()


async def test_edit_and_regenerate(page: Page, upstream: Upstream) -> None:
    """In place and in one conversation, also the first question; what came after is left behind."""
    await ask(page)
    await answered(page)
    address = page.url
    await ask(page, "And dogs on the ferry?")
    await answered(page, 2)
    await page.get_by_role("button", name="Answer again").last.click()
    await upstream.request(2)
    await answered(page, 2)
    assert len(questions(upstream.requests[2])) == 2
    await page.get_by_role("heading", name=FERRY, level=2).hover()
    await page.get_by_role("button", name="Edit the question").first.click()
    await page.get_by_role("textbox", name="Your question").fill("Does the ferry take bicycles?")
    await page.keyboard.press("Enter")
    request = await upstream.request(3)
    await answered(page, 1)
    await expect(page.get_by_role("textbox", name="Question")).to_be_focused()
    (only,) = questions(request)
    assert "bicycles" in only
    assert page.url == address
    await page.reload()
    await answered(page, 1)
    await expect(page.locator("h2[dir]")).to_have_text(["Does the ferry take bicycles?"])
    await expect(page.locator("#conversations a")).to_have_text(["Does the ferry take bicycles?"])


async def test_a_conversation_that_is_not_there(watched: Watched, served: Served) -> None:
    """Says so, and what is asked there is asked in a new one."""
    page = watched.page
    await page.goto(f"http://{served.address}/#conv_gone")
    await expect(page.get_by_text("not there any more")).to_be_visible()
    assert "404" in watched.told.pop()
    await ask(page)
    await answered(page)
    await expect(page.get_by_text("not there any more")).to_have_count(0)
    assert "conv_gone" not in page.url


async def test_steer(page: Page, upstream: Upstream) -> None:
    """What is written while it answers stops the answer, and is answered in its place."""
    request = await gated(upstream, page)
    request.release(2)
    await expect(page.locator(".prose")).to_have_text("It leaves at 7:40")
    upstream.queue(Script(tokens=("In miles, then.",)))
    await ask(page, "In miles, please.")
    await request.closed()
    await answered(page, 2)
    await expect(page.locator(".prose")).to_have_text(["It leaves at 7:40", "In miles, then."])
    await expect(page.locator(".notice").first).to_have_text("Stopped for what you wrote next.")


async def test_reload_in_mid_answer(page: Page, upstream: Upstream) -> None:
    """The answer goes on where it was, with its question and sources."""
    request = await gated(upstream, page)
    request.release(2)
    await expect(page.locator(".prose")).to_have_text("It leaves at 7:40")
    await page.reload()
    await expect(page.locator(".prose")).to_have_text("It leaves at 7:40")
    await expect(page.get_by_role("heading", name=FERRY, level=2)).to_be_visible()
    await expect(page.locator(".source").first).to_contain_text("ferry.md")
    await expect(page.get_by_role("button", name="Stop")).to_be_visible()
    request.release(len(TOLD))
    await answered(page)
    await expect(page.locator(".prose")).to_have_text(WHOLE)


async def test_two_tabs_on_one_answer(page: Page, upstream: Upstream) -> None:
    """Both stream it, whichever came first; what is asked in one is shown in the other."""
    request = await gated(upstream, page)
    request.release(2)
    await expect(page.locator(".prose")).to_have_text("It leaves at 7:40")
    other = await page.context.new_page()
    await other.goto(page.url)
    await expect(other.locator(".prose")).to_have_text("It leaves at 7:40")
    request.release(len(TOLD))
    for tab in (page, other):
        await expect(tab.locator(".prose")).to_have_text(WHOLE)
        await answered(tab)
    upstream.queue(Script(tokens=("Free.",), gated=True))
    await ask(other, "And dogs on the ferry?")
    request = await upstream.request(1)
    await expect(page.get_by_role("heading", name="And dogs", level=2)).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await request.closed()
    for tab in (page, other):
        await answered(tab, 2)


async def test_the_list(page: Page, upstream: Upstream) -> None:
    """Conversations are found by what was said, renamed, opened by their address, deleted."""
    upstream.default = Script(tokens=("Fine.",))
    await ask(page)
    await answered(page)
    first = page.url
    await page.get_by_role("link", name="New conversation").click()
    await ask(page, "Where is the harbour office?")
    await answered(page)
    rows = page.locator("#conversations a")
    await expect(rows).to_have_text(["Where is the harbour office?", FERRY])

    await page.get_by_role("searchbox").fill("ferry")
    await expect(rows).to_have_text([FERRY])
    await rows.hover()
    await page.get_by_role("button", name="Rename").click()
    await page.get_by_role("textbox", name="Title").fill("Crossing")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_text(["Crossing"])
    await rows.click()
    await expect(page).to_have_url(first)
    await expect(page.locator("#title")).to_have_text("Crossing")
    await expect(page.locator(".prose")).to_have_text("Fine.")

    await rows.hover()
    await page.get_by_role("button", name="Delete “Crossing”").click()
    await page.get_by_role("button", name="Keep").click()
    await expect(rows).to_have_count(1)
    await rows.hover()
    await page.get_by_role("button", name="Delete “Crossing”").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_text("Nothing was found.")).to_be_visible()
    await expect(page.get_by_text("What would you like to know?")).to_be_visible()


async def test_export(page: Page, upstream: Upstream) -> None:
    """As Markdown for people, and as JSON with everything for programs."""
    upstream.queue(Script(tokens=TOLD))
    await ask(page)
    await answered(page)
    files = {}
    for name in ("Markdown", "JSON"):
        await page.get_by_role("button", name="Export").click()
        files[name] = await saved(page, page.get_by_role("button", name=f"Save as {name}"))
    assert files["Markdown"].startswith(f"# {FERRY}\n\n> {FERRY}\n\nIt leaves at 7:40")
    assert "1. ferry.md, lines 1-3" in files["Markdown"]
    items = json.loads(files["JSON"])["items"]
    assert [item["type"] for item in items] == ["message", "file_search_call", "message"]
    assert items[1]["results"][0]["filename"] == "ferry.md"


async def test_keys_in_the_question(page: Page, upstream: Upstream) -> None:
    """Shift+Enter breaks the line, an input method's Enter takes a word, Enter sends."""
    field = page.get_by_role("textbox", name="Question")
    await field.fill("When does")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("the ferry leave?")
    await field.evaluate(
        """(field) => field.dispatchEvent(new KeyboardEvent("keydown",
          { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    await expect(field).to_have_value("When does\nthe ferry leave?")
    assert not upstream.requests
    await page.reload()
    await expect(field).to_have_value("When does\nthe ferry leave?")
    await field.press("Enter")
    await answered(page)
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_role("textbox", name="Your question")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("heading", name="When does", level=2)).to_be_visible()


async def test_thumbs_timings_and_copies(page: Page, upstream: Upstream) -> None:
    """What was thought of an answer is kept; times and tokens are told to those who ask."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "Run:\n\n```sh\nmake run\n```\n"
    upstream.queue(Script(tokens=(text,)))
    await ask(page)
    await answered(page)
    await page.get_by_role("button", name="Copy the code").click()
    assert await page.evaluate("navigator.clipboard.readText()") == "make run"
    await page.get_by_role("button", name="Copy the answer").click()
    assert await page.evaluate("navigator.clipboard.readText()") == text
    await page.evaluate("""() => {
      Object.defineProperty(navigator, "clipboard", { value: undefined });
      addEventListener("copy", () => (globalThis.copied = true), { once: true });
    }""")
    await page.get_by_role("button", name="Copy the code").click()
    await expect(page.locator(".code [data-said=Copied]")).to_be_visible()
    assert await page.evaluate("globalThis.copied")
    thumb = page.get_by_role("button", name="Good answer")
    await thumb.click()
    await expect(thumb).to_have_attribute("aria-pressed", "true")
    await page.reload()
    await expect(thumb).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="Timings and tokens").click()
    facts = page.locator(".facts")
    for part in ("scripted", "First word", "Tokens written", "resp_"):
        await expect(facts).to_contain_text(part)


async def test_a_failure_can_be_tried_again(page: Page, upstream: Upstream) -> None:
    """What the model's server did not do is said in a sentence, with a button."""
    upstream.queue(Script(cut=2, tokens=words(4)), Script(tokens=("Better.",)))
    await ask(page)
    await expect(page.locator(".notice")).to_contain_text("broke off")
    await expect(page.locator(".prose")).to_have_text("w0 w1")
    await page.get_by_role("button", name="Try again").click()
    await answered(page)
    await expect(page.locator(".prose")).to_have_text("Better.")
    assert len(questions(upstream.requests[1])) == 1


async def test_too_often(page: Page, upstream: Upstream) -> None:
    """What the model's server says about waiting is shown, and the button waits as long."""
    upstream.queue(Script(status=429, retry_after=3), Script(tokens=("Better.",)))
    await ask(page)
    notice = page.locator(".notice")
    await expect(notice).to_contain_text("asked too often")
    await expect(notice).to_contain_text("You can ask again at")
    await expect(notice.get_by_role("button", name="Try again in")).to_be_disabled()
    await notice.get_by_role("button", name="Try again", exact=True).click()
    await expect(page.locator(".prose")).to_have_text("Better.")


async def test_it_is_read_out_in_sentences(page: Page, upstream: Upstream) -> None:
    """The live region never holds half a sentence, nor marks."""
    said: list[str] = []
    await page.expose_function("heard", lambda text: said.append(text))
    await page.evaluate(
        """() => new MutationObserver(() => heard(document.getElementById("announcer").textContent))
          .observe(document.getElementById("announcer"), { childList: true })"""
    )
    request = await gated(upstream, page)
    for count in range(1, 6):
        request.release(1)
        await request.wrote(count)
    await until(lambda: "It leaves at 7:40 every morning ." in " ".join(said))
    request.release(len(TOLD))
    await until(lambda: "Dogs travel free ." in " ".join(said))
    assert all(text.endswith(".") or not text for text in said)


async def test_other_directions_paper_and_small_screens(
    browser: Browser, state: Path, upstream: Upstream
) -> None:
    """Right-to-left text stands at the right, paper has the text alone, nothing is cut off."""
    upstream.default = Script(tokens=("سفينة holm تغادر في 7:40 [1].\n\nIn English again.",))
    async with serving(
        state, upstream=upstream, gate_min_score=0.0, gate_min_coverage=0.0
    ) as served:
        size = {"width": 390, "height": 844}
        watched = await visit(browser, served, viewport=size)
        page = watched.page
        await ask(page, "متى تغادر السفينة ferry إلى Holm؟")
        await answered(page)
        directions = {"h2[dir]": "rtl", ".prose p >> nth=0": "rtl", ".prose p >> nth=1": "ltr"}
        for selector, direction in directions.items():
            found = await page.locator(selector).evaluate("e => getComputedStyle(e).direction")
            assert found == direction, selector
        wide = "document.documentElement.scrollWidth > innerWidth"
        assert not await page.evaluate(wide)
        await page.get_by_role("button", name="Conversations").click()
        await expect(page.get_by_role("link", name="New conversation")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("link", name="New conversation")).to_be_hidden()
        await page.emulate_media(media="print")
        await expect(page.locator(".prose")).to_be_visible()
        for gone in ("#composer", "#side", ".actions", "header"):
            await expect(page.locator(gone)).to_be_hidden()
        await watched.did_nothing_wrong()
