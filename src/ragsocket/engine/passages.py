"""Files, passages and vectors in one SQLite file.

Every row has an owner and a vector store, and every look-up takes both. A row of `passages` lives
from the revision that bore it to the one in which it died; publishing a revision is one
transaction that ends in one UPDATE of its store, so a reader sees the old revision or the new
one. Dead rows stay until they are older than the previous revision, for answers that still run.

What the next revision shall change is staged first, file by file, in rows that no reader looks
at: a killed ingestion goes on behind the last file staged, and the transaction that publishes is
a short one.

Over 400 lines because the rows of a store are written and read in one place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ragsocket.engine.database import Database

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE vector_stores (
    id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0, previous_revision INTEGER NOT NULL DEFAULT 0,
    recipe TEXT NOT NULL DEFAULT '', has_vectors INTEGER NOT NULL DEFAULT 0,
    embed_model TEXT, dimensions INTEGER, staged_recipe TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (owner, id)
);
CREATE TABLE files (
    id TEXT NOT NULL, vector_store_id TEXT NOT NULL, owner TEXT NOT NULL,
    path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    status TEXT NOT NULL, error TEXT, stat TEXT NOT NULL,
    PRIMARY KEY (owner, vector_store_id, id)
);
CREATE TABLE staged_files (
    id TEXT NOT NULL, vector_store_id TEXT NOT NULL, owner TEXT NOT NULL,
    path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    status TEXT NOT NULL, error TEXT, stat TEXT NOT NULL,
    PRIMARY KEY (owner, vector_store_id, id)
);
CREATE TABLE passages (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL, file_id TEXT NOT NULL, vector_store_id TEXT NOT NULL, owner TEXT NOT NULL,
    ordinal INTEGER NOT NULL, text TEXT NOT NULL, text_sha256 BLOB NOT NULL, place TEXT,
    born_revision INTEGER NOT NULL, died_revision INTEGER
);
CREATE INDEX passages_by_file ON passages (owner, vector_store_id, file_id);
CREATE INDEX passages_staged ON passages (owner, vector_store_id) WHERE born_revision = 0;
CREATE TABLE embeddings (
    owner TEXT NOT NULL, vector_store_id TEXT NOT NULL, text_sha256 BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (owner, vector_store_id, text_sha256)
);
"""

FileStatus = Literal["completed", "failed", "removed"]


@dataclass(frozen=True, slots=True)
class Store:
    """One owner's vector store.

    Attributes:
        id: `vs_…`, unique for its owner.
        owner: whose it is.
        revision: what is published; 0 before the first time. Counted over all stores of the
            SQLite file, so that a number means one state.
        previous_revision: what was published before.
        recipe: how its files were split; another recipe means splitting all again.
        has_vectors: whether the published revision has vectors.
        embed_model: model of the stored embeddings, or None.
        dimensions: length of the stored embeddings, or None.
        staged_recipe: how the files were split that are staged for the next revision.
    """

    id: str
    owner: str
    revision: int = 0
    previous_revision: int = 0
    recipe: str = ""
    has_vectors: bool = False
    embed_model: str | None = None
    dimensions: int | None = None
    staged_recipe: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a store; `path` is relative to the ingested folder, `size` in bytes.

    `stat` is what the file system said of it, so that what it says the same of is not read again;
    empty where that would prove nothing.
    """

    id: str
    path: str
    sha256: str
    size: int
    status: FileStatus = "completed"
    error: str | None = None
    stat: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a file; `ordinal` counts from 0 in its file, `place` is for people."""

    id: str
    file_id: str
    ordinal: int
    text: str
    place: str | None = None


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """A passage by its row, with its file's path."""

    row: int
    id: str
    file_id: str
    path: str
    text: str
    place: str | None


def make_file_id(owner: str, vector_store_id: str, path: str) -> str:
    """Return the stable id of a file, which depends on its relative path and store alone."""
    return "file_" + _digest(owner, vector_store_id, path)


def make_passage_id(file_id: str, text: str, occurrence: int) -> str:
    """Return the stable id of the `occurrence`-th passage (from 0) with this text in a file."""
    return "psg_" + _digest(file_id, text, str(occurrence))


def text_sha256(text: str) -> bytes:
    """Return what embeddings are stored under, 32 bytes."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


class Passages(Database):
    """A connection to the SQLite file; any thread may use it, one at a time."""

    SCHEMA = _SCHEMA
    VERSION = SCHEMA_VERSION
    WHAT = "index"
    REMEDY = "delete it and ingest again"

    _written = False

    # Stores.

    def stores(self) -> list[Store]:
        """Return the stores of every owner, for loading them; never for answering a client."""
        if not self._written and not self._version():
            return []
        self._written = True
        return [_store(row) for row in self._all(f"SELECT {_STORE_COLUMNS} FROM vector_stores")]

    def open_store(self, owner: str, vector_store_id: str) -> Store:
        """Return a store, made empty if there is none."""
        key = (owner, vector_store_id)
        self._all(
            "INSERT OR IGNORE INTO vector_stores (owner, id, name) VALUES (?, ?, ?)",
            (*key, vector_store_id),
        )
        rows = self._all(
            f"SELECT {_STORE_COLUMNS} FROM vector_stores WHERE owner = ? AND id = ?", key
        )
        return _store(rows[0])

    def next_revision(self) -> int:
        """Return the number that the next revision of any store gets."""
        newest = "SELECT coalesce(max(max(revision, previous_revision)), 0) FROM vector_stores"
        return int(self._all(newest)[0][0]) + 1

    def set_recipe(self, store: Store, recipe: str) -> None:
        """Record how the files of a store were split."""
        self._all(
            "UPDATE vector_stores SET recipe = ? WHERE owner = ? AND id = ?",
            (recipe, store.owner, store.id),
        )

    def publish(self, store: Store, revision: int, *, has_vectors: bool) -> None:
        """Make a revision the current one."""
        self._all(
            "UPDATE vector_stores SET previous_revision = revision, revision = ?, has_vectors = ?"
            " WHERE owner = ? AND id = ?",
            (revision, has_vectors, store.owner, store.id),
        )

    def purge(self, store: Store) -> None:
        """Delete what neither `store.revision`, the one before a change, nor later ones need."""
        key = (store.owner, store.id)
        self._all(
            "DELETE FROM passages WHERE owner = ? AND vector_store_id = ? AND died_revision <= ?",
            (*key, store.revision),
        )
        used = "SELECT {} FROM passages WHERE owner = ? AND vector_store_id = ?"
        self._all(
            "DELETE FROM files WHERE owner = ? AND vector_store_id = ? AND status = 'removed'"
            f" AND id NOT IN ({used.format('file_id')})",
            key * 2,
        )
        self._all(
            "DELETE FROM embeddings WHERE owner = ? AND vector_store_id = ?"
            f" AND text_sha256 NOT IN ({used.format('text_sha256')})",
            key * 2,
        )

    def drop(self, store: Store) -> None:
        """Delete everything in a store; the files of its revisions are the caller's to delete.

        Its row stays, without a revision, so that the numbers it had never come again.
        """
        key = (store.owner, store.id)
        with self.transaction():
            for table in ("passages", "files", "staged_files", "embeddings"):
                self._all(f"DELETE FROM {table} WHERE owner = ? AND vector_store_id = ?", key)
            self._all(
                "UPDATE vector_stores SET previous_revision = max(revision, previous_revision),"
                " revision = 0, has_vectors = 0, embed_model = NULL, dimensions = NULL"
                " WHERE owner = ? AND id = ?",
                key,
            )

    # Files.

    def files(self, owner: str, vector_store_id: str) -> list[File]:
        """Return a store's files by path, failed ones too."""
        return self._files("1 ORDER BY path", owner, vector_store_id)

    def file(self, owner: str, vector_store_id: str, file_id: str) -> File | None:
        """Return one file of a store."""
        found = self._files("id = ?", owner, vector_store_id, file_id)
        return found[0] if found else None

    def _files(self, which: str, *parameters: str) -> list[File]:
        rows = self._all(
            f"SELECT {_FILE_COLUMNS} FROM files"
            f" WHERE owner = ? AND vector_store_id = ? AND status != 'removed' AND {which}",
            parameters,
        )
        return [File(*row) for row in rows]

    def save_files(self, store: Store, files: Iterable[File]) -> None:
        """Add files or replace those with the same id."""
        self._save_files("files", store, files)

    def _save_files(self, table: str, store: Store, files: Iterable[File]) -> None:
        self._many(
            f"INSERT OR REPLACE INTO {table} ({_FILE_COLUMNS}, vector_store_id, owner)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (f.id, f.path, f.sha256, f.size, f.status, f.error, f.stat, store.id, store.owner)
                for f in files
            ),
        )

    # What the next revision changes.

    def stage(self, store: Store, file: File, passages: Iterable[Passage] = ()) -> None:
        """Stage a file with all its passages, in place of what was staged of it before."""
        with self.transaction():
            self.unstage(store, file.id)
            self._save_files("staged_files", store, [file])
            self._save_passages(store, passages)

    def unstage(self, store: Store, file_id: str) -> None:
        """Take back what was staged of a file."""
        key = (store.owner, store.id, file_id)
        which = "WHERE owner = ? AND vector_store_id = ?"
        self._all(f"DELETE FROM staged_files {which} AND id = ?", key)
        self._all(f"DELETE FROM passages {which} AND file_id = ? AND born_revision = 0", key)

    def stage_anew(self, store: Store, recipe: str) -> None:
        """Take back all that was staged, and note how files will be split that are staged now."""
        key = (store.owner, store.id)
        which = "WHERE owner = ? AND vector_store_id = ?"
        with self.transaction():
            self._all(f"DELETE FROM staged_files {which}", key)
            self._all(f"DELETE FROM passages {which} AND born_revision = 0", key)
            self._all(
                "UPDATE vector_stores SET staged_recipe = ? WHERE owner = ? AND id = ?",
                (recipe, *key),
            )

    def staged(self, store: Store) -> dict[str, File]:
        """Return the files that are staged, by id."""
        rows = self._all(
            f"SELECT {_FILE_COLUMNS} FROM staged_files WHERE owner = ? AND vector_store_id = ?",
            (store.owner, store.id),
        )
        return {row[0]: File(*row) for row in rows}

    def changes_passages(self, store: Store) -> bool:
        """Return whether what is staged adds or takes out passages."""
        key = (store.owner, store.id)
        born = "SELECT 1 FROM passages WHERE owner = ? AND vector_store_id = ?"
        dies = f"{born} AND died_revision IS NULL AND file_id IN ({_STAGED_IDS})"
        return bool(self._all(f"{born} AND born_revision = 0 LIMIT 1", key)) or bool(
            self._all(f"{dies} LIMIT 1", key * 2)
        )

    def coming(self, store: Store) -> list[tuple[int, bytes]]:
        """Return (row, text_sha256) of every passage that the next revision has."""
        return self._all(
            "SELECT row, text_sha256 FROM passages WHERE owner = ? AND vector_store_id = ?"
            f" AND died_revision IS NULL AND (born_revision = 0 OR file_id NOT IN ({_STAGED_IDS}))"
            " ORDER BY row",
            (store.owner, store.id) * 2,
        )

    def take_staged(self, store: Store, revision: int) -> None:
        """Let what is staged be there from this revision on, and what it replaces end."""
        key = (store.owner, store.id)
        which = "WHERE owner = ? AND vector_store_id = ?"
        self._all(
            f"UPDATE passages SET died_revision = ? {which} AND file_id IN ({_STAGED_IDS})"
            " AND born_revision > 0 AND died_revision IS NULL",
            (revision, *key * 2),
        )
        self._all(
            f"UPDATE passages SET born_revision = ? {which} AND born_revision = 0",
            (revision, *key),
        )
        columns = f"{_FILE_COLUMNS}, vector_store_id, owner"
        self._all(
            f"INSERT OR REPLACE INTO files ({columns}) SELECT {columns} FROM staged_files {which}",
            key,
        )
        self._all(f"DELETE FROM staged_files {which}", key)

    # Passages.

    def _save_passages(self, store: Store, passages: Iterable[Passage]) -> None:
        self._many(
            "INSERT INTO passages (owner, vector_store_id, born_revision, id, file_id, ordinal,"
            " text, text_sha256, place) VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?)",
            (
                (
                    store.owner,
                    store.id,
                    p.id,
                    p.file_id,
                    p.ordinal,
                    p.text,
                    text_sha256(p.text),
                    p.place,
                )
                for p in passages
            ),
        )

    def rows_by_file(self, owner: str, vector_store_id: str) -> dict[str, list[int]]:
        """Return the rows of a store's passages by file id, dead ones too."""
        rows = self._all(
            "SELECT file_id, row FROM passages WHERE owner = ? AND vector_store_id = ?",
            (owner, vector_store_id),
        )
        found: dict[str, list[int]] = {}
        for file_id, row in rows:
            found.setdefault(file_id, []).append(row)
        return found

    def texts(self, owner: str, vector_store_id: str, file_id: str) -> list[str]:
        """Return the texts of a file's passages that have not died, in order."""
        rows = self._all(
            "SELECT text FROM passages WHERE owner = ? AND vector_store_id = ? AND file_id = ?"
            " AND died_revision IS NULL AND born_revision > 0 ORDER BY ordinal",
            (owner, vector_store_id, file_id),
        )
        return [row[0] for row in rows]

    def living(self, store: Store) -> list[tuple[int, bytes]]:
        """Return (row, text_sha256) of every published passage that has not died."""
        return self._all(
            "SELECT row, text_sha256 FROM passages WHERE owner = ? AND vector_store_id = ?"
            " AND died_revision IS NULL AND born_revision > 0 ORDER BY row",
            (store.owner, store.id),
        )

    def texts_of(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of passages by row, which must exist, in that order."""
        found: dict[int, str] = {}
        for start in range(0, len(rows), _MARKS):
            some = rows[start : start + _MARKS]
            marks = ",".join("?" * len(some))
            found |= dict(self._all(f"SELECT row, text FROM passages WHERE row IN ({marks})", some))
        return [found[row] for row in rows]

    def find(self, owner: str, vector_store_id: str, rows: Sequence[int]) -> list[FoundPassage]:
        """Return passages by row, in the order asked for; rows that are purged are left out."""
        marks = ",".join("?" * len(rows))
        found = {
            row[0]: FoundPassage(*row)
            for row in self._all(
                # The plus signs keep SQLite from walking the whole store by its index instead.
                "SELECT p.row, p.id, p.file_id, f.path, p.text, p.place FROM passages p"
                " JOIN files f ON f.owner = p.owner AND f.vector_store_id = p.vector_store_id"
                f" AND f.id = p.file_id WHERE p.row IN ({marks})"
                " AND +p.owner = ? AND +p.vector_store_id = ?",
                (*rows, owner, vector_store_id),
            )
        }
        return [found[row] for row in rows if row in found]

    # Embeddings: by text, so that what moves inside a folder is not embedded again.

    def embeddings(self, store: Store) -> Iterator[tuple[bytes, bytes]]:
        """Yield `text_sha256` and vector (float32, little-endian bytes) of a store's texts."""
        last = 0
        while rows := self._all(
            "SELECT rowid, text_sha256, vector FROM embeddings WHERE owner = ?"
            " AND vector_store_id = ? AND rowid > ? ORDER BY rowid LIMIT 1000",
            (store.owner, store.id, last),
        ):
            last = rows[-1][0]
            for _, sha256, vector in rows:
                yield sha256, vector

    def embedded(self, store: Store) -> set[bytes]:
        """Return the `text_sha256` of every stored vector."""
        rows = self._all(
            "SELECT text_sha256 FROM embeddings WHERE owner = ? AND vector_store_id = ?",
            (store.owner, store.id),
        )
        return {row[0] for row in rows}

    def save_embeddings(
        self, store: Store, model: str, dimensions: int, vectors: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Add vectors by `text_sha256`, and the model that made them; visible to no search yet."""
        with self.transaction():
            self._many(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)",
                ((store.owner, store.id, sha256, vector) for sha256, vector in vectors),
            )
            self._all(
                "UPDATE vector_stores SET embed_model = ?, dimensions = ? WHERE owner = ?"
                " AND id = ?",
                (model, dimensions, store.owner, store.id),
            )

    def forget_embeddings(self, store: Store) -> None:
        """Drop a store's vectors; published revisions keep theirs in their own files."""
        self._all(
            "DELETE FROM embeddings WHERE owner = ? AND vector_store_id = ?",
            (store.owner, store.id),
        )


_STORE_COLUMNS = (
    "id, owner, revision, previous_revision, recipe, has_vectors, embed_model, dimensions,"
    " staged_recipe"
)
_FILE_COLUMNS = "id, path, sha256, size, status, error, stat"
_STAGED_IDS = "SELECT id FROM staged_files WHERE owner = ? AND vector_store_id = ?"
# So many values go into one statement.
_MARKS = 500


def _store(row: tuple[Any, ...]) -> Store:
    return replace(Store(*row), has_vectors=bool(row[5]))
