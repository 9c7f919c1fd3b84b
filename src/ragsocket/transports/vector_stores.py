"""`/v1/vector_stores`: stores, the files in them, and their search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request

from ragsocket.engine.base import Source
from ragsocket.engine.documents import Attachment, Batch, Member, VectorStore
from ragsocket.protocol.files import (
    ChunkingStrategy,
    Chunks,
    Deleted,
    FileCounts,
    LastError,
    MemberStatus,
    TextContent,
    VectorStoreCreate,
    VectorStoreFacts,
    VectorStoreFileBatchCreate,
    VectorStoreFileBatchObject,
    VectorStoreFileContent,
    VectorStoreFileCreate,
    VectorStoreFileFacts,
    VectorStoreFileObject,
    VectorStoreFileUpdate,
    VectorStoreObject,
    VectorStoreSearch,
    VectorStoreSearchResult,
    VectorStoreSearchResults,
    VectorStoreUpdate,
)
from ragsocket.protocol.files import (
    Request as Asked,
)
from ragsocket.protocol.listing import Page
from ragsocket.responses.asking import file_filter
from ragsocket.settings import Settings
from ragsocket.transports.files import FileId, documents_of
from ragsocket.transports.listing import Cursor, Paging, page
from ragsocket.transports.stream import described, read_model

T = TypeVar("T", bound=Asked)

StoreId = Annotated[str, Path(description="The vector store, `vs_…`.")]
Filter = Annotated[MemberStatus | None, Query(description="Only those of this status.")]
BatchId = Annotated[str, Path(description="The file batch, `vsfb_…`.")]


def router(owner: str) -> APIRouter:
    """Return the doors; documents and settings are taken from the application's state."""
    doors = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
    _stores(doors, owner)
    _files(doors, owner)
    _batches(doors, owner)
    return doors


def _stores(doors: APIRouter, owner: str) -> None:
    @doors.post("", openapi_extra=described(VectorStoreCreate))
    async def create(request: Request) -> VectorStoreObject:
        """Make a vector store."""
        asked = await _read(request, VectorStoreCreate)
        store = await documents_of(request).create_store(
            owner,
            name=asked.name,
            description=asked.description,
            metadata=asked.metadata,
            attachments=[Attachment(file_id) for file_id in asked.file_ids],
        )
        return _store(store)

    @doors.get("")
    async def list_stores(
        request: Request,
        *,
        part: Paging,
        before: Cursor = None,
    ) -> Page[VectorStoreObject]:
        """List vector stores; the oldest is that of the folder of documents."""
        stores = [_store(store) for store in await documents_of(request).stores(owner)]
        return page(stores, part, before=before)

    @doors.get("/{vector_store_id}")
    async def look_up(request: Request, vector_store_id: StoreId) -> VectorStoreObject:
        """Look a vector store up."""
        return _store(await documents_of(request).store(owner, vector_store_id))

    @doors.post("/{vector_store_id}", openapi_extra=described(VectorStoreUpdate))
    async def update(request: Request, vector_store_id: StoreId) -> VectorStoreObject:
        """Change name or metadata."""
        asked = await _read(request, VectorStoreUpdate)
        store = await documents_of(request).update_store(
            owner, vector_store_id, name=asked.name, metadata=asked.metadata
        )
        return _store(store)

    @doors.delete("/{vector_store_id}")
    async def delete(request: Request, vector_store_id: StoreId) -> Deleted:
        """Delete a vector store; its files stay."""
        await documents_of(request).delete_store(owner, vector_store_id)
        return Deleted(id=vector_store_id, object="vector_store.deleted")

    @doors.post("/{vector_store_id}/search", openapi_extra=described(VectorStoreSearch))
    async def search(request: Request, vector_store_id: StoreId) -> VectorStoreSearchResults:
        """Search one vector store."""
        asked = await _read(request, VectorStoreSearch)
        queries = (asked.query,) if isinstance(asked.query, str) else asked.query
        best: dict[str, Source] = {}
        for query in queries:
            found = await documents_of(request).search(
                owner,
                vector_store_id,
                query,
                top_k=asked.max_num_results,
                filters=file_filter(asked.filters) if asked.filters is not None else None,
                rerank=False if asked.ranking_options.ranker == "none" else None,
            )
            for source in found:
                known = best.get(source.passage_id)
                if known is None or known.score < source.score:
                    best[source.passage_id] = source
        sources = list(best.values())
        if len(queries) > 1:
            # One list is in the order of its ranks, which several lists have not in common.
            sources.sort(key=lambda source: -source.score)
        least = asked.ranking_options.score_threshold
        sources = [source for source in sources if source.score >= least]
        return VectorStoreSearchResults(
            search_query=queries,
            data=tuple(_result(source) for source in sources[: asked.max_num_results]),
        )


def _files(doors: APIRouter, owner: str) -> None:
    @doors.post("/{vector_store_id}/files", openapi_extra=described(VectorStoreFileCreate))
    async def attach(request: Request, vector_store_id: StoreId) -> VectorStoreFileObject:
        """Bring an uploaded file into a vector store."""
        asked = await _read(request, VectorStoreFileCreate)
        attachment = Attachment(asked.file_id, asked.attributes)
        (member,) = await documents_of(request).attach(owner, vector_store_id, [attachment])
        return _file(request, member)

    @doors.get("/{vector_store_id}/files")
    async def list_files(
        request: Request,
        vector_store_id: StoreId,
        *,
        part: Paging,
        before: Cursor = None,
        filter: Filter = None,
    ) -> Page[VectorStoreFileObject]:
        """List the files of a vector store."""
        members = await documents_of(request).members(owner, vector_store_id)
        files = [_file(request, member) for member in members if filter in (None, member.status)]
        return page(files, part, before=before)

    @doors.get("/{vector_store_id}/files/{file_id}")
    async def look_up(
        request: Request, vector_store_id: StoreId, file_id: FileId
    ) -> VectorStoreFileObject:
        """Look a file of a vector store up: whether it can be found, or why not."""
        member = await documents_of(request).member(owner, vector_store_id, file_id)
        return _file(request, member)

    @doors.post(
        "/{vector_store_id}/files/{file_id}", openapi_extra=described(VectorStoreFileUpdate)
    )
    async def update(
        request: Request, vector_store_id: StoreId, file_id: FileId
    ) -> VectorStoreFileObject:
        """Replace the attributes of a file, one of the folder of documents too."""
        asked = await _read(request, VectorStoreFileUpdate)
        member = await documents_of(request).set_attributes(
            owner, vector_store_id, file_id, asked.attributes
        )
        return _file(request, member)

    @doors.get("/{vector_store_id}/files/{file_id}/content")
    async def content(
        request: Request, vector_store_id: StoreId, file_id: FileId
    ) -> VectorStoreFileContent:
        """Read the passages that a file was split into."""
        texts = await documents_of(request).texts(owner, vector_store_id, file_id)
        return VectorStoreFileContent(data=tuple(TextContent(text=text) for text in texts))

    @doors.delete("/{vector_store_id}/files/{file_id}")
    async def detach(request: Request, vector_store_id: StoreId, file_id: FileId) -> Deleted:
        """Take an uploaded file out of a vector store; the file stays."""
        await documents_of(request).detach(owner, vector_store_id, file_id)
        return Deleted(id=file_id, object="vector_store.file.deleted")


def _batches(doors: APIRouter, owner: str) -> None:
    @doors.post(
        "/{vector_store_id}/file_batches", openapi_extra=described(VectorStoreFileBatchCreate)
    )
    async def create(request: Request, vector_store_id: StoreId) -> VectorStoreFileBatchObject:
        """Bring several uploaded files into a vector store: all or none."""
        asked = await _read(request, VectorStoreFileBatchCreate)
        attachments = [
            *(Attachment(file_id, asked.attributes) for file_id in asked.file_ids),
            *(Attachment(file.file_id, file.attributes) for file in asked.files),
        ]
        batch = await documents_of(request).create_batch(owner, vector_store_id, attachments)
        return _batch(batch)

    @doors.get("/{vector_store_id}/file_batches/{batch_id}")
    async def look_up(
        request: Request, vector_store_id: StoreId, batch_id: BatchId
    ) -> VectorStoreFileBatchObject:
        """Look a batch up: how many of its files can be found."""
        return _batch(await documents_of(request).batch(owner, vector_store_id, batch_id))

    @doors.post("/{vector_store_id}/file_batches/{batch_id}/cancel")
    async def cancel(
        request: Request, vector_store_id: StoreId, batch_id: BatchId
    ) -> VectorStoreFileBatchObject:
        """Give up those files of a batch that are in progress."""
        return _batch(await documents_of(request).cancel_batch(owner, vector_store_id, batch_id))

    @doors.get("/{vector_store_id}/file_batches/{batch_id}/files")
    async def list_files(
        request: Request,
        vector_store_id: StoreId,
        batch_id: BatchId,
        *,
        part: Paging,
        before: Cursor = None,
        filter: Filter = None,
    ) -> Page[VectorStoreFileObject]:
        """List the files of a batch that are still in the store."""
        batch = await documents_of(request).batch(owner, vector_store_id, batch_id)
        files = [_file(request, one) for one in batch.members if filter in (None, one.status)]
        return page(files, part, before=before)


async def _read(request: Request, model: type[T]) -> T:
    """Return what a body asks for; an empty one says nothing.

    Raises:
        RequestError: it is too large, or not such a request.
    """
    return await read_model(request, model, empty=b"{}")


def _store(store: VectorStore) -> VectorStoreObject:
    return VectorStoreObject(
        id=store.id,
        created_at=store.created_at,
        name=store.name,
        description=store.description,
        metadata=dict(store.metadata),
        file_counts=_counts(store.counts),
        status="in_progress" if store.counts.get("in_progress") else "completed",
        usage_bytes=store.size,
        last_active_at=store.active_at,
        ragsocket=VectorStoreFacts(
            is_folder=store.is_folder,
            index_revision=store.index_revision,
            sample_questions=tuple(store.sample_questions),
        ),
    )


def _counts(counts: Mapping[MemberStatus, int]) -> FileCounts:
    return FileCounts(
        cancelled=counts.get("cancelled", 0),
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        in_progress=counts.get("in_progress", 0),
        total=sum(counts.values()),
    )


def _batch(batch: Batch) -> VectorStoreFileBatchObject:
    counts = _counts(Counter(member.status for member in batch.members))
    status: Literal["in_progress", "completed", "cancelled"] = "completed"
    if counts.in_progress:
        status = "in_progress"
    elif counts.cancelled:
        status = "cancelled"
    return VectorStoreFileBatchObject(
        id=batch.id,
        vector_store_id=batch.vector_store_id,
        created_at=batch.created_at,
        status=status,
        file_counts=counts,
    )


def _file(request: Request, member: Member) -> VectorStoreFileObject:
    settings: Settings = request.app.state.settings
    last_error = None
    if member.fault is not None:
        last_error = LastError(code=member.fault, message=member.error or "")
    return VectorStoreFileObject(
        id=member.file_id,
        vector_store_id=member.vector_store_id,
        created_at=member.created_at,
        status=member.status,
        last_error=last_error,
        usage_bytes=member.size,
        attributes=dict(member.attributes),
        chunking_strategy=ChunkingStrategy(
            static=Chunks(
                max_chunk_size_tokens=settings.chunk_tokens,
                chunk_overlap_tokens=settings.chunk_overlap_tokens,
            )
        ),
        ragsocket=VectorStoreFileFacts(filename=member.name, in_folder=member.in_folder),
    )


def _result(source: Source) -> VectorStoreSearchResult:
    return VectorStoreSearchResult(
        file_id=source.file_id,
        filename=source.file_name,
        score=source.score,
        attributes=dict(source.attributes),
        content=(TextContent(text=source.text),),
    )
