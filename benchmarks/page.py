"""`make bench-page`: a long answer in the page, in Chromium, as fast as models write.

Asks the whole server for answers of one kind each, 20,000 tokens at 200 a second, and prints the
frames of the browser while they are written. Whether a list, a block of code, a paragraph or a
table never ends makes no difference to a reader, so each is an answer of its own. The figures of
the last run stand in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import anyio
from playwright.async_api import Browser

from browser import browsing, visit
from harness import index, serving
from upstream import Script, Upstream

ROOT = Path(__file__).parent.parent
WORDS = (
    "the ferry leaves every morning when wind is above nine and the harbour office opens luggage "
    "kept shed snow path hut dogs travel free bicycle crowns ticket **boarding** `gate` [1] [2]"
).split()
LONGEST_FRAME_MS = 50
AT_REST_MS = 20_000

WATCH = """() => {
  const frames = [], tasks = [];
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) tasks.push(duration);
  }).observe({ type: "longtask" });
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  globalThis.watched = { frames, tasks };
}"""


def tokens(kind: str) -> Iterator[str]:
    """Write an answer of one kind, which never ends, a token at a time."""
    random_ = random.Random(7)

    def words(count: int) -> Iterator[str]:
        for _ in range(count):
            yield random_.choice(WORDS) + " "

    def sentence() -> Iterator[str]:
        yield from words(random_.randint(6, 18))
        yield ". "

    def item() -> Iterator[str]:
        yield "- "
        yield from words(12)
        yield "\n"

    def row() -> Iterator[str]:
        for _ in range(3):
            yield "| "
            yield from words(4)
        yield "|\n"

    def line() -> Iterator[str]:
        yield from ("    ", "value", " = ", "call", f"({random_.randint(0, 999)}", ", ", "'text'")
        yield ")\n"

    def blocks() -> Iterator[str]:
        yield "\n\n## "
        yield from words(4)
        for begin, part, count, end in (
            ("\n\n", sentence, 5, "\n\n"),
            ("", item, 6, "\n"),
            ("```python\n", line, 12, "```\n\n"),
            ("| a | b | c |\n|---|---|---|\n", row, 6, "\n"),
        ):
            yield begin
            for _ in range(count):
                yield from part()
            yield end

    begin, part = KINDS[kind]
    yield begin
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "blocks": blocks, "item": item, "line": line, "sentence": sentence, "row": row,
    }  # fmt: skip
    while True:
        yield from makers[part]()


# How each kind begins, and what it is made of.
KINDS = {
    "blocks of every kind": ("", "blocks"),
    "one list": ("", "item"),
    "one block of code": ("```python\n", "line"),
    "one paragraph": ("", "sentence"),
    "one table": ("| a | b | c |\n|---|---|---|\n", "row"),
}


async def measure(browser: Browser, state: Path, kind: str, count: int, rate: float) -> None:
    """Ask for one answer, and print what became of the frames."""
    async with (
        Upstream() as upstream,
        serving(state, upstream=upstream, max_output_tokens=2 * count) as served,
    ):
        upstream.default = Script(tokens=tuple(islice(tokens(kind), count)), rate=rate)
        watched = await visit(browser, served, viewport={"width": 1280, "height": 800})
        page = watched.page
        await page.get_by_role("textbox", name="Question").fill("When does the ferry leave?")
        await page.evaluate(WATCH)
        await page.keyboard.press("Enter")
        done = page.get_by_role("button", name="Answer again")
        await done.wait_for(timeout=(60 + count / rate) * 1000)
        seen: dict[str, list[float]] = await page.evaluate("watched")
        length: Any = await page.evaluate("document.querySelector('.rendered').textContent.length")
        assert length > count, "the answer is not there"
        await watched.did_nothing_wrong()
        await page.context.close()
    show(kind, seen)


async def at_rest(browser: Browser, state: Path) -> None:
    """Print what becomes of the frames while nothing is asked: what the machine itself takes."""
    async with Upstream() as upstream, serving(state, upstream=upstream) as served:
        page = (await visit(browser, served)).page
        await page.evaluate(WATCH)
        await page.wait_for_timeout(AT_REST_MS)
        show("nothing", await page.evaluate("watched"))
        await page.context.close()


def show(name: str, seen: dict[str, list[float]]) -> None:
    """Print one row."""
    frames = sorted(seen["frames"])
    late = sum(frame > LONGEST_FRAME_MS for frame in frames)
    print(
        f"| {name} | {len(frames)} | {frames[len(frames) // 2]:.0f} "
        f"| {frames[int(len(frames) * 0.99)]:.0f} | {frames[-1]:.0f} | {late} "
        f"| {max(seen['tasks'], default=0):.0f} |",
        flush=True,
    )


async def main() -> None:
    """Measure every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=200.0, help="tokens per second")
    parser.add_argument("--kind", action="append", choices=KINDS, help="all of them by default")
    chosen = parser.parse_args()
    print(f"{chosen.tokens} tokens at {chosen.rate:g} a second; times in ms\n")
    print("| answer | frames | median | 99 % | longest | over 50 | longest task |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        await anyio.to_thread.run_sync(index, ROOT / "data", state)
        async with browsing() as browser:
            await at_rest(browser, state)
            for kind in chosen.kind or KINDS:
                await measure(browser, state, kind, chosen.tokens, chosen.rate)


if __name__ == "__main__":
    anyio.run(main)
