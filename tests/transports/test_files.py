"""`/v1/files`: upload, list, read, delete, and everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI

from harness import Served, serving
from ragsocket.protocol.errors import EVENT_ERRORS
from upstream import Upstream
from words import WordEmbedding

NOTE = b"The lamp burns seal oil until midnight.\n"


async def post(served: Served, **form: Any) -> tuple[int, dict[str, Any]]:
    """Upload a form just as it is; returns the status and the error or the file."""
    async with served.http() as http:
        answer = await http.post("/v1/files", **form)
    body: dict[str, Any] = answer.json()
    return answer.status_code, body.get("error", body)


async def test_the_official_client_keeps_lists_reads_and_deletes_files(client: AsyncOpenAI) -> None:
    """What was uploaded comes back byte for byte, until it is deleted."""
    kept = await client.files.create(file=("keeper.md", NOTE), purpose="user_data")
    assert (kept.filename, kept.bytes, kept.purpose) == ("keeper.md", len(NOTE), "user_data")
    assert kept.id.startswith("file_")
    assert (await client.files.wait_for_processing(kept.id)).status == "processed"
    assert await client.files.retrieve(kept.id) == kept
    assert (await client.files.content(kept.id)).read() == NOTE
    assert (await client.files.list()).data[0] == kept
    assert (await client.files.list(purpose="user_data")).data == [kept]
    gone = await client.files.delete(kept.id)
    assert (gone.id, gone.deleted) == (kept.id, True)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as raised:
            await call(kept.id)
        assert raised.value.code == "file_not_found"


async def test_lists_come_in_pages_both_ways(client: AsyncOpenAI) -> None:
    """Every file once, newest first or oldest first, however small the pages are."""
    ids = []
    for number in range(5):
        text = f"Note number {number}.".encode()
        ids.append((await client.files.create(file=("n.txt", text), purpose="user_data")).id)
    for order in ("asc", "desc"):
        pages = client.files.list(purpose="user_data", limit=2, order=order)
        assert [file.id async for file in pages] == (ids if order == "asc" else ids[::-1])
    with pytest.raises(openai.BadRequestError) as raised:
        await client.files.list(after="file_of_nobody")
    assert raised.value.param == "after"


async def test_the_files_of_the_folder_are_listed_and_read_and_stay(
    upstream: Upstream, state: Path, documents: Path
) -> None:
    """They say that they are the folder's, and deleting one over HTTP is refused by name."""
    async with serving(state, upstream=upstream, data=documents) as served, served.http() as http:
        files = (await http.get("/v1/files", params={"order": "asc"})).json()["data"]
        assert [file["filename"] for file in files] == ["ferry.md", "harbour.txt"]
        assert all(file["ragsocket"]["in_folder"] for file in files)
        path = f"/v1/files/{files[0]['id']}"
        assert (await http.get(path)).json() == files[0]
        assert (await http.get(f"{path}/content")).content == (documents / "ferry.md").read_bytes()
        refused = await http.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "folder_read_only")
    assert (documents / "ferry.md").exists()


NAMES = {
    "../../etc/passwd": "passwd",
    "C:\\Users\\me\\plan.txt": "plan.txt",
    "a\x1b[31mb\u200b.txt": "a[31mb.txt",
    "Höhenweg – Übersicht.md": "Höhenweg – Übersicht.md",
    "\u202egnp.exe": "gnp.exe",
    "...": "file",
    "x" * 1000 + ".md": "x" * 252 + ".md",
}


async def test_hostile_names_become_plain_ones(client: AsyncOpenAI, served: Served) -> None:
    """No folders and no control characters; the bytes are kept by content, never by name."""
    for sent, kept in NAMES.items():
        file = await client.files.create(file=(sent, NOTE), purpose="assistants")
        assert file.filename == kept
        async with served.http() as http:
            answer = await http.get(f"/v1/files/{file.id}/content")
        assert answer.content == NOTE
    names = [path.name for path in served.settings.uploads_path.iterdir()]
    assert [len(name) for name in names] == [64 + len(".txt")]


async def test_content_is_a_download_and_never_a_page(client: AsyncOpenAI, served: Served) -> None:
    """An uploaded web page cannot run in the place of this server's own."""
    page = b"<!doctype html><script>alert(document.cookie)</script><p>Hello.</p>"
    file = await client.files.create(file=("page.html", page), purpose="assistants")
    async with served.http() as http:
        answer = await http.get(f"/v1/files/{file.id}/content")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''page.html"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_content_that_cannot_be_read_is_refused(client: AsyncOpenAI, served: Served) -> None:
    """Whatever its name says; and nothing of it stays."""
    for content in (
        b"",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 an old Office file",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"caf\xe9 in Latin-1",
        b"text and then \x00 nothing",
        "half a sign ☕".encode()[:-1],
        "in UTF-16".encode("utf-16-le"),
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.files.create(file=("letter.pdf", content), purpose="assistants")
        assert (raised.value.code, raised.value.param) == ("unsupported_file", "file")
    assert list(served.settings.uploads_path.iterdir()) == []


def form(*parts: bytes, content_type: str = "boundary=x") -> dict[str, Any]:
    """A form written by hand."""
    return {
        "content": b"--x\r\n" + b"\r\n--x\r\n".join(parts) + b"\r\n--x--\r\n",
        "headers": {"content-type": f"multipart/form-data; {content_type}"},
    }


PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nassistants'

BAD_FORMS: tuple[tuple[dict[str, Any], str, str | None, str], ...] = (
    ({"data": {"purpose": "assistants"}}, "invalid_event", None, "multipart/form-data"),
    ({"content": b"{}"}, "invalid_event", None, "multipart/form-data"),
    ({"files": {"purpose": (None, "assistants")}}, "invalid_event", "file", "missing"),
    ({"files": {"file": (None, "text")}}, "invalid_event", "file", "missing"),
    ({"files": {"file": ("a.txt", NOTE)}}, "invalid_event", "purpose", "user_data"),
    ({"files": {"file": ("a.txt", NOTE), "purpose": (None, "fine-tune")}},
     "invalid_event", "purpose", "assistants"),
    ({"files": {"file": ("a.txt", NOTE), "purpose": (None, "assistants"),
                "expires_after[seconds]": (None, "3600")}},
     "unsupported_parameter", "expires_after[seconds]", "not a field"),
    ({"files": [("file", ("a.txt", NOTE)), ("file", ("b.txt", NOTE))]},
     "invalid_event", None, "too many files"),
    (form(PURPOSE, content_type="charset=utf-8"), "invalid_event", None, "boundary"),
    (form(b"nonsense without a head"), "invalid_event", None, "multipart/form-data"),
    (form(b"Content-Disposition: form-data\r\n\r\nnameless"), "invalid_event", None, "name"),
    (form(PURPOSE, content_type="boundary=x; charset=idna"), "invalid_event", "file", "missing"),
    (form(b'Content-Disposition: form-data; name="a.b"\r\n\r\nx',
          content_type="boundary=x; charset=punycode"),
     "invalid_event", None, "garbled"),
    (form(PURPOSE, content_type="boundary=x; charset=hex"), "invalid_event", "file", "missing"),
    (form(PURPOSE, content_type="boundary=x; charset=utf-16"), "invalid_event", "file", "missing"),
)  # fmt: skip


async def test_a_bad_form_is_refused_in_words(served: Served) -> None:
    """The error names what is wrong, and the server goes on."""
    for sent, code, param, says in BAD_FORMS:
        status, error = await post(served, **sent)
        assert (status, error["code"], error["param"]) == (400, code, param), sent
        assert says in error["message"]
        assert code in EVENT_ERRORS


async def test_too_large_is_said_while_the_client_still_sends(
    upstream: Upstream, state: Path
) -> None:
    """A file over the limit, and a body far over it, get the answer and no broken connection."""
    async with serving(state, upstream=upstream, max_upload_bytes=1000) as served:
        for size in (1001, 5_000_000):
            files = {"file": ("a.txt", b"a" * size), "purpose": (None, "assistants")}
            status, error = await post(served, files=files)
            assert (status, error["code"]) == (413, "body_too_large")
            assert "1000 bytes" in error["message"]
        files = {"file": ("a.txt", b"a" * 1000), "purpose": (None, "assistants")}
        assert (await post(served, files=files))[0] == 200


async def test_the_same_bytes_are_kept_once_and_counted_twice(
    upstream: Upstream, state: Path
) -> None:
    """A quota counts what an owner uploaded; the disk holds each content once, while needed."""
    async with serving(state, upstream=upstream, max_uploads_bytes=25) as served:
        form = {"file": ("a.txt", b"ten bytes."), "purpose": (None, "assistants")}
        ids = [(await post(served, files=form))[1]["id"] for _ in range(2)]
        status, error = await post(served, files=form)
        assert (status, error["code"], error["param"]) == (403, "quota_exceeded", "file")
        kept = served.settings.uploads_path
        async with served.http() as http:
            for left, id in ((1, ids[0]), (0, ids[1])):
                assert (await http.delete(f"/v1/files/{id}")).status_code == 200
                assert len(list(kept.iterdir())) == left
        assert (await post(served, files=form))[0] == 200


async def test_many_uploads_at_once_lose_nothing(served: Served) -> None:
    """Each gets its own file, also where the bytes are the same."""
    answers: list[httpx.Response] = []
    async with served.http() as http, anyio.create_task_group() as tasks:

        async def upload(number: int) -> None:
            form = {"file": (f"{number}.txt", b"text %d" % (number % 3))}
            data = {"purpose": "assistants"}
            answers.append(await http.post("/v1/files", files=form, data=data))

        for number in range(12):
            tasks.start_soon(upload, number)
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 12
    async with served.http() as http:
        listed = (await http.get("/v1/files")).json()["data"]
    assert ids <= {file["id"] for file in listed}
    assert len(list(served.settings.uploads_path.iterdir())) == 3


async def test_uploads_outlive_a_restart(
    served: Served, upstream: Upstream, client: AsyncOpenAI
) -> None:
    """Files stay; what a killed server left behind of an unfinished upload goes."""
    file = await client.files.create(file=("keeper.md", NOTE), purpose="assistants")
    served.server.should_exit = True
    await served.stopped.wait()
    (served.settings.uploads_path / "0123456789abcdef.tmp").write_bytes(b"half")
    async with (
        serving(served.settings.state_dir, upstream=upstream, embed_model=WordEmbedding()) as again,
        again.http() as http,
    ):
        assert (await http.get(f"/v1/files/{file.id}/content")).content == NOTE
        assert len(list(again.settings.uploads_path.iterdir())) == 1
