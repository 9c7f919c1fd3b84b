"""Brings the passages of vector stores in line with the files uploaded into them.

One store at a time, in a child process, while answers go on. What is to be done stands in the
catalog, so a server that was killed goes on where it stood; the queue here only says in which
order. Stores with new files come first; one that merely waits for vectors gives way to them, and
goes on later where it stood.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from contextlib import suppress

import anyio
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragsocket.engine.catalog import Catalog, Entry, Key
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion import BuiltInEmbed, Progress, Upload, choose_embedding
from ragsocket.engine.ingestion.job import uploads_part
from ragsocket.engine.ingestion.pipeline import RECIPE_VERSION
from ragsocket.engine.kept import KeptBytes
from ragsocket.errors import RagsocketError
from ragsocket.settings import Settings

log = logging.getLogger("ragsocket.engine")

ATTEMPTS = 3
"""How often a store is tried before its files count as failed."""


class Intake:
    """The queue of stores, and the task that works it off."""

    def __init__(
        self,
        index: Index,
        catalog: Catalog,
        kept: KeptBytes,
        settings: Settings,
        embed_model: BaseEmbedding | None = None,
    ) -> None:
        """Name what is worked on.

        Args:
            index: where passages are published; opened.
            catalog: says which files a store shall hold.
            kept: where the bytes of files are.
            settings: the operator's choices.
            embed_model: embeds the passages in place of what the settings name.
        """
        self._index = index
        self._catalog = catalog
        self._kept = kept
        self._settings = settings
        self._embed_model = embed_model
        self._fresh: dict[Key, None] = {}
        self._later: dict[Key, None] = {}
        self._queued = anyio.Event()
        self._at: Key | None = None
        self._progress: Progress | None = None
        self._scope = anyio.CancelScope()
        self._failed: Counter[Key] = Counter()

    def queue(self, key: Key, *, deleted: bool = False) -> None:
        """Have a store brought in line, which changed or was deleted in the catalog."""
        self._later.pop(key, None)
        self._fresh[key] = None
        self._queued.set()
        if deleted and key == self._at:
            self._scope.cancel()
        self._give_way()

    async def run(self) -> None:
        """Work the queue off until cancelled, first what an earlier server left to be done."""
        for entry in await to_thread.run_sync(self._catalog.every_store):
            if entry.deleted or (entry.changes and entry.settled != self._how):
                self._fresh.setdefault(entry.key)
        while True:
            waiting = self._fresh or self._later
            if not waiting:
                self._queued = anyio.Event()
                await self._queued.wait()
                continue
            key = next(iter(waiting))
            del waiting[key]
            self._at = key
            try:
                await self._bring_in_line(key)
            except (RagsocketError, sqlite3.Error, OSError) as error:
                log.error("the files of %s could not be taken in: %s", key[1], error)
                with suppress(RagsocketError, sqlite3.Error):
                    await self._try_again(key)
            else:
                del self._failed[key]
            finally:
                self._at = self._progress = None

    async def _bring_in_line(self, key: Key) -> None:
        entry = await to_thread.run_sync(self._catalog.store, *key)
        if entry is None:
            return
        if entry.deleted:
            await self._index.drop(*key)
            await to_thread.run_sync(self._catalog.forget_store, key)
            return
        listing = await to_thread.run_sync(self._catalog.listing, key)
        uploads = tuple(
            Upload(file_id, name, str(self._kept.path(content)))
            for file_id, name, content in listing
        )
        if not uploads and not self._index.revision_of(key[0], uploads_part(entry.id)):
            await to_thread.run_sync(self._catalog.settle, entry, self._how)
        else:
            await self._take_in(entry, uploads)

    async def _take_in(self, entry: Entry, uploads: tuple[Upload, ...]) -> None:
        async def note_early() -> None:
            try:
                await to_thread.run_sync(self._note, entry, uploads)
            except (RagsocketError, sqlite3.Error) as error:
                # At the end it is noted again.
                log.warning("the status of files could not be written: %s", error)

        with anyio.CancelScope() as self._scope:
            report = await self._index.take_in(
                self._settings,
                uploads,
                vector_store_id=uploads_part(entry.id),
                owner=entry.owner,
                embed_model=self._embed_model,
                on_progress=self._follow,
                on_refreshed=note_early,
            )
        if self._scope.cancelled_caught:
            if entry.key not in self._fresh:
                self._later[entry.key] = None
            return
        await to_thread.run_sync(self._note, entry, uploads)
        how = "" if report.unembedded else self._how
        await to_thread.run_sync(self._catalog.settle, entry, how)

    @property
    def _how(self) -> str:
        """Everything beside its files that decides what the passages of a store are."""
        chosen = choose_embedding(self._settings)
        if self._embed_model is not None:
            model = self._embed_model.model_name
        elif isinstance(chosen, BuiltInEmbed):
            model = chosen.built_in
        else:
            model = chosen.model if chosen is not None else "none"
        chunks = f"{self._settings.chunk_tokens}/{self._settings.chunk_overlap_tokens}"
        return f"{RECIPE_VERSION}/{chunks}/{model}"

    def _follow(self, progress: Progress) -> None:
        self._progress = progress
        self._give_way()

    def _give_way(self) -> None:
        if self._fresh and self._progress is not None and self._progress.stage == "embedding":
            self._scope.cancel()

    def _note(self, entry: Entry, uploads: tuple[Upload, ...]) -> None:
        """Note which of the files can be found now, and which cannot be read; blocks."""
        listed = {upload.file_id for upload in uploads}
        files = self._index.files(entry.owner, uploads_part(entry.id))
        files = [file for file in files if file.id in listed]
        found = [file.id for file in files if file.error is None]
        self._catalog.set_status(entry.key, found, "completed")
        for file in files:
            if file.error is not None:
                self._catalog.set_status(entry.key, [file.id], "failed", "invalid_file", file.error)

    async def _try_again(self, key: Key) -> None:
        self._failed[key] += 1
        if self._failed[key] < ATTEMPTS:
            self._later[key] = None
            return
        del self._failed[key]
        members = await to_thread.run_sync(self._catalog.members, *key)
        await to_thread.run_sync(self._fail, key, [member.file_id for member in members])

    def _fail(self, key: Key, file_ids: list[str]) -> None:
        self._catalog.set_status(
            key,
            file_ids,
            "failed",
            "server_error",
            "The file could not be read; the server's log says more. Attach it again to try again.",
        )
