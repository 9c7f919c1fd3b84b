"""The words of a revision, counted step by step, are those that `bm25s` would count at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsocket.engine.ingestion.words import (
    STOPWORDS,
    TOKEN_PATTERN,
    WordCounts,
    load_words,
    terms,
)

TEXTS = st.lists(
    st.sampled_from(
        ["dogs", "dog", "huts", "the", "wombat", "7", "\u6f22\u5b57", "Two", "x", "..."]
    ),
    max_size=12,
).map(" ".join)
# Each step drops some passages, by place, and adds others.
STEPS = st.lists(st.tuples(st.sets(st.integers(0, 9)), st.lists(TEXTS, max_size=6)), max_size=5)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_step_by_step_is_as_all_at_once(steps: list[tuple[set[int], list[str]]]) -> None:
    """After any additions and removals, saved and loaded between them, every score is the same."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        WordCounts().save(directory)
        living: dict[int, str] = {}
        row = 0
        for dropped, added in steps:
            living = {r: t for place, (r, t) in enumerate(living.items()) if place not in dropped}
            counts = WordCounts.load(directory)
            counts.keep(np.asarray(list(living), np.int64))
            fresh = {row + 2 * n: text for n, text in enumerate(added)}
            row += 2 * len(added)
            if fresh:
                counts.add(list(fresh), list(fresh.values()))
            living |= fresh
            counts.save(directory)
            assert counts.rows.tolist() == list(living)
        ours = load_words(directory, len(living))
        words = {word for text in living.values() for word in terms(text)}
        if ours is None:
            assert not words
            return
        assert words <= set(ours.vocab_dict) <= words | {""}
        theirs = bm25s.BM25()
        corpus = bm25s.tokenize(
            list(living.values()),
            token_pattern=TOKEN_PATTERN,
            stopwords=STOPWORDS,
            stemmer=Stemmer.Stemmer("english"),
            show_progress=False,
        )
        theirs.index((corpus.ids, corpus.vocab), show_progress=False)
        for word in words:
            np.testing.assert_allclose(
                ours.get_scores([word]), theirs.get_scores([word]), rtol=1e-5
            )
