"""Files and vector stores as a door sees them. Pure: no event loop, no `llama_index`.

A file is uploaded, or it lies in the folder of documents. A vector store is a collection of files
that is searched together; an uploaded file may be in any number of them. The folder is a store of
its own, the default one, which takes uploaded files as well; its own files change in the folder
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

from ragsocket.engine.base import Attributes, Filter, Source

Kind = Literal["pdf", "office", "html", "txt"]
MemberStatus = Literal["in_progress", "completed", "failed", "cancelled"]
Fault = Literal["server_error", "invalid_file"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file.

    Attributes:
        id: `file_…`.
        name: what the uploader calls it; for a file of the folder, its path in it.
        size: bytes.
        created_at: when it was uploaded, or changed in the folder, Unix seconds.
        purpose: what the uploader said it is for.
        in_folder: True for a file of the folder.
        error: why a file of the folder cannot be read, or None.
    """

    id: str
    name: str
    size: int
    created_at: int
    purpose: str = "assistants"
    in_folder: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a vector store.

    Attributes:
        file_id: the file.
        vector_store_id: the store.
        created_at: when it came into the store, Unix seconds.
        status: `completed` once its passages can be found.
        size: bytes of the file.
        name: of the file, as `StoredFile.name`.
        in_folder: True for a file of the folder.
        attributes: what filters look at.
        fault: what kind of reason it failed for.
        error: the reason, for people.
    """

    file_id: str
    vector_store_id: str
    created_at: int
    status: MemberStatus
    size: int
    name: str
    in_folder: bool
    attributes: Attributes = field(default_factory=dict)
    fault: Fault | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class VectorStore:
    """A vector store.

    Attributes:
        id: `vs_…`.
        name: for people.
        description: for people, or None.
        created_at: Unix seconds.
        active_at: when its files changed last, Unix seconds.
        metadata: the owner's own pairs.
        counts: files by status.
        size: bytes of its files.
        is_folder: True for the store of the folder.
        index_revision: revision of the index that a search runs on; 0 before the first.
        sample_questions: what one could ask of it, if somebody said so.
    """

    id: str
    name: str
    description: str | None
    created_at: int
    active_at: int
    metadata: Mapping[str, str]
    counts: Mapping[MemberStatus, int]
    size: int
    is_folder: bool
    index_revision: int
    sample_questions: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that came into a vector store together.

    Attributes:
        id: `vsfb_…`.
        vector_store_id: the store.
        created_at: Unix seconds.
        members: those of the files that are still in the store.
    """

    id: str
    vector_store_id: str
    created_at: int
    members: Sequence[Member]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is to come into a vector store; without attributes, it keeps those it has."""

    file_id: str
    attributes: Attributes | None = None


class Documents(Protocol):
    """The files and vector stores of every owner. Nobody sees what is another owner's.

    Every method raises `RequestError` where what it names is not there (status 404), where it
    cannot be done, or while the index is not open yet (503); lists are in order of coming.
    """

    async def add_file(self, owner: str, name: str, content: BinaryIO, purpose: str) -> StoredFile:
        """Keep an uploaded file; what kind it is, its content decides.

        Args:
            owner: whose it is.
            name: what the client calls it; only the part after the last slash is kept.
            content: its bytes, from the first to the last; closed by the caller.
            purpose: kept with it.
        """

    async def files(self, owner: str) -> Sequence[StoredFile]:
        """Return an owner's files, those of the folder first."""

    async def file(self, owner: str, file_id: str) -> StoredFile:
        """Return one file."""

    async def content(self, owner: str, file_id: str) -> tuple[StoredFile, BinaryIO]:
        """Return a file and its bytes, for the caller to close; it stays readable if deleted."""

    async def delete_file(self, owner: str, file_id: str) -> None:
        """Delete an uploaded file, and take it out of every store; no search finds it from now."""

    async def create_store(
        self,
        owner: str,
        *,
        name: str,
        description: str | None,
        metadata: Mapping[str, str],
        attachments: Sequence[Attachment],
    ) -> VectorStore:
        """Make a vector store, with files that were uploaded."""

    async def stores(self, owner: str) -> Sequence[VectorStore]:
        """Return an owner's vector stores, the folder's first."""

    async def store(self, owner: str, vector_store_id: str) -> VectorStore:
        """Return one vector store."""

    async def update_store(
        self,
        owner: str,
        vector_store_id: str,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
    ) -> VectorStore:
        """Change what is not None."""

    async def delete_store(self, owner: str, vector_store_id: str) -> None:
        """Delete a vector store; its files stay."""

    async def attach(
        self, owner: str, vector_store_id: str, attachments: Sequence[Attachment]
    ) -> Sequence[Member]:
        """Bring uploaded files into a store: all or none.

        Those that are there stay as they are; one that failed is tried again.
        """

    async def create_batch(
        self, owner: str, vector_store_id: str, attachments: Sequence[Attachment]
    ) -> Batch:
        """Bring uploaded files into a store, see `attach`, as a batch that can be looked up."""

    async def batch(self, owner: str, vector_store_id: str, batch_id: str) -> Batch:
        """Return a batch."""

    async def cancel_batch(self, owner: str, vector_store_id: str, batch_id: str) -> Batch:
        """Give up those files of a batch that are in progress."""

    async def members(self, owner: str, vector_store_id: str) -> Sequence[Member]:
        """Return the files of a store, those of the folder first."""

    async def member(self, owner: str, vector_store_id: str, file_id: str) -> Member:
        """Return one file of a store."""

    async def set_attributes(
        self, owner: str, vector_store_id: str, file_id: str, attributes: Attributes
    ) -> Member:
        """Replace the attributes of a file; the next search goes by them."""

    async def detach(self, owner: str, vector_store_id: str, file_id: str) -> None:
        """Take an uploaded file out of a store; no search finds it there from now on."""

    async def texts(self, owner: str, vector_store_id: str, file_id: str) -> Sequence[str]:
        """Return the passages of a file of a store in order; they overlap a little."""

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
        """Return the passages that fit a query best, best first.

        Args:
            owner: whose store it is.
            vector_store_id: the store.
            query: free text.
            top_k: how many at most, from 1.
            filters: which files may be found; None for all.
            rerank: whether the reranker orders them; None if there is one.
        """
