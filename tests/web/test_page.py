"""The page and its files as HTTP serves them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Served
from ragsocket.transports.page import assets

ROOT = Path(__file__).parents[2]
MOST_BYTES = 60_000


def test_it_is_small() -> None:
    """All that a browser loads for the page has at most 60 kB on the way."""
    loaded, found = {"index.html"}, {"index.html"}
    while found:
        text = assets()[found.pop()].body.decode()
        named = re.findall(r'(?:"assets/|\bimport ?"\./|\bfrom ?"\./)([\w./-]+)"', text)
        found |= set(named) - loaded
        loaded |= set(named)
    assert loaded == {"index.html", "markdown.css", "style.css", "icon.svg", "page.min.js"}
    assert sum(len(assets()[name].compressed) for name in loaded) <= MOST_BYTES


def test_what_is_loaded_is_what_is_written() -> None:
    """`page.min.js` follows from the modules as they are now; `make page` makes it."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "page.py", "--check"], check=False)
    assert done.returncode == 0, "run `make page`"


async def test_a_browser_may_do_nothing_else_with_it(served: Served) -> None:
    """No other origin, no inline script or style, no frame, and no text as HTML."""
    async with served.http() as http:
        answer = await http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert rules.pop("trusted-types") == "dompurify"
    assert set(rules.values()) <= {"'self'", "'none'"}
    assert {"base-uri", "form-action", "frame-ancestors"} <= rules.keys()
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", answer.text)


@pytest.mark.parametrize("name", sorted(assets().keys() - {"index.html"}))
async def test_every_file_is_served(served: Served, name: str) -> None:
    """With its type, the same rules as the page, and small if the browser likes."""
    async with served.http() as http:
        plain = await http.get(f"/assets/{name}", headers={"Accept-Encoding": "identity"})
        small = await http.get(f"/assets/{name}", headers={"Accept-Encoding": "br, gzip;q=0.5"})
        head = await http.head(f"/assets/{name}")
    assert plain.content == small.content == assets()[name].body
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert (head.status_code, head.content) == (200, b"")
    for answer in (plain, small, head):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "content-security-policy" in answer.headers
        assert "Accept-Encoding" in answer.headers["vary"]


async def test_a_browser_asks_each_time_whether_a_file_changed(served: Served) -> None:
    """After an upgrade nothing old stands beside the new; else nothing is sent twice."""
    async with served.http() as http:
        first = await http.get("/assets/markdown.js")
        tag = first.headers["etag"]
        again = await http.get("/assets/markdown.js", headers={"If-None-Match": f'"other", {tag}'})
        changed = await http.get("/assets/markdown.js", headers={"If-None-Match": '"other"'})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert changed.content == first.content


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "index.html", "vendor/marked.LICENSE", "../transports/page.py", "%2e%2e/app.py"],
)
async def test_other_files_are_not_there(served: Served, path: str) -> None:
    """What no browser needs is not served, wherever it lies; the error has the one shape."""
    async with served.http() as http:
        answer = await http.get(f"/assets/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_it_is_for_the_server_s_own_names(served: Served) -> None:
    """The same hosts and origins as at every other door."""
    async with served.http() as http:
        for path in ("/", "/assets/markdown.js"):
            host = await http.get(path, headers={"Host": "evil.example"})
            origin = await http.get(path, headers={"Origin": "https://evil.example"})
            assert (host.status_code, origin.status_code) == (403, 403)


async def test_the_documentation_is_still_there(served: Served) -> None:
    """`/docs` has rules of its own, since its viewer comes from elsewhere."""
    async with served.http() as http:
        answer = await http.get("/docs")
    assert answer.status_code == 200
    assert "content-security-policy" not in answer.headers
