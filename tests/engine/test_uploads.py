"""Uploads in the engine: owners, the queue, and what happens when an ingestion is killed."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import psutil
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from harness import PATIENCE_S
from ragsocket.engine.catalog import Catalog
from ragsocket.engine.documents import Attachment, Member
from ragsocket.engine.index import Index
from ragsocket.engine.kept import KeptBytes
from ragsocket.engine.late import LateEngine
from ragsocket.engine.uploads import Uploads
from ragsocket.errors import RequestError
from ragsocket.settings import Settings
from words import WordEmbedding

NOTE = b"The lighthouse lamp burns seal oil.\n"


@asynccontextmanager
async def opened(
    state: Path, embed_model: BaseEmbedding | None = None, *, working: bool = True
) -> AsyncIterator[Uploads]:
    """The uploads of a state directory, as a server has them; `working` takes them in."""
    settings = Settings(state_dir=state, embed_model=None if embed_model else "none")
    kept = KeptBytes(settings.uploads_path)
    catalog = Catalog(settings.catalog_path)
    index = Index(settings.index_path, embed_model, catalog)
    await index.open()
    uploads = Uploads(index, catalog, kept, settings, embed_model)
    try:
        async with anyio.create_task_group() as tasks:
            if working:
                tasks.start_soon(uploads.run)
            yield uploads
            tasks.cancel_scope.cancel()
    finally:
        index.close()
        catalog.close()


async def store_with(uploads: Uploads, *contents: bytes, owner: str = "local") -> str:
    """Make a store of new files and return its id."""
    files = [await uploads.add_file(owner, "n.txt", io.BytesIO(c), "assistants") for c in contents]
    store = await uploads.create_store(
        owner,
        name="Notes",
        description=None,
        metadata={},
        attachments=[Attachment(file.id) for file in files],
    )
    return store.id


async def ended(uploads: Uploads, store: str, owner: str = "local") -> list[Member]:
    """Wait until no file of a store is in progress, and return them."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            members = await uploads.members(owner, store)
            if all(member.status != "in_progress" for member in members):
                return list(members)
            await anyio.sleep(0.01)


async def found(uploads: Uploads, store: str, query: str, owner: str = "local") -> list[str]:
    """Search, and return the passages."""
    return [source.text for source in await uploads.search(owner, store, query, top_k=5)]


async def test_nobody_sees_what_is_another_owners(tmp_path: Path) -> None:
    """Files and stores of another owner are not there, by any call, though the bytes are shared."""
    async with opened(tmp_path, WordEmbedding()) as uploads:
        store = await store_with(uploads, NOTE, owner="ann")
        (member,) = await ended(uploads, store, "ann")
        await store_with(uploads, NOTE, owner="ben")
        assert len(list((tmp_path / "files").iterdir())) == 1
        for call in (
            uploads.file("ben", member.file_id),
            uploads.content("ben", member.file_id),
            uploads.delete_file("ben", member.file_id),
            uploads.store("ben", store),
            uploads.update_store("ben", store, name="x", metadata=None),
            uploads.delete_store("ben", store),
            uploads.members("ben", store),
            uploads.member("ben", "vs_default", member.file_id),
            uploads.attach("ben", "vs_default", [Attachment(member.file_id)]),
            uploads.set_attributes("ben", store, member.file_id, {}),
            uploads.detach("ben", store, member.file_id),
            uploads.search("ben", store, "lamp", top_k=1),
        ):
            with pytest.raises(RequestError) as refused:
                await call
            assert refused.value.status == 404
        assert await found(uploads, store, "lamp", "ann") == [NOTE.decode().strip()]
        (own,) = await uploads.files("ben")
        await uploads.delete_file("ben", own.id)
        _, content = await uploads.content("ann", member.file_id)
        with content:
            assert content.read() == NOTE


async def test_what_was_being_read_is_deleted_and_still_read_to_its_end(tmp_path: Path) -> None:
    """Bytes that somebody reads stay readable when the last file that has them goes."""
    async with opened(tmp_path, working=False) as uploads:
        file = await uploads.add_file("local", "n.txt", io.BytesIO(NOTE), "assistants")
        _, content = await uploads.content("local", file.id)
        await uploads.delete_file("local", file.id)
        with content:
            assert content.read() == NOTE
        assert list((tmp_path / "files").iterdir()) == []


async def test_what_an_earlier_server_left_is_taken_in(tmp_path: Path) -> None:
    """New files, files taken out and deleted stores alike; what is settled is left alone."""
    async with opened(tmp_path, WordEmbedding()) as uploads:
        stores = [await store_with(uploads, NOTE, NOTE + b"Two.") for _ in range(3)]
        for store in stores:
            await ended(uploads, store)
    async with opened(tmp_path, WordEmbedding(), working=False) as uploads:
        first = (await uploads.members("local", stores[0]))[0]
        await uploads.detach("local", stores[0], first.file_id)
        await uploads.delete_store("local", stores[1])
        settled = await uploads.store("local", stores[2])
        fresh = await store_with(uploads, b"The kitchen serves dumplings.")
    async with opened(tmp_path, WordEmbedding()) as uploads:
        assert [m.status for m in await ended(uploads, fresh)] == ["completed"]
        assert len(await found(uploads, stores[0], "lighthouse lamp")) == 1
        with anyio.fail_after(PATIENCE_S):
            while list((tmp_path / "index").glob(f"bm25-{stores[1]}-*")):
                await anyio.sleep(0.01)
        again = await uploads.store("local", stores[2])
        assert again.index_revision == settled.index_revision


class HeldEmbedding(WordEmbedding):
    """Embeds as many batches of passages as it is allowed to."""

    _allowed: threading.Semaphore = PrivateAttr(default_factory=lambda: threading.Semaphore(0))
    _begun: threading.Event = PrivateAttr(default_factory=threading.Event)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._begun.set()
        assert self._allowed.acquire(timeout=PATIENCE_S)
        return super()._get_text_embeddings(texts)

    async def begun(self) -> None:
        """Wait until a batch waits for leave."""
        await anyio.to_thread.run_sync(self._begun.wait, PATIENCE_S)

    def allow(self, count: int) -> None:
        """Let batches go."""
        self._allowed.release(count)


async def test_vectors_wait_for_files_that_cannot_be_found_yet(tmp_path: Path) -> None:
    """A store that embeds gives way to new files, and goes on later where it stood."""
    embedding = HeldEmbedding()
    async with opened(tmp_path, embedding) as uploads:
        long = "\n\n".join(f"Sentence number {n} of a long book. " * 20 for n in range(40))
        book = await store_with(uploads, long.encode())
        await ended(uploads, book)
        await embedding.begun()
        note = await store_with(uploads, NOTE)
        embedding.allow(1)
        assert [member.status for member in await ended(uploads, note)] == ["completed"]
        embedding.allow(1000)
        first = (await uploads.store("local", book)).index_revision
        with anyio.fail_after(PATIENCE_S):
            while (await uploads.store("local", book)).index_revision == first:
                await anyio.sleep(0.01)
    async with opened(tmp_path, WordEmbedding(), working=False) as uploads:
        found = await uploads.search("local", book, "Sentence number 7", top_k=3)
        assert len(found) == 3


def readers() -> list[psutil.Process]:
    """Return the ingestion processes below this one that live."""
    living = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ragsocket.engine.ingestion" in child.cmdline():
                living.append(child)
    return living


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFO")
async def test_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    """A file that became something else, a picture behind an Office name: the rest is found."""
    async with opened(tmp_path) as uploads:
        contents = (b"one", b"PK\x03\x04 and no more", NOTE)
        files = [
            await uploads.add_file("local", "n.txt", io.BytesIO(c), "assistants") for c in contents
        ]
        kept = tmp_path / "files" / f"{hashlib.sha256(b'one').hexdigest()}.txt"
        kept.unlink()
        os.mkfifo(kept)
        store = await uploads.create_store(
            "local",
            name="Notes",
            description=None,
            metadata={},
            attachments=[Attachment(file.id) for file in files],
        )
        members = await ended(uploads, store.id)
        assert [member.fault for member in members] == ["invalid_file", "invalid_file", None]
        assert members[0].error == "not a file (a pipe, a socket or a device)"
        assert members[1].error == "broken Office file (File is not a zip file)"
        assert members[2].status == "completed"


async def test_before_the_engine_is_loaded_the_doors_say_so(tmp_path: Path) -> None:
    """Files cannot be asked for yet; trying again later is right."""
    engine = LateEngine(Settings(state_dir=tmp_path, llm_model="none", embed_model="none"))
    with pytest.raises(RequestError) as refused:
        _ = engine.documents
    assert (refused.value.code, refused.value.status) == ("engine_not_ready", 503)
