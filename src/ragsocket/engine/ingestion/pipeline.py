"""Brings a vector store in line with a folder or with uploads, and publishes what changed.

The texts come first, as one revision that can be searched by words; vectors fill in with later
ones.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from ragsocket.engine.embeddings import BuiltInEmbedding, EndpointEmbedding
from ragsocket.engine.ingestion import revision as revision_files
from ragsocket.engine.ingestion.job import (
    DEFAULT_OWNER,
    DEFAULT_VECTOR_STORE,
    BuiltInEmbed,
    EmbedSettings,
    Progress,
    Report,
    Upload,
)
from ragsocket.engine.ingestion.reading import TEXT_SUFFIXES, Unreadable, list_folder, read_file
from ragsocket.engine.ingestion.splitting import Splitter
from ragsocket.engine.passages import (
    File,
    Passage,
    Passages,
    Store,
    make_file_id,
    make_passage_id,
)
from ragsocket.errors import ConfigError, RagsocketError

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 60
PUBLISH_EVERY_S = 20.0
# Time between two revisions with more vectors, in times of what publishing one takes.
PUBLISH_SHARE = 10
# Raised when reading or splitting changes, so that unchanged files are split anew.
RECIPE_VERSION = 1

Tell = Callable[[Progress], None]


@dataclass
class _Change:
    """What differs between the documents and the store."""

    files: list[File] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def ingest(
    documents: Path | Sequence[Upload],
    index_path: Path,
    *,
    vector_store_id: str = DEFAULT_VECTOR_STORE,
    owner: str = DEFAULT_OWNER,
    embed: EmbedSettings | BuiltInEmbed | BaseEmbedding | None,
    chunk_tokens: int,
    chunk_overlap_tokens: int,
    progress: Tell = lambda _: None,
    lock_wait_s: int = LOCK_WAIT_S,
    publish_every_s: float = PUBLISH_EVERY_S,
) -> Report:
    """Bring a vector store in line with its documents; blocks for as long as that takes.

    Files are told apart by their content and their path in the folder, or the id of the upload:
    moving the folder or touching files does nothing. A file that cannot be read is named in the
    report, with the passages it had taken out, and the rest goes in. What changed is published
    before it is embedded, and vectors are published as they come. If embedding fails or is broken
    off, the next ingestion goes on there. An exception raised by `progress` ends the ingestion;
    what was published by then stays.

    Args:
        documents: a folder, or all the uploaded files that the store shall hold.
        index_path: the SQLite file; made if missing.
        vector_store_id: store to bring in line, letters, digits, `_` and `-`.
        owner: whose store it is.
        embed: embeddings server, built-in model, or a LlamaIndex embedding object; None for words
            alone.
        chunk_tokens: size of a passage, about four bytes each.
        chunk_overlap_tokens: overlap of two passages.
        progress: called often, on the calling thread.
        lock_wait_s: how long to wait for another ingestion of the same store.
        publish_every_s: how long new vectors may wait until they are published; longer for an
            index that takes long to publish.

    Raises:
        ConfigError: the folder is missing, the index is damaged, or the store in use for too long.
    """
    started = time.monotonic()
    if isinstance(documents, Path) and not documents.is_dir():
        raise ConfigError(f"{documents} is not a folder: name the folder of your documents.")
    if not revision_files.STORE_ID.fullmatch(vector_store_id):
        raise ConfigError(f"{vector_store_id!r} is not a vector store id such as vs_default.")
    if isinstance(embed, EmbedSettings):
        embed = EndpointEmbedding(embed)
    elif isinstance(embed, BuiltInEmbed):
        embed = BuiltInEmbedding()
    with (
        only_ingestion(index_path, vector_store_id, progress, lock_wait_s),
        closing(Passages(index_path, create=True)) as db,
    ):
        store = db.open_store(owner, vector_store_id)
        recipe = f"{RECIPE_VERSION}/{chunk_tokens}/{chunk_overlap_tokens}"
        splitter = Splitter(chunk_tokens, chunk_overlap_tokens)
        change = _compare(documents, db, store, splitter, store.recipe != recipe, progress)
        if change.dead or change.passages:
            with_vectors = embed is not None and store.embed_model is not None
            store = publish(
                db, store, change.files, change.passages, change.dead, with_vectors, progress
            )
        else:
            db.save_files(store, change.files)
        db.set_recipe(store, recipe)
        if embed is not None:
            store = _embed(db, store, change.notes, embed, progress, publish_every_s)
        with_vectors = embed is not None and store.embed_model is not None
        there = _vectors_there(db, store, with_vectors)
        if store.revision and there != revision_files.vectors_of(
            index_path, store.id, store.revision
        ):
            store = publish(db, store, (), (), (), with_vectors, progress)
        passages = len(db.living(store))
        return Report(
            added=change.counts["added"],
            changed=change.counts["changed"],
            unchanged=change.counts["unchanged"],
            removed=change.counts["removed"],
            failed=tuple(sorted(change.failed)),
            passages=passages,
            revision=store.revision,
            seconds=time.monotonic() - started,
            notes=tuple(change.notes),
            unembedded=passages - there[1] if embed is not None else 0,
        )


@contextmanager
def only_ingestion(
    index_path: Path, vector_store_id: str, progress: Tell, wait_s: int
) -> Iterator[None]:
    """Hold the right to write a store; the kernel takes it back if this process dies.

    Raises:
        ConfigError: another process holds it for longer than `wait_s`.
    """
    index_path.parent.mkdir(parents=True, exist_ok=True)
    # An SQLite lock is a file lock on every platform, and waits without a loop of ours.
    lock_path = index_path.with_name(f"{vector_store_id}.lock")
    with closing(sqlite3.connect(lock_path, timeout=1, isolation_level=None)) as lock:
        for waited in range(wait_s + 1):
            try:
                lock.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if waited == wait_s:
                    raise ConfigError(
                        f"another ingestion is at work on {vector_store_id} of {index_path}: "
                        "wait for it to end."
                    ) from error
                progress(Progress("waiting"))
        yield


def _compare(
    documents: Path | Sequence[Upload],
    db: Passages,
    store: Store,
    splitter: Splitter,
    split_all: bool,
    progress: Tell,
) -> _Change:
    change = _Change()
    if isinstance(documents, Path):
        listed = _list(documents, store, change)
    else:
        listed = [(File(u.file_id, u.name, "", 0), Path(u.path)) for u in documents]
    known = {file.id: file for file in db.files(store.owner, store.id)}
    for done, (stub, path) in enumerate(listed):
        file = stub
        progress(Progress("reading", done, len(listed), file.path))
        old = known.pop(file.id, None)
        try:
            with path.open("rb") as stream:
                file = replace(file, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
            if old and old.sha256 == file.sha256 and not split_all:
                if old.error is not None:
                    change.failed.append((file.path, old.error))
                else:
                    change.counts["unchanged"] += 1
                continue
            file = replace(file, size=path.stat().st_size)
            passages = _split(file, path, splitter)
        except (Unreadable, OSError) as error:
            reason = str(error) if isinstance(error, Unreadable) else error.strerror or "unreadable"
            change.files.append(replace(file, status="failed", error=reason))
            change.failed.append((file.path, reason))
        else:
            change.files.append(file)
            change.passages += passages
            change.counts["changed" if old and old.status == "completed" else "added"] += 1
        if old and old.status == "completed":
            change.dead.append(old.id)
    progress(Progress("reading", len(listed), len(listed)))
    for old in known.values():
        change.files.append(replace(old, status="removed"))
        if old.status == "completed":
            change.dead.append(old.id)
            change.counts["removed"] += 1
    return change


def _list(root: Path, store: Store, change: _Change) -> list[tuple[File, Path]]:
    """Return the files of a folder and where they are; what is left out goes into `change`."""
    listing = list_folder(root)
    change.failed += listing.refused
    if listing.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in listing.others.most_common(5))
        change.notes.append(f"Files of other kinds were passed over: {kinds}.")
    return [
        (File(make_file_id(store.owner, store.id, relative), relative, "", 0), path)
        for relative, path in listing.files
    ]


def _split(file: File, path: Path, splitter: Splitter) -> list[Passage]:
    passages: list[Passage] = []
    seen: Counter[str] = Counter()
    for document in read_file(path):
        page = document.metadata.get("page")
        for piece in splitter.split(document.text):
            place = None
            if page is not None:
                place = f"page {page}"
            elif path.suffix.lower() in TEXT_SUFFIXES:
                place = f"lines {piece.first_line}-{piece.last_line}"
            passage_id = make_passage_id(file.id, piece.text, seen[piece.text])
            seen[piece.text] += 1
            passages.append(Passage(passage_id, file.id, len(passages), piece.text, place))
    return passages


def _embed(
    db: Passages,
    store: Store,
    notes: list[str],
    embed: BaseEmbedding,
    progress: Tell,
    publish_every_s: float,
) -> Store:
    """Embed what has no vector, publish now and then, and return the store as it is then.

    Every batch is on disk before the next one is begun. The last ones are not published here.
    """
    texts = {sha: text for _, _, text, sha in db.living(store)}
    model = embed.model_name
    other_model = store.embed_model not in (None, model)
    have = set() if other_model else db.embedded(store)
    missing = [sha for sha in texts if sha not in have]
    total, done = len(missing), 0
    publish_at = time.monotonic() + publish_every_s
    while missing:
        progress(Progress("embedding", done, total))
        batch, missing = missing[: embed.embed_batch_size], missing[embed.embed_batch_size :]
        try:
            vectors = embed.get_text_embedding_batch([texts[sha] for sha in batch])
        except Exception as error:
            logger.warning("embedding failed", exc_info=error)
            reason = f" ({str(error).rstrip('.')})" if isinstance(error, RagsocketError) else ""
            notes.append(
                f"Embedding failed{reason}: {total - done} passages have no vector until "
                "the next ingestion."
            )
            break
        matrix = np.asarray(vectors, dtype="<f4")
        dimensions = matrix.shape[1]
        if other_model or store.dimensions not in (None, dimensions):
            notes.append(
                f"The embeddings changed from {store.embed_model} ({store.dimensions} dimensions) "
                f"to {model} ({dimensions}): all passages are embedded again."
            )
            db.forget_embeddings(store)
            fresh = set(batch)
            missing = [sha for sha in texts if sha not in fresh]
            total, done, other_model = len(texts), 0, False
        rows = [(sha, vector.tobytes()) for sha, vector in zip(batch, matrix, strict=True)]
        db.save_embeddings(store, model, dimensions, rows)
        store = replace(store, embed_model=model, dimensions=dimensions)
        done += len(batch)
        if missing and (begun := time.monotonic()) >= publish_at:
            store = publish(db, store, (), (), (), True, progress)
            now = time.monotonic()
            publish_at = now + max(publish_every_s, PUBLISH_SHARE * (now - begun))
    return store


def _vectors_there(db: Passages, store: Store, with_vectors: bool) -> tuple[str | None, int]:
    """Return what `revision.vectors_of` would, if a revision were published now."""
    if not with_vectors:
        return None, 0
    have = db.embedded(store)
    return store.embed_model, sum(sha in have for *_, sha in db.living(store))


def drop(index_path: Path, owner: str, vector_store_id: str) -> None:
    """Delete a store's passages and revisions; blocks.

    Raises:
        ConfigError: the index is damaged, or the store in use for too long.
    """
    with (
        only_ingestion(index_path, vector_store_id, lambda _: None, LOCK_WAIT_S),
        closing(Passages(index_path)) as db,
    ):
        store = db.open_store(owner, vector_store_id)
        db.drop(store)
        revision_files.delete_old(index_path, store.id, ())


def publish(
    db: Passages,
    store: Store,
    files: Sequence[File],
    passages: Sequence[Passage],
    dead: Sequence[str],
    with_vectors: bool,
    progress: Tell = lambda _: None,
) -> Store:
    """Make one revision of a change and return the store after it.

    The caller holds `only_ingestion`. A death at any moment leaves the revision before.

    Args:
        db: where the store is.
        store: as it is now.
        files: to add or to replace.
        passages: to add.
        dead: ids of files whose passages go, before any are added.
        with_vectors: whether the revision has vectors.
        progress: told before the words are indexed, and of the revision when it is published.
    """
    with db.transaction():
        number = db.next_revision()
        db.bury(store, dead, number)
        db.save_files(store, files)
        db.bear(store, passages, number)
        living = db.living(store)
        progress(Progress("indexing", 0, len(living)))
        vectors, embedded = None, 0
        if with_vectors and store.dimensions:
            stored = db.embeddings(store)
            nothing = bytes(4 * store.dimensions)
            embedded = sum(sha in stored for *_, sha in living)
            flat = b"".join(stored.get(sha, nothing) for _, _, _, sha in living)
            vectors = np.frombuffer(flat, "<f4").reshape(len(living), store.dimensions)
        revision_files.write(
            revision_files.directory(db.path, store.id, number),
            [row for row, _, _, _ in living],
            [text for _, _, text, _ in living],
            vectors,
            store.embed_model if with_vectors else None,
            embedded,
        )
        db.publish(store, number, has_vectors=with_vectors)
        # More vectors make no passage superfluous: what searches that still run need stays.
        if files or passages or dead:
            db.purge(store)
    in_use = {n for other in db.stores() for n in (other.revision, other.previous_revision)}
    revision_files.delete_old(db.path, store.id, in_use)
    progress(Progress("indexing", len(living), len(living), revision=number))
    return replace(
        store, revision=number, previous_revision=store.revision, has_vectors=with_vectors
    )
