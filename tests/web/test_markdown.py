"""The page's markdown in Chromium: safe at every step, and the same whatever the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.async_api import Page, expect

from browser import Watched
from upstream import Script, Upstream

HERE = Path(__file__).parent
HOSTILE: list[str] = json.loads((HERE / "hostile.json").read_text())
CHECKS = (HERE / "markdown.checks.js").read_text()
CANARY = "() => { globalThis.canaries = 0; globalThis.canary = () => { canaries += 1; }; }"

# What decides where a block or a span begins and ends, and a little of what stands in them.
FRAGMENTS = (
    "\n", "\n\n", "\n\n\n", "\r\n", "\r", " ", "  ", "    ", "\t", "  \n", "\\\n", "\u2028", "\xa0",
    "- ", "* ", "+ ", "1. ", "2) ", "10. ", "[ ] ", "[x] ", "> ", ">", "# ", "## ", "###", "---",
    "===", "***", "--", "=", "```", "````", "~~~", "```py\n", "| a | b |\n", "|---|---|\n", "a | b",
    "| x |", "|", ":--", "|:-:|", "a", "word", "b c", "*", "**", "_", "__", "~~", "`", "``", "[1]",
    "[1, 2]", "【1】", "[", "]", "](", "(http://x.example)", "![i](http://x.example/z)",
    "[t](https://a.example)", "[r]: http://q.example\n", "[r]", "<b>", "</b>", "<div>", "<!-- ",
    "-->", "<script>", "<br>", "\\", "\\[", "&amp;", "&#60;", "&", "www.x.example ",
    "https://x.example/a_b ", "a@b.example ", "ש", "ا", "😀", "0",
)  # fmt: skip


@pytest.fixture
async def tab(watched: Watched) -> Watched:
    """The page, which may be used to run checks in."""
    await watched.page.evaluate(CANARY)
    await watched.page.evaluate(CHECKS)
    return watched


async def check(tab: Watched, name: str, about: Any) -> Any:
    """Return what a check of `markdown.checks.js` finds."""
    return await tab.page.evaluate("([name, about]) => checks[name](about)", [name, about])


async def test_hostile_texts_do_nothing_at_any_step(tab: Watched) -> None:
    """Cut after any character, none becomes more than plain markup; nothing runs or loads."""
    assert len(HOSTILE) >= 200
    for text in HOSTILE:
        assert await check(tab, "grown", text) == [], text
    assert await tab.page.evaluate("canaries") == 0


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=30))
async def test_what_is_shown_does_not_depend_on_the_steps(
    tab: Watched, fragments: list[str]
) -> None:
    """After every character the growing text has the elements of the same text shown at once."""
    text = "".join(fragments)
    steps = [text[:end] for end in range(1, len(text) + 1)]
    assert await check(tab, "differs", steps) is None


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join), max_size=5))
async def test_any_text_may_follow_any_other(tab: Watched, texts: list[str]) -> None:
    """A text that does not go on from the one before is shown as if it were the first."""
    assert await check(tab, "differs", texts) is None


LINK = '<a href="https://x.example/'
A = 'rel="noopener noreferrer" target="_blank"'


# Markdown, and its HTML without directions; chips are written as `<1>`.
BECOMES = (
    ("It [1] and [2, 3].", "<p>It <1> and <2><3>.</p>"),
    ("snow[1][2]\u3010 3\u3011", "<p>snow<1><2><3></p>"),
    ("\u30103\u3011 [4] [1, 4]", "<p><3> [4] <1></p>"),
    (r"\[1] `a[1]`", "<p>[1] <code>a[1]</code></p>"),
    ("[1](https://x.example) [[1]](https://x.example)", "<p><1> <1></p>"),
    ("[a [1]](https://x.example)", f'<p><a href="https://x.example/" {A}>a [1]</a></p>'),
    ("[4](https://x.example)", f'<p><a href="https://x.example/" {A}>4</a></p>'),
    ("[1]: https://x.example", f'<p><1>: <a href="https://x.example/" {A}>https://x.example</a></p>'),
    ("[a](/b) [c](javascript:d)", "<p>a c</p>"),
    ("[a](mailto:b@x.example)", f'<p><a href="mailto:b@x.example" {A}>a</a></p>'),
    ("[a](https://x.example?b=1&amp;c=2)", f'<p>{LINK}?b=1&amp;c=2" {A}>a</a></p>'),
    ("![a](https://x.example/b.png)", f'<p><a href="https://x.example/b.png" {A}>a</a></p>'),
    ("[![a](https://x.example/b)](https://x.example)", f'<p>{LINK}" {A}>a</a></p>'),
    ("<b>a</b> &copy; &lt;", "<p>&lt;b&gt;a&lt;/b&gt; \u00a9 &lt;</p>"),
    ("a  \nb", "<p>a<br>b</p>"),
    ("- a\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
    ("- a\n\n- b", '<ul class="loose"><li><p>a</p></li><li><p>b</p></li></ul>'),
    ("3. a\n   > b", '<ol start="3"><li><p>a</p><blockquote><p>b</p></blockquote></li></ol>'),
    ("### a\n# b\n### c", "<h3>a</h3><h3>b</h3><h4>c</h4>"),
    ("***", "<hr>"),
)  # fmt: skip


async def test_what_markdown_becomes(tab: Watched) -> None:
    """Marks of sources are chips, HTML is text, images are links, and links lead to the web."""
    for text, html in BECOMES:
        shown: str = await check(tab, "html", text)
        shown = shown.replace(' dir="auto"', "").replace("<button>", "<").replace("</button>", ">")
        assert shown == html, text


async def test_code_is_whole(tab: Watched) -> None:
    """Pieces or not, the text of a block of code is what was written, and its language is told."""
    code = "\n".join(f"{'x' * (9000 if n == 70 else n)} <b>" for n in range(150))
    found = await check(tab, "code", f"```c++ title\n{code}\n```\n\n    a\n    b")
    assert found == [["c++", code], ["", "a\nb"]]


async def test_what_is_finished_is_left_alone(tab: Watched) -> None:
    """What does not grow, even in the last list, can be selected and keeps the focus."""
    begun = "# a\n\np [1]\n\n| a |\n|---|\n| b |\n\n```\n" + "x\n" * 64 + "```\n\n- one\n- two\n- t"
    grown = begun + "hree\n\n- four\n\npart"
    assert await check(tab, "kept", [begun, grown]) == []


async def test_a_growing_answer_does_not_have_the_page_styled_anew(
    page: Page, upstream: Upstream
) -> None:
    """While text comes no attribute is set on what holds it: that would cost all it holds."""
    begun = tuple(f"- item {n}\n" for n in range(100))
    upstream.queue(Script(tokens=(*begun, "- last ", *("word ",) * 20, "end"), gated=True))
    await page.get_by_role("textbox", name="Question").fill("When does the ferry leave?")
    await page.keyboard.press("Enter")
    request = await upstream.request(0)
    request.release(101)
    await expect(page.locator(".prose")).to_contain_text("last")
    await page.evaluate(
        """() => {
          globalThis.costly = [];
          new MutationObserver((records) => {
            for (const { target, attributeName } of records) {
              if (target.querySelectorAll("li").length > 50) costly.push(attributeName);
            }
          }).observe(document.body, { subtree: true, attributes: true });
        }"""
    )
    for _ in range(20):
        request.release(1)
        await page.evaluate("() => new Promise(requestAnimationFrame)")
    await expect(page.locator(".prose")).to_contain_text("word " * 19)
    costly = await page.evaluate("costly")
    request.release(2)
    assert costly == []
