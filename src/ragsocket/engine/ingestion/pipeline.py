"""Brings a vector store in line with a folder or with uploads, and publishes what changed.

The texts come first, as one revision that can be searched by words; vectors fill in with later
ones.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from ragsocket.engine import minilm
from ragsocket.engine.embedding_server import EmbeddingServer
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
from ragsocket.engine.ingestion.staging import Tell, stage
from ragsocket.engine.passages import Passages, Store
from ragsocket.engine.reading.document import Limits, Task
from ragsocket.errors import ConfigError, RagsocketError

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 60
PUBLISH_EVERY_S = 20.0
# Time between two revisions with more vectors, in times of what publishing one takes.
PUBLISH_SHARE = 10
# Raised when reading or splitting changes, so that unchanged files are split anew.
RECIPE_VERSION = 2
# Passages whose words are counted at once.
COUNTED_AT_ONCE = 2_000


class Embeds(Protocol):
    """What makes vectors of texts: a LlamaIndex embedding, or one of ours."""

    model_name: str
    embed_batch_size: int

    def get_text_embedding_batch(self, texts: list[str]) -> Sequence[Sequence[float]]:
        """Return a vector for each text; blocks."""


def ingest(
    documents: Path | Sequence[Upload],
    index_path: Path,
    *,
    vector_store_id: str = DEFAULT_VECTOR_STORE,
    owner: str = DEFAULT_OWNER,
    embed: EmbedSettings | BuiltInEmbed | Embeds | None,
    chunk_tokens: int,
    chunk_overlap_tokens: int,
    limits: Limits | None = None,
    state_dir: Path | None = None,
    progress: Tell = lambda _: None,
    lock_wait_s: int | None = None,
    publish_every_s: float = PUBLISH_EVERY_S,
) -> Report:
    """Bring a vector store in line with its documents; blocks for as long as that takes.

    Files are told apart by their content and their path in the folder, or the id of the upload:
    moving the folder or touching files does nothing. A file that cannot be read is named in the
    report, with the passages it had taken out, and the rest goes in. What changed is published
    before it is embedded, and vectors are published as they come. If any of that fails or is
    broken off, the next ingestion goes on there. An exception raised by `progress` ends the
    ingestion; what was read or published by then stays.

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
        limits: what reading a file may cost; None for the usual.
        state_dir: our own files, which are no documents wherever they stand.
        lock_wait_s: how long to wait for another ingestion of the same store; None for as long as
            that takes.
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
    with (
        only_ingestion(index_path, vector_store_id, progress, lock_wait_s),
        closing(Passages(index_path, create=True)) as db,
    ):
        store = db.open_store(owner, vector_store_id)
        recipe = f"{RECIPE_VERSION}/{chunk_tokens}/{chunk_overlap_tokens}"
        if store.staged_recipe != recipe:
            db.stage_anew(store, recipe)
        task = Task(limits or Limits(), chunk_tokens, chunk_overlap_tokens)
        change = stage(documents, db, store, task, store.recipe != recipe, progress, but=state_dir)
        with_vectors = embed is not None and store.embed_model is not None
        if db.changes_passages(store):
            store = publish(db, store, with_vectors, progress)
        else:
            with db.transaction():
                db.take_staged(store, store.revision)
        db.set_recipe(store, recipe)
        if embed is not None:
            store = _embed(db, store, change.notes, embed, progress, publish_every_s)
        with_vectors = embed is not None and store.embed_model is not None
        there = _vectors_there(db, store, with_vectors)
        if store.revision and there != revision_files.vectors_of(
            index_path, store.id, store.revision
        ):
            store = publish(db, store, with_vectors, progress)
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
            read=change.read,
        )


@contextmanager
def only_ingestion(
    index_path: Path, vector_store_id: str, progress: Tell, wait_s: int | None
) -> Iterator[None]:
    """Hold the right to write a store; the kernel takes it back if this process dies.

    Waits for another process for `wait_s` seconds; None for as long as that lives.

    Raises:
        ConfigError: another process holds it for longer than `wait_s`.
    """
    index_path.parent.mkdir(parents=True, exist_ok=True)
    # An SQLite lock is a file lock on every platform, and waits without a loop of ours.
    lock_path = index_path.with_name(f"{vector_store_id}.lock")
    with closing(sqlite3.connect(lock_path, timeout=1, isolation_level=None)) as lock:
        for waited in count():
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


def _name_of(embed: EmbedSettings | BuiltInEmbed | Embeds) -> str:
    if isinstance(embed, EmbedSettings):
        return embed.model
    return embed.built_in if isinstance(embed, BuiltInEmbed) else embed.model_name


def _ready(embed: EmbedSettings | BuiltInEmbed | Embeds) -> Embeds:
    if not isinstance(embed, EmbedSettings | BuiltInEmbed):
        return embed
    return EmbeddingServer(embed) if isinstance(embed, EmbedSettings) else minilm.Batches()


def _embed(
    db: Passages,
    store: Store,
    notes: list[str],
    chosen: EmbedSettings | BuiltInEmbed | Embeds,
    progress: Tell,
    publish_every_s: float,
) -> Store:
    """Embed what has no vector, publish now and then, and return the store as it is then.

    Every batch is on disk before the next one is begun. The last ones are not published here.
    """
    rows = {sha: row for row, sha in db.living(store)}
    model = _name_of(chosen)
    other_model = store.embed_model not in (None, model)
    have = set() if other_model else db.embedded(store)
    missing = [sha for sha in rows if sha not in have]
    if not missing:
        return store
    embed = _ready(chosen)
    total, done = len(missing), 0
    publish_at = time.monotonic() + publish_every_s
    while missing:
        progress(Progress("embedding", done, total))
        batch, missing = missing[: embed.embed_batch_size], missing[embed.embed_batch_size :]
        try:
            texts = db.texts_of([rows[sha] for sha in batch])
            vectors = embed.get_text_embedding_batch(texts)
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
            missing = [sha for sha in rows if sha not in fresh]
            total, done, other_model = len(rows), 0, False
        made = [(sha, vector.tobytes()) for sha, vector in zip(batch, matrix, strict=True)]
        db.save_embeddings(store, model, dimensions, made)
        store = replace(store, embed_model=model, dimensions=dimensions)
        done += len(batch)
        if missing and (begun := time.monotonic()) >= publish_at:
            store = publish(db, store, True, progress)
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
    db: Passages, store: Store, with_vectors: bool, progress: Tell = lambda _: None
) -> Store:
    """Make one revision of what is staged and return the store after it.

    The caller holds `only_ingestion`. A death at any moment leaves the revision before, and what
    is staged. What takes long is done before the transaction, so that nobody waits for it.

    Args:
        db: where the store is.
        store: as it is now.
        with_vectors: whether the revision has vectors.
        progress: told before the words are indexed, and of the revision when it is published.
    """
    coming = db.coming(store)
    progress(Progress("indexing", 0, len(coming)))
    counts = revision_files.counts_of(db.path, store.id, store.revision)
    rows = np.asarray([row for row, _ in coming], np.int64)
    counts.keep(rows)
    fresh: list[int] = np.setdiff1d(rows, counts.rows, assume_unique=True).tolist()
    for start in range(0, len(fresh), COUNTED_AT_ONCE):
        some = fresh[start : start + COUNTED_AT_ONCE]
        counts.add(some, db.texts_of(some))
    vectors, embedded = None, 0
    if with_vectors and store.dimensions:
        vectors, embedded = _matrix(db, store, [sha for _, sha in coming], store.dimensions)
    unfinished = revision_files.write(
        db.path,
        store.id,
        counts,
        vectors,
        store.embed_model if with_vectors else None,
        embedded,
    )
    is_change = db.changes_passages(store)
    with db.transaction():
        number = db.next_revision()
        db.take_staged(store, number)
        revision_files.number(unfinished, db.path, store.id, number)
        db.publish(store, number, has_vectors=with_vectors)
    # More vectors make no passage superfluous: what searches that still run need stays.
    if is_change:
        with db.transaction():
            db.purge(store)
    in_use = {n for other in db.stores() for n in (other.revision, other.previous_revision)}
    revision_files.delete_old(db.path, store.id, in_use)
    progress(Progress("indexing", len(coming), len(coming), revision=number))
    return replace(
        store, revision=number, previous_revision=store.revision, has_vectors=with_vectors
    )


def _matrix(
    db: Passages, store: Store, texts: Sequence[bytes], dimensions: int
) -> tuple[revision_files.Vectors, int]:
    """Return the vectors of texts, shape (n, dimensions), zero where missing; and how many are."""
    places: dict[bytes, list[int]] = {}
    for place, sha in enumerate(texts):
        places.setdefault(sha, []).append(place)
    vectors = np.zeros((len(texts), dimensions), np.float32)
    embedded = 0
    for sha, vector in db.embeddings(store):
        if sha in places:
            vectors[places[sha]] = np.frombuffer(vector, "<f4")
            embedded += len(places[sha])
    return vectors, embedded
