"""The files of one index revision: word index, vectors, and which passage each row is.

A revision stands in a directory of its own beside the SQLite file, named
`bm25-<vector store>-<revision>`. It is written elsewhere and renamed into place, so that a
directory of that name is always whole. Written by the ingestion, read by searches.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from ragsocket.engine.ingestion.words import WordCounts, idf, load_words, terms
from ragsocket.errors import ConfigError

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Places = npt.NDArray[np.bool_]

STORE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

# A cosine counts from this share of the way between the average passage's and 1: models differ in
# where unrelated texts lie, and so do folders.
_RELATED = 0.2
# Passages of cosine 0 that are counted along: the few of a small folder may all be to the point.
_UNRELATED = 10

_META = "revision.json"
_FORMAT = 2


def directory(index_path: Path, vector_store_id: str, revision: int) -> Path:
    """Return where a revision of a store stands."""
    return index_path.parent / f"bm25-{vector_store_id}-{revision}"


@dataclass(frozen=True, eq=False)
class Revision:
    """One revision of one vector store, in memory and immutable.

    Attributes:
        owner: whose store it is.
        vector_store_id: the store.
        number: the index revision, from 1.
        rows: row id in the SQLite file for each of n passages, ascending, shape (n,).
        vectors: one unit vector per passage, shape (n, dimensions), a zero vector where one is
            missing; None if the revision has none.
        embed_model: name of the model that made the vectors, or None.
        embedded: how many of the vectors are not missing.
        words: the BM25 index in the order of `rows`; None if there is no word at all.
    """

    owner: str
    vector_store_id: str
    number: int
    rows: Rows
    vectors: Vectors | None
    embed_model: str | None
    embedded: int
    words: bm25s.BM25 | None

    def passages_with(self, term: str) -> int:
        """Return how many passages hold a stemmed word."""
        if self.words is None or (column := self.words.vocab_dict.get(term)) is None:
            return 0
        starts = self.words.scores["indptr"]
        return int(starts[column + 1] - starts[column])

    @cached_property
    def max_idf(self) -> float:
        """Weight of a word that only one passage holds, and of words that none does."""
        return idf(1, max(len(self.rows), 1))

    def places_of(self, rows: Sequence[int]) -> Rows:
        """Return the places in `rows`, from 0, of those of these row ids that are there."""
        wanted = np.asarray(rows, dtype=np.int64)
        places = np.searchsorted(self.rows, wanted)
        there = places < len(self.rows)
        there[there] = self.rows[places[there]] == wanted[there]
        found: Rows = places[there]
        return found

    def search_words(
        self, query: str, count: int, among: Places | None = None
    ) -> list[tuple[int, float]]:
        """Return up to `count` (row id, score 0 to 1), best first, for passages with a hit.

        The score is BM25 divided by what a passage would reach that is full of every query word.

        Args:
            query: free text.
            count: how many at most.
            among: the passages that may be found, shape (n,); None for all.
        """
        wanted = terms(query)
        if self.words is None or not wanted:
            return []
        # `bm25s` leaves out the factor k1 + 1, so idf itself bounds a word's part of the score.
        bound = sum(
            idf(found, len(self.rows)) if (found := self.passages_with(term)) else self.max_idf
            for term in wanted
        )
        places, scores = self.words.retrieve(
            [wanted],
            k=min(count, len(self.rows)),
            weight_mask=None if among is None else among.astype(np.float32),
            show_progress=False,
            backend_selection="numpy",
        )
        return [
            (int(self.rows[place]), min(1.0, float(score) / bound))
            for place, score in zip(places[0], scores[0], strict=True)
            if score > 0
        ]

    def search_vectors(
        self, query: Sequence[float], count: int, among: Places | None = None
    ) -> list[tuple[int, float]]:
        """Return up to `count` (row id, score 0 to 1), best first; exact, by cosine.

        The score is 0 for a passage not much closer to the query than the average one, and 1 for
        the same direction, so that it can be held beside the score for words.

        Args:
            query: `dimensions` numbers of any length but zero.
            count: how many at most.
            among: the passages that may be found, shape (n,); None for all.
        """
        if self.vectors is None or not len(self.rows):
            return []
        wanted = unit(np.asarray([query], dtype=np.float32))[0]
        # Not `@`: on busy cores its threads wait for each other, 8 ms in place of 0.6 at 10,000.
        cosines = np.vecdot(self.vectors, wanted)
        average = float(cosines.sum()) / (self.embedded + _UNRELATED)
        floor = average + _RELATED * (1 - average)
        count = min(count, len(cosines))
        if among is not None:
            cosines = np.where(among, cosines, -np.inf)
        best = np.argpartition(cosines, -count)[-count:]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [
            (int(self.rows[i]), min(1.0, max(0.0, (float(cosines[i]) - floor) / (1 - floor))))
            for i in best
            if float(cosines[i]) > 0
        ]


def unit(vectors: Vectors) -> Vectors:
    """Return vectors, shape (n, dimensions), scaled to length 1; zero vectors stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def write(
    index_path: Path,
    vector_store_id: str,
    counts: WordCounts,
    vectors: Vectors | None,
    embed_model: str | None,
    embedded: int,
) -> Path:
    """Write a revision that has no number yet, durably; returns its directory, see `number`.

    Args:
        index_path: the SQLite file.
        vector_store_id: the store.
        counts: rows and words of n passages.
        vectors: shape (n, dimensions), or None.
        embed_model: name of the model that made the vectors.
        embedded: how many of the vectors are not missing.
    """
    unfinished = directory(index_path, vector_store_id, 0).with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts.save(unfinished)
    if vectors is not None:
        np.save(unfinished / "vectors.npy", unit(vectors))
    meta = {
        "format": _FORMAT,
        "vectors": vectors is not None,
        "embed_model": embed_model,
        "embedded": embedded,
    }
    (unfinished / _META).write_text(json.dumps(meta), encoding="utf-8")
    for path in [*unfinished.iterdir(), unfinished]:
        _sync(path)
    return unfinished


def number(unfinished: Path, index_path: Path, vector_store_id: str, revision: int) -> None:
    """Give a revision that was written its number; an unpublished one of that number goes."""
    target = directory(index_path, vector_store_id, revision)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    _sync(target.parent)


def counts_of(index_path: Path, vector_store_id: str, number: int) -> WordCounts:
    """Return rows and words of a revision, so that the next one counts only what is new.

    Empty if there is no such revision, or it cannot be read.
    """
    source = directory(index_path, vector_store_id, number)
    try:
        if json.loads((source / _META).read_bytes())["format"] == _FORMAT:
            return WordCounts.load(source)
    except (ValueError, KeyError, TypeError, EOFError, OSError):
        pass
    return WordCounts()


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # directories on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(index_path: Path, owner: str, vector_store_id: str, number: int) -> Revision:
    """Read a revision into memory.

    Raises:
        FileNotFoundError: there is no such revision (any more).
        ConfigError: its files are damaged.
    """
    source = directory(index_path, vector_store_id, number)
    written = (source / _META).read_bytes()
    try:
        meta = json.loads(written)
        if meta["format"] != _FORMAT:
            raise ValueError(f"format {meta['format']}")
        rows = np.load(source / "rows.npy")
        return Revision(
            owner=owner,
            vector_store_id=vector_store_id,
            number=number,
            rows=rows,
            vectors=np.load(source / "vectors.npy") if meta["vectors"] else None,
            embed_model=meta["embed_model"],
            embedded=meta.get("embedded", 0),
            words=load_words(source, len(rows)),
        )
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        if not source.is_dir():
            raise FileNotFoundError(source) from error
        raise ConfigError(
            f"the index files in {source} are damaged: delete that directory and ingest again."
        ) from error


def vectors_of(index_path: Path, vector_store_id: str, number: int) -> tuple[str | None, int]:
    """Return a revision's embedding model and how many of its passages have a vector.

    (None, 0) if it has no vectors, (None, -1) if there is no such revision or it does not say.
    """
    try:
        meta = json.loads((directory(index_path, vector_store_id, number) / _META).read_bytes())
        return meta["embed_model"], int(meta["embedded"])
    except (ValueError, KeyError, TypeError, OSError):
        return None, -1


def delete_old(index_path: Path, vector_store_id: str, keep: Collection[int]) -> None:
    """Delete a store's revisions other than `keep`, and unfinished ones."""
    kept = {directory(index_path, vector_store_id, number).name for number in keep}
    pattern = re.compile(rf"bm25-{re.escape(vector_store_id)}-\d+(?:\.tmp)?")
    for path in index_path.parent.iterdir():
        if pattern.fullmatch(path.name) and path.name not in kept:
            # Renamed first, so that a reader finds a whole directory or none.
            doomed = path.with_suffix(".tmp")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
