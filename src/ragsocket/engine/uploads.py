"""Files and vector stores: what doors ask for and change, see `Documents`.

What a call changes is in the catalog when it returns, and searches go by it at once; the passages
follow, see `Intake`.

Over 400 lines because it is one interface of small calls over the same rows.
"""

from __future__ import annotations

import io
import secrets
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio
from anyio import to_thread
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragsocket.engine.base import Attributes, Filter, Source
from ragsocket.engine.catalog import Catalog, Entry, Key, new_entry, renamed
from ragsocket.engine.documents import Attachment, Batch, Member, StoredFile, VectorStore
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion.job import DEFAULT_VECTOR_STORE, uploads_part
from ragsocket.engine.intake import Intake
from ragsocket.engine.kept import KeptBytes
from ragsocket.engine.passages import File
from ragsocket.engine.samples import sample_questions
from ragsocket.errors import RequestError
from ragsocket.settings import Settings

T = TypeVar("T")

MAX_NAME = 255


class Uploads:
    """The one implementation of `Documents`, over an index and a catalog."""

    def __init__(
        self,
        index: Index,
        catalog: Catalog,
        kept: KeptBytes,
        settings: Settings,
        embed_model: BaseEmbedding | None = None,
    ) -> None:
        """See `Intake` for the arguments."""
        self._index = index
        self._catalog = catalog
        self._kept = kept
        self._settings = settings
        self._intake = Intake(index, catalog, kept, settings, embed_model)
        # Quotas and look-ups hold until what they allow is written.
        self._changing = anyio.Lock()

    async def run(self) -> None:
        """Take uploads in until cancelled."""
        await self._intake.run()

    async def _change(self, change: Callable[[], T]) -> T:
        async with self._changing:
            return await to_thread.run_sync(change)

    # Files.

    async def add_file(self, owner: str, name: str, content: BinaryIO, purpose: str) -> StoredFile:
        """See `Documents`."""
        return await self._change(lambda: self._add_file(owner, name, content, purpose))

    def _add_file(self, owner: str, name: str, content: BinaryIO, purpose: str) -> StoredFile:
        size = content.seek(0, io.SEEK_END)
        most = self._settings.max_uploads_bytes
        if self._catalog.uploaded_bytes(owner) + size > most:
            raise RequestError(
                "quota_exceeded",
                f"all your files together may have {most} bytes: delete some first.",
                param="file",
                status=403,
            )
        content.seek(0)
        name = plain_name(name)
        kept = self._kept.keep(content, name)
        file = StoredFile(_new_id("file"), name, size, int(time.time()), purpose)
        self._catalog.add_upload(owner, file, kept)
        return file

    async def files(self, owner: str) -> Sequence[StoredFile]:
        """See `Documents`."""
        return await to_thread.run_sync(self._files, owner)

    def _files(self, owner: str) -> list[StoredFile]:
        folder = self._index.files(owner, DEFAULT_VECTOR_STORE)
        return [*map(self._of_folder, folder), *self._catalog.uploads(owner)]

    async def file(self, owner: str, file_id: str) -> StoredFile:
        """See `Documents`."""
        return await to_thread.run_sync(self._file, owner, file_id)

    def _file(self, owner: str, file_id: str) -> StoredFile:
        upload = self._catalog.upload(owner, file_id)
        if upload is not None:
            return upload
        file = self._index.file(owner, DEFAULT_VECTOR_STORE, file_id)
        if file is None:
            raise RequestError(
                "file_not_found",
                f"there is no file {file_id[:64]!r}; GET /v1/files lists them.",
                param="file_id",
                status=404,
            )
        return self._of_folder(file)

    async def content(self, owner: str, file_id: str) -> tuple[StoredFile, BinaryIO]:
        """See `Documents`."""
        return await to_thread.run_sync(self._content, owner, file_id)

    def _content(self, owner: str, file_id: str) -> tuple[StoredFile, BinaryIO]:
        file = self._file(owner, file_id)
        if file.in_folder:
            path = self._in_folder(file.name)
        else:
            path = self._kept.path(self._catalog.bytes_of(owner, file_id))
        try:
            if path is not None:
                return file, path.open("rb")
        except OSError:
            pass
        raise RequestError(
            "file_not_found",
            f"the bytes of {file_id[:64]!r} are not there any more.",
            param="file_id",
            status=404,
        )

    async def delete_file(self, owner: str, file_id: str) -> None:
        """See `Documents`."""
        for key in await self._change(lambda: self._delete_file(owner, file_id)):
            self._intake.queue(key)

    def _delete_file(self, owner: str, file_id: str) -> list[Key]:
        if self._file(owner, file_id).in_folder:
            raise _fixed(f"{file_id} lies in the folder of documents: delete it there.", "file_id")
        content = self._catalog.bytes_of(owner, file_id)
        held = self._catalog.delete_upload(owner, file_id)
        if content.file_name not in self._catalog.every_bytes():
            self._kept.delete(content)
        return held

    def _of_folder(self, file: File) -> StoredFile:
        path, changed_at = self._in_folder(file.path), 0
        if path is not None:
            with suppress(OSError):
                changed_at = int(path.stat().st_mtime)
        return StoredFile(
            file.id, file.path, file.size, changed_at, in_folder=True, error=file.error
        )

    def _in_folder(self, name: str) -> Path | None:
        """Return where a file of the folder is; None if that is not inside it."""
        if self._settings.data is None:
            return None
        root = self._settings.data.resolve()
        path = (root / name).resolve()
        return path if path.is_relative_to(root) else None

    # Vector stores.

    async def create_store(
        self,
        owner: str,
        *,
        name: str,
        description: str | None,
        metadata: Mapping[str, str],
        attachments: Sequence[Attachment],
    ) -> VectorStore:
        """See `Documents`."""
        entry = new_entry(owner, _new_id("vs"), name, description, metadata)
        store = await self._change(lambda: self._create_store(entry, attachments))
        if attachments:
            self._intake.queue(entry.key)
        return store

    def _create_store(self, entry: Entry, attachments: Sequence[Attachment]) -> VectorStore:
        most = self._settings.max_vector_stores
        own = [one for one in self._catalog.stores(entry.owner) if one.id != DEFAULT_VECTOR_STORE]
        if len(own) >= most:
            raise RequestError(
                "quota_exceeded",
                f"{most} vector stores are all that are allowed: delete some first.",
                status=403,
            )
        self._check(entry.owner, attachments)
        self._catalog.add_store(entry)
        if attachments:
            self._catalog.attach(entry.key, attachments)
        return self._shown(entry)

    async def stores(self, owner: str) -> Sequence[VectorStore]:
        """See `Documents`."""
        return await to_thread.run_sync(self._stores, owner)

    def _stores(self, owner: str) -> list[VectorStore]:
        first = self._entry(owner, DEFAULT_VECTOR_STORE)
        others = [entry for entry in self._catalog.stores(owner) if entry.id != first.id]
        return [self._shown(entry) for entry in (first, *others)]

    async def store(self, owner: str, vector_store_id: str) -> VectorStore:
        """See `Documents`."""
        return await to_thread.run_sync(lambda: self._shown(self._entry(owner, vector_store_id)))

    async def update_store(
        self,
        owner: str,
        vector_store_id: str,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
    ) -> VectorStore:
        """See `Documents`."""

        def change() -> VectorStore:
            entry = renamed(self._entry(owner, vector_store_id), name, metadata)
            self._catalog.save_store(entry)
            return self._shown(entry)

        return await self._change(change)

    async def delete_store(self, owner: str, vector_store_id: str) -> None:
        """See `Documents`."""

        def change() -> Key:
            entry = self._entry(owner, vector_store_id)
            if entry.id == DEFAULT_VECTOR_STORE:
                raise _fixed("the store of the folder cannot be deleted.", "vector_store_id")
            self._catalog.delete_store(entry.key)
            return entry.key

        self._intake.queue(await self._change(change), deleted=True)

    def _entry(self, owner: str, vector_store_id: str) -> Entry:
        if not self._catalog.has_store(owner, vector_store_id):
            raise RequestError(
                "vector_store_not_found",
                f"there is no vector store {vector_store_id[:64]!r}; GET /v1/vector_stores lists "
                "them.",
                param="vector_store_id",
                status=404,
            )
        entry = self._catalog.store(owner, vector_store_id)
        if entry is None:
            entry = new_entry(owner, vector_store_id, "Documents", "the folder of documents")
            self._catalog.add_store(entry)
        return entry

    def _shown(self, entry: Entry) -> VectorStore:
        members = self._all_members(entry)
        parts = (entry.id, uploads_part(entry.id))
        is_folder = entry.id == DEFAULT_VECTOR_STORE
        return VectorStore(
            id=entry.id,
            name=entry.name,
            description=entry.description,
            created_at=entry.created_at,
            active_at=entry.active_at,
            metadata=entry.metadata,
            counts=Counter(member.status for member in members),
            size=sum(member.size for member in members),
            is_folder=is_folder,
            index_revision=max(self._index.revision_of(entry.owner, part) for part in parts),
            sample_questions=sample_questions(self._settings.data) if is_folder else (),
        )

    # Files of a store.

    async def attach(
        self, owner: str, vector_store_id: str, attachments: Sequence[Attachment]
    ) -> Sequence[Member]:
        """See `Documents`."""

        def change() -> tuple[Key, list[Member]]:
            entry = self._entry(owner, vector_store_id)
            self._check(owner, attachments)
            self._catalog.attach(entry.key, attachments)
            return entry.key, [self._member(entry, one.file_id) for one in attachments]

        key, members = await self._change(change)
        self._intake.queue(key)
        return members

    async def create_batch(
        self, owner: str, vector_store_id: str, attachments: Sequence[Attachment]
    ) -> Batch:
        """See `Documents`."""

        def change() -> tuple[Key, Batch]:
            entry = self._entry(owner, vector_store_id)
            self._check(owner, attachments)
            batch_id = _new_id("vsfb")
            self._catalog.add_batch(entry.key, batch_id, attachments)
            return entry.key, self._batch(entry, batch_id)

        key, batch = await self._change(change)
        self._intake.queue(key)
        return batch

    async def batch(self, owner: str, vector_store_id: str, batch_id: str) -> Batch:
        """See `Documents`."""
        return await to_thread.run_sync(
            lambda: self._batch(self._entry(owner, vector_store_id), batch_id)
        )

    def _batch(self, entry: Entry, batch_id: str) -> Batch:
        found = self._catalog.batch(entry.key, batch_id)
        if found is None:
            raise RequestError(
                "file_batch_not_found",
                f"there is no file batch {batch_id[:64]!r} in {entry.id}.",
                param="batch_id",
                status=404,
            )
        return Batch(batch_id, entry.id, *found)

    async def cancel_batch(self, owner: str, vector_store_id: str, batch_id: str) -> Batch:
        """See `Documents`."""

        def change() -> tuple[Key, Batch]:
            entry = self._entry(owner, vector_store_id)
            self._batch(entry, batch_id)
            self._catalog.cancel_batch(entry.key, batch_id)
            return entry.key, self._batch(entry, batch_id)

        key, batch = await self._change(change)
        self._intake.queue(key)
        return batch

    def _check(self, owner: str, attachments: Sequence[Attachment]) -> None:
        """Refuse files that are not there or cannot be attached, and too many at once."""
        for attachment in attachments:
            if self._file(owner, attachment.file_id).in_folder:
                raise _fixed(
                    f"{attachment.file_id} lies in the folder of documents, which is the store "
                    f"{DEFAULT_VECTOR_STORE}: search that one, or upload the file.",
                    "file_id",
                )
        most = self._settings.max_files_in_progress
        if self._catalog.waiting(owner) + len(attachments) > most:
            raise RequestError(
                "too_many_files",
                f"{most} files may be in progress at once: wait until some are completed.",
                status=429,
            )

    async def members(self, owner: str, vector_store_id: str) -> Sequence[Member]:
        """See `Documents`."""
        return await to_thread.run_sync(
            lambda: self._all_members(self._entry(owner, vector_store_id))
        )

    def _all_members(self, entry: Entry) -> list[Member]:
        uploaded = self._catalog.members(*entry.key)
        if entry.id != DEFAULT_VECTOR_STORE:
            return uploaded
        attributes = self._catalog.attributes(*entry.key)
        folder = self._index.files(*entry.key)
        return [*(self._member_of_folder(file, attributes) for file in folder), *uploaded]

    async def member(self, owner: str, vector_store_id: str, file_id: str) -> Member:
        """See `Documents`."""
        return await to_thread.run_sync(
            lambda: self._member(self._entry(owner, vector_store_id), file_id)
        )

    def _member(self, entry: Entry, file_id: str) -> Member:
        member = self._catalog.member(*entry.key, file_id)
        if member is None and entry.id == DEFAULT_VECTOR_STORE:
            file = self._index.file(*entry.key, file_id)
            if file is not None:
                return self._member_of_folder(file, self._catalog.attributes(*entry.key))
        if member is None:
            raise RequestError(
                "file_not_found",
                f"there is no file {file_id[:64]!r} in {entry.id}; its files are listed at "
                f"/v1/vector_stores/{entry.id}/files.",
                param="file_id",
                status=404,
            )
        return member

    def _member_of_folder(self, file: File, attributes: Mapping[str, Attributes]) -> Member:
        return Member(
            file_id=file.id,
            vector_store_id=DEFAULT_VECTOR_STORE,
            created_at=self._of_folder(file).created_at,
            status="completed" if file.error is None else "failed",
            size=file.size,
            name=file.path,
            in_folder=True,
            attributes=attributes.get(file.id, {}),
            fault=None if file.error is None else "invalid_file",
            error=file.error,
        )

    async def set_attributes(
        self, owner: str, vector_store_id: str, file_id: str, attributes: Attributes
    ) -> Member:
        """See `Documents`."""

        def change() -> Member:
            entry = self._entry(owner, vector_store_id)
            self._member(entry, file_id)
            self._catalog.set_attributes(entry.key, file_id, attributes)
            return self._member(entry, file_id)

        return await self._change(change)

    async def detach(self, owner: str, vector_store_id: str, file_id: str) -> None:
        """See `Documents`."""

        def change() -> Key:
            entry = self._entry(owner, vector_store_id)
            self._member(entry, file_id)
            if self._catalog.member(*entry.key, file_id) is None:
                raise _fixed(
                    f"{file_id} lies in the folder of documents: delete it there.", "file_id"
                )
            self._catalog.detach(entry.key, file_id)
            return entry.key

        self._intake.queue(await self._change(change))

    async def texts(self, owner: str, vector_store_id: str, file_id: str) -> Sequence[str]:
        """See `Documents`."""

        def look() -> list[str]:
            entry = self._entry(owner, vector_store_id)
            self._member(entry, file_id)
            uploaded = self._catalog.member(*entry.key, file_id) is not None
            part = uploads_part(entry.id) if uploaded else entry.id
            return self._index.texts(owner, part, file_id)

        return await to_thread.run_sync(look)

    async def search(
        self,
        owner: str,
        vector_store_id: str,
        query: str,
        *,
        top_k: int,
        filters: Filter | None = None,
        rerank: bool | None = None,
    ) -> Sequence[Source]:
        """See `Documents`."""
        await self.store(owner, vector_store_id)
        found = await self._index.search(
            query,
            owner=owner,
            vector_store_ids=(vector_store_id,),
            top_k=top_k,
            filters=filters,
            rerank=rerank,
        )
        return found.sources


def plain_name(name: str) -> str:
    """Return what is left of a client's file name: no folders, no control characters."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    kept = "".join(sign for sign in last if unicodedata.category(sign)[0] != "C").strip()
    return kept[-MAX_NAME:] if kept.strip(".") else "file"


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _fixed(message: str, param: str) -> RequestError:
    return RequestError("folder_read_only", message, param=param, status=409)
