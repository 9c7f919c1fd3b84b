"""Words of passages: how texts are taken apart, and the BM25 index that is made of them.

How often each word stands in each passage is kept with a revision. The next one counts the words
of new passages alone; everything else, which depends on all passages, is a few operations on
arrays. `bm25s` does the rest: what is written here it would have computed itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from bm25s.stopwords import STOPWORDS_EN_PLUS

STOPWORDS = (*STOPWORDS_EN_PLUS, "could", "would", "please", "many", "much")
# Words of two characters and more, and single digits: prices and paragraph numbers are asked for.
TOKEN_PATTERN = r"(?u)\b(?:\w\w+|\d)\b"

# A single call of the interpreter holds up everybody else; this many words take it a millisecond.
_AT_ONCE = 10_000


def terms(text: str) -> list[str]:
    """Return the stemmed content words of a text in order, without stopwords."""
    # A stemmer must not be shared by threads; making one takes a microsecond.
    words: list[list[str]] = bm25s.tokenize(
        text,
        token_pattern=TOKEN_PATTERN,
        stopwords=STOPWORDS,
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )
    return words[0]


def idf(passages_with_term: int, passages: int) -> float:
    """Return a term's weight, as Lucene and `bm25s` compute it; above 0 for any counts."""
    rest = passages - passages_with_term
    return math.log(1 + (rest + 0.5) / (passages_with_term + 0.5))


class WordCounts:
    """How often each word stands in each of n passages.

    Attributes:
        rows: row id of each passage, ascending, shape (n,).
    """

    def __init__(self) -> None:
        self.rows: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._known: dict[str, int] = {}
        # Words of each passage with repeats, where its entries begin, and word and count of each.
        self._lengths: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._sizes: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._words: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._counts: npt.NDArray[np.int32] = np.zeros(0, np.int32)

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Drop all passages but those of these row ids."""
        stays = np.isin(self.rows, rows)
        if not stays.all():
            entries = np.repeat(stays, self._sizes)
            self.rows, self._lengths = self.rows[stays], self._lengths[stays]
            self._sizes = self._sizes[stays]
            self._words, self._counts = self._words[entries], self._counts[entries]

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Add passages, whose row ids are larger than those that are there."""
        found = bm25s.tokenize(
            list(texts),
            token_pattern=TOKEN_PATTERN,
            stopwords=STOPWORDS,
            stemmer=Stemmer.Stemmer("english"),
            show_progress=False,
        )
        known = self._known
        places = np.asarray(
            [
                known.setdefault(word, len(known))
                for word, _ in sorted(found.vocab.items(), key=itemgetter(1))
            ],
            np.int64,
        )
        lengths = np.asarray([len(ids) for ids in found.ids], np.int64)
        words = np.asarray([word for ids in found.ids for word in ids], np.int64)
        passages = np.repeat(np.arange(len(rows)), lengths)
        entries, counts = np.unique(passages << 32 | places[words], return_counts=True)
        self.rows = np.concatenate([self.rows, np.asarray(rows, np.int64)])
        self._lengths = np.concatenate([self._lengths, lengths])
        sizes = np.bincount(entries >> 32, minlength=len(rows))
        self._sizes = np.concatenate([self._sizes, sizes])
        self._words = np.concatenate([self._words, (entries & 0xFFFFFFFF).astype(np.int32)])
        self._counts = np.concatenate([self._counts, counts.astype(np.int32)])

    def _forget_unused(self) -> None:
        used = np.bincount(self._words, minlength=len(self._known)) > 0
        if not used.all():
            places = (np.cumsum(used) - 1).astype(np.int32)
            self._words = places[self._words]
            self._known = {
                word: int(places[place]) for word, place in self._known.items() if used[place]
            }

    def save(self, directory: Path) -> None:
        """Write counts and BM25 index into a directory."""
        self._forget_unused()
        arrays: tuple[npt.NDArray[Any], ...] = (
            self.rows,
            self._lengths,
            self._sizes,
            self._words,
            self._counts,
        )
        for name, array in zip((*_COUNTS, *_INDEX), (*arrays, *self._index()), strict=True):
            np.save(directory / f"{name}.npy", array)
        vocabulary = "\n".join(self._known)
        (directory / "vocabulary.txt").write_text(vocabulary, encoding="utf-8", newline="\n")

    def _index(
        self,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return weights, passages and begins, word after word, as `bm25s` has them."""
        count = len(self.rows)
        having = np.bincount(self._words, minlength=len(self._known))
        model = bm25s.BM25()
        weights = np.log(1 + (count - having + 0.5) / (having + 0.5))
        shares = self._lengths / max(self._lengths.mean(), 1e-9) if count else self._lengths
        room = np.repeat(model.k1 * (1 - model.b + model.b * shares), self._sizes)
        scores = (weights[self._words] * self._counts / (room + self._counts)).astype(np.float32)
        passages = np.repeat(np.arange(count, dtype=np.int32), self._sizes)
        # Entries come passage by passage, so a stable sort leaves those of a word in order.
        order = np.argsort(self._words, kind="stable")
        begins = np.concatenate([[0], np.cumsum(having)]).astype(np.int64)
        return scores[order], passages[order], begins

    @classmethod
    def load(cls, directory: Path) -> WordCounts:
        """Read what `save` wrote.

        Raises:
            OSError: there is nothing, or it cannot be read.
            ValueError: it is damaged.
        """
        counts = cls()
        counts.rows, counts._lengths, counts._sizes, counts._words, counts._counts = (
            np.load(directory / f"{name}.npy") for name in _COUNTS
        )
        counts._known = _vocabulary(directory)
        return counts


_COUNTS = ("rows", "lengths", "sizes", "words", "counts")
_INDEX = ("weights", "passages", "begins")


def _vocabulary(directory: Path) -> dict[str, int]:
    words = (directory / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    known: dict[str, int] = {}
    if words != [""]:
        for start in range(0, len(words), _AT_ONCE):
            some = words[start : start + _AT_ONCE]
            known.update(zip(some, range(start, start + len(some)), strict=True))
    return known


def load_words(directory: Path, passages: int) -> bm25s.BM25 | None:
    """Read the BM25 index of a revision; None if it has no word at all.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is damaged.
    """
    known = _vocabulary(directory)
    weights, found, begins = (np.load(directory / f"{name}.npy") for name in _INDEX)
    if not known:
        return None
    model = bm25s.BM25()
    model.scores = {"data": weights, "indices": found, "indptr": begins, "num_docs": passages}
    model.vocab_dict = known
    model.unique_token_ids_set = range(len(known))
    model.nonoccurrence_array = None
    return model
