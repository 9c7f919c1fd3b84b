"""Uploaded files, vector stores, and which file is in which store, in one SQLite file.

A file of its own beside the index, because publishing a revision holds the index' one write
transaction for seconds. The serving process alone writes it. Every row has an owner, and every
look-up takes it.

Over 400 lines because files, stores and which is in which change together, in one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ragsocket.engine.base import Attributes
from ragsocket.engine.database import Database
from ragsocket.engine.documents import Attachment, Fault, Kind, Member, MemberStatus, StoredFile
from ragsocket.engine.ingestion.job import DEFAULT_VECTOR_STORE

_SCHEMA = """
CREATE TABLE uploads (
    id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,
    size INTEGER NOT NULL, created_at INTEGER NOT NULL, sha256 TEXT NOT NULL, kind TEXT NOT NULL,
    PRIMARY KEY (owner, id)
);
CREATE TABLE vector_stores (
    id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, description TEXT,
    metadata TEXT NOT NULL, created_at INTEGER NOT NULL, active_at INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0, changes INTEGER NOT NULL DEFAULT 0,
    settled TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (owner, id)
);
CREATE TABLE members (
    owner TEXT NOT NULL, vector_store_id TEXT NOT NULL, file_id TEXT NOT NULL,
    created_at INTEGER NOT NULL, status TEXT NOT NULL, fault TEXT, error TEXT,
    PRIMARY KEY (owner, vector_store_id, file_id)
);
CREATE TABLE batches (
    id TEXT NOT NULL, owner TEXT NOT NULL, vector_store_id TEXT NOT NULL,
    created_at INTEGER NOT NULL, file_ids TEXT NOT NULL,
    PRIMARY KEY (owner, id)
);
CREATE TABLE attributes (
    owner TEXT NOT NULL, vector_store_id TEXT NOT NULL, file_id TEXT NOT NULL,
    attributes TEXT NOT NULL,
    PRIMARY KEY (owner, vector_store_id, file_id)
);
"""

Key = tuple[str, str]
"""Owner and id of a vector store."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A vector store as it is kept.

    Attributes:
        deleted: True while its passages are still there, to be dropped.
        changes: how often its files changed.
        settled: what its passages were last brought in line with, see `Catalog.settle`.
    """

    id: str
    owner: str
    name: str
    description: str | None
    metadata: Mapping[str, str]
    created_at: int
    active_at: int
    deleted: bool = False
    changes: int = 0
    settled: str = ""

    @property
    def key(self) -> Key:
        """Owner and id."""
        return self.owner, self.id


@dataclass(frozen=True, slots=True)
class Bytes:
    """Which bytes an uploaded file has; the same for two files of the same content and kind."""

    sha256: str
    kind: Kind

    @property
    def file_name(self) -> str:
        """Name under which they are kept; its suffix says how they are read."""
        return f"{self.sha256}.{self.kind}"


class Catalog(Database):
    """A connection to the SQLite file; any thread may use it, one at a time.

    What every search asks is in memory, so that none waits for a thread because of it.

    Attributes:
        has_attributes: whether any file has attributes.
        leaving: stores whose published revision may hold files that are in them no more.
    """

    SCHEMA = _SCHEMA
    VERSION = 1
    WHAT = "catalog of uploaded files"
    REMEDY = "move it away and upload the files again"

    def __init__(self, path: Path) -> None:
        """Open the file; it is made if missing."""
        super().__init__(path, create=True)
        self.has_attributes = bool(self._all("SELECT 1 FROM attributes LIMIT 1"))
        self.leaving: set[Key] = set()
        self._living: set[Key] = set()
        for entry in self.every_store():
            if not entry.deleted:
                self._living.add(entry.key)
            if entry.changes and not entry.settled:
                self.leaving.add(entry.key)

    def has_store(self, owner: str, vector_store_id: str) -> bool:
        """Return whether an owner has this vector store; everybody has the default one."""
        return vector_store_id == DEFAULT_VECTOR_STORE or (owner, vector_store_id) in self._living

    # Uploads.

    def add_upload(self, owner: str, file: StoredFile, content: Bytes) -> None:
        """Add an uploaded file."""
        self._all(
            "INSERT INTO uploads (id, owner, name, purpose, size, created_at, sha256, kind)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(file.id, owner, file.name, file.purpose, file.size, file.created_at),
                *(content.sha256, content.kind),
            ),
        )

    def uploads(self, owner: str) -> list[StoredFile]:
        """Return an owner's uploads, oldest first."""
        return [StoredFile(*row) for row in self._uploads("owner = ?", owner)]

    def upload(self, owner: str, file_id: str) -> StoredFile | None:
        """Return one upload."""
        rows = self._uploads("owner = ? AND id = ?", owner, file_id)
        return StoredFile(*rows[0]) if rows else None

    def _uploads(self, which: str, *parameters: str) -> list[Any]:
        return self._all(
            f"SELECT id, name, size, created_at, purpose FROM uploads WHERE {which} ORDER BY rowid",
            parameters,
        )

    def uploaded_bytes(self, owner: str) -> int:
        """Return how large all uploads of an owner are together."""
        total = "SELECT coalesce(sum(size), 0) FROM uploads WHERE owner = ?"
        return int(self._all(total, (owner,))[0][0])

    def bytes_of(self, owner: str, file_id: str) -> Bytes:
        """Return which bytes an upload has, which must exist."""
        which = "SELECT sha256, kind FROM uploads WHERE owner = ? AND id = ?"
        return Bytes(*self._all(which, (owner, file_id))[0])

    def every_bytes(self) -> set[str]:
        """Return the names of all bytes that any owner's uploads have."""
        return {
            Bytes(*row).file_name for row in self._all("SELECT DISTINCT sha256, kind FROM uploads")
        }

    def delete_upload(self, owner: str, file_id: str) -> list[Key]:
        """Delete an upload and take it out of every store; returns those that held it."""
        with self.transaction():
            held = self._all(
                "SELECT owner, vector_store_id FROM members WHERE owner = ? AND file_id = ?",
                (owner, file_id),
            )
            keys = [(row[0], row[1]) for row in held]
            for _, vector_store_id in keys:
                self._detach(owner, vector_store_id, file_id)
            self._all("DELETE FROM uploads WHERE owner = ? AND id = ?", (owner, file_id))
        return keys

    # Stores.

    def add_store(self, entry: Entry) -> None:
        """Add a vector store, unless it is there."""
        self._all(
            "INSERT OR IGNORE INTO vector_stores"
            " (id, owner, name, description, metadata, created_at, active_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry.id, entry.owner, entry.name, entry.description),
                *(json.dumps(dict(entry.metadata)), entry.created_at, entry.active_at),
            ),
        )
        self._living.add(entry.key)

    def every_store(self) -> list[Entry]:
        """Return the stores of every owner, deleted ones too; never for answering a client."""
        return self._stores("1")

    def stores(self, owner: str) -> list[Entry]:
        """Return an owner's stores, oldest first."""
        return self._stores("NOT deleted AND owner = ?", owner)

    def store(self, owner: str, vector_store_id: str) -> Entry | None:
        """Return one store, a deleted one too."""
        found = self._stores("owner = ? AND id = ?", owner, vector_store_id)
        return found[0] if found else None

    def _stores(self, which: str, *parameters: str) -> list[Entry]:
        rows = self._all(
            "SELECT id, owner, name, description, metadata, created_at, active_at, deleted,"
            f" changes, settled FROM vector_stores WHERE {which} ORDER BY rowid",
            parameters,
        )
        return [
            replace(Entry(*row), metadata=json.loads(row[4]), deleted=bool(row[7])) for row in rows
        ]

    def save_store(self, entry: Entry) -> None:
        """Write name and metadata of a store."""
        self._all(
            "UPDATE vector_stores SET name = ?, metadata = ? WHERE owner = ? AND id = ?",
            (entry.name, json.dumps(dict(entry.metadata)), *entry.key),
        )

    def delete_store(self, key: Key) -> None:
        """Take a store from its owner; `forget_store` ends it once its passages are dropped."""
        with self.transaction():
            self._all("UPDATE vector_stores SET deleted = 1 WHERE owner = ? AND id = ?", key)
            for table in ("members", "attributes", "batches"):
                self._all(f"DELETE FROM {table} WHERE owner = ? AND vector_store_id = ?", key)
        self._living.discard(key)

    def forget_store(self, key: Key) -> None:
        """Delete the last of a deleted store."""
        self._all("DELETE FROM vector_stores WHERE deleted AND owner = ? AND id = ?", key)
        self.leaving.discard(key)

    def settle(self, entry: Entry, how: str) -> None:
        """Note that the published passages of a store are those of its files.

        Nothing is noted if its files have changed since.

        Args:
            entry: the store as it was when its files were listed.
            how: everything else that decides what the passages are; empty if some of it is still
                to be done.
        """
        with self.transaction():
            unchanged = self._all(
                "UPDATE vector_stores SET settled = ? WHERE owner = ? AND id = ? AND changes = ?"
                " RETURNING 1",
                (how, *entry.key, entry.changes),
            )
            if unchanged:
                self.leaving.discard(entry.key)

    def _change(self, owner: str, vector_store_id: str) -> None:
        self._all(
            "UPDATE vector_stores SET changes = changes + 1, settled = '', active_at = ?"
            " WHERE owner = ? AND id = ?",
            (int(time.time()), owner, vector_store_id),
        )

    # Members.

    def members(self, owner: str, vector_store_id: str) -> list[Member]:
        """Return the uploaded files of a store, in order of coming."""
        return self._members(
            "m.owner = ? AND m.vector_store_id = ? ORDER BY m.rowid", owner, vector_store_id
        )

    def member(self, owner: str, vector_store_id: str, file_id: str) -> Member | None:
        """Return one uploaded file of a store."""
        which = "m.owner = ? AND m.vector_store_id = ? AND m.file_id = ?"
        found = self._members(which, owner, vector_store_id, file_id)
        return found[0] if found else None

    def _members(self, which: str, *parameters: str) -> list[Member]:
        rows = self._all(
            "SELECT m.file_id, m.vector_store_id, m.created_at, m.status, u.size,"
            " u.name, 0, coalesce(a.attributes, '{}'), m.fault, m.error FROM members m"
            " JOIN uploads u ON u.owner = m.owner AND u.id = m.file_id"
            " LEFT JOIN attributes a ON a.owner = m.owner"
            " AND a.vector_store_id = m.vector_store_id AND a.file_id = m.file_id"
            f" WHERE {which}",
            parameters,
        )
        return [
            replace(Member(*row), in_folder=False, attributes=json.loads(row[7])) for row in rows
        ]

    def listing(self, key: Key) -> list[tuple[str, str, Bytes]]:
        """Return id, name and bytes of the files whose passages a store shall hold."""
        rows = self._all(
            "SELECT u.id, u.name, u.sha256, u.kind FROM members m"
            " JOIN uploads u ON u.owner = m.owner AND u.id = m.file_id"
            " WHERE m.owner = ? AND m.vector_store_id = ?"
            " AND m.status IN ('in_progress', 'completed') ORDER BY m.rowid",
            key,
        )
        return [(row[0], row[1], Bytes(row[2], row[3])) for row in rows]

    def waiting(self, owner: str) -> int:
        """Return how many of an owner's files are still to be taken in, over all stores."""
        count = "SELECT count(*) FROM members WHERE owner = ? AND status = 'in_progress'"
        return int(self._all(count, (owner,))[0][0])

    def attach(self, key: Key, attachments: Iterable[Attachment]) -> None:
        """Bring uploads into a store; those that are there stay, those that failed try again."""
        with self.transaction():
            self._attach(key, attachments)

    def _attach(self, key: Key, attachments: Iterable[Attachment]) -> None:
        now = int(time.time())
        for attachment in attachments:
            self._all(
                "INSERT INTO members (owner, vector_store_id, file_id, created_at, status)"
                " VALUES (?, ?, ?, ?, 'in_progress')"
                " ON CONFLICT DO UPDATE SET status = 'in_progress', fault = NULL,"
                " error = NULL WHERE status IN ('failed', 'cancelled')",
                (*key, attachment.file_id, now),
            )
            if attachment.attributes is not None:
                self.set_attributes(key, attachment.file_id, attachment.attributes)
        self._change(*key)

    def detach(self, key: Key, file_id: str) -> None:
        """Take an upload out of a store."""
        with self.transaction():
            self._detach(*key, file_id)

    def _detach(self, owner: str, vector_store_id: str, file_id: str) -> None:
        # Before the row is gone: no search may find what the caller was told is out.
        self.leaving.add((owner, vector_store_id))
        for table in ("members", "attributes"):
            self._all(
                f"DELETE FROM {table} WHERE owner = ? AND vector_store_id = ? AND file_id = ?",
                (owner, vector_store_id, file_id),
            )
        self._change(owner, vector_store_id)

    def set_status(
        self,
        key: Key,
        file_ids: Collection[str],
        status: MemberStatus,
        fault: Fault | None = None,
        error: str | None = None,
    ) -> None:
        """Note what became of files that are in progress; of others nothing is noted."""
        self._many(
            "UPDATE members SET status = ?, fault = ?, error = ? WHERE owner = ?"
            " AND vector_store_id = ? AND file_id = ? AND status = 'in_progress'",
            ((status, fault, error, *key, file_id) for file_id in file_ids),
        )

    # Batches.

    def add_batch(self, key: Key, batch_id: str, attachments: Sequence[Attachment]) -> None:
        """Bring uploads into a store, see `attach`, under a name of their own."""
        file_ids = json.dumps([attachment.file_id for attachment in attachments])
        with self.transaction():
            self._all(
                "INSERT INTO batches (owner, vector_store_id, id, created_at, file_ids)"
                " VALUES (?, ?, ?, ?, ?)",
                (*key, batch_id, int(time.time()), file_ids),
            )
            self._attach(key, attachments)

    def batch(self, key: Key, batch_id: str) -> tuple[int, list[Member]] | None:
        """Return when a batch was made, and those of its files that are still in the store."""
        rows = self._all(
            "SELECT created_at FROM batches WHERE owner = ? AND vector_store_id = ? AND id = ?",
            (*key, batch_id),
        )
        which = (
            "m.owner = ? AND m.vector_store_id = ? AND m.file_id IN"
            " (SELECT value FROM batches b, json_each(b.file_ids)"
            "  WHERE b.owner = m.owner AND b.id = ?) ORDER BY m.rowid"
        )
        return (rows[0][0], self._members(which, *key, batch_id)) if rows else None

    def cancel_batch(self, key: Key, batch_id: str) -> None:
        """Give up the files of a batch that are in progress."""
        with self.transaction():
            self.leaving.add(key)
            self._all(
                "UPDATE members SET status = 'cancelled' WHERE owner = ? AND vector_store_id = ?"
                " AND status = 'in_progress' AND file_id IN"
                " (SELECT value FROM batches b, json_each(b.file_ids)"
                "  WHERE b.owner = members.owner AND b.id = ?)",
                (*key, batch_id),
            )
            self._change(*key)

    # Attributes: of the folder's files as well.

    def attributes(self, owner: str, vector_store_id: str) -> dict[str, Attributes]:
        """Return the attributes of a store's files that have any, by file id."""
        rows = self._all(
            "SELECT file_id, attributes FROM attributes WHERE owner = ? AND vector_store_id = ?",
            (owner, vector_store_id),
        )
        return {row[0]: json.loads(row[1]) for row in rows}

    def set_attributes(self, key: Key, file_id: str, attributes: Attributes) -> None:
        """Replace the attributes of a file in a store."""
        self.has_attributes = True
        self._all(
            "INSERT OR REPLACE INTO attributes VALUES (?, ?, ?, ?)",
            (*key, file_id, json.dumps(dict(attributes))),
        )


def new_entry(
    owner: str,
    vector_store_id: str,
    name: str,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Entry:
    """Return a vector store that is made now."""
    now = int(time.time())
    return Entry(vector_store_id, owner, name, description, metadata or {}, now, now)


def renamed(entry: Entry, name: str | None, metadata: Mapping[str, str] | None) -> Entry:
    """Return a store with what is not None in place of its name and metadata."""
    return replace(
        entry,
        name=entry.name if name is None else name,
        metadata=entry.metadata if metadata is None else metadata,
    )
