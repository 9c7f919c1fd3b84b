"""Which passages say the same as others. Pure.

Copies of a page under another name, a chapter that two books share, a page with another footer:
each would take the place of a passage that says something new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_ALIKE = 0.9
_TRIPLE = 3
_WORD = re.compile(r"\w+")


class _Print(NamedTuple):
    """What a text is known by: its triples of words, and the words with digits in them."""

    triples: frozenset[int]
    numbers: frozenset[str]


def without_doubles(texts: Sequence[str], most: int) -> Iterator[int]:
    """Yield the places of up to `most` texts, the first of each that say the same.

    Two say the same if they have the same numbers in them and nine tenths of their word triples
    in common. A page and next year's page, with other prices, do not.

    Args:
        texts: the best first.
        most: how many at most.
    """
    kept: list[_Print] = []
    for place, text in enumerate(texts):
        if len(kept) == most:
            return
        own = _print(text)
        if not any(_alike(own, other) for other in kept):
            kept.append(own)
            yield place


def _print(text: str) -> _Print:
    words = _WORD.findall(text.casefold())
    # A text of few words, or of none, is known by all of it.
    whole = [" ".join(words or text.split())]
    triples = zip(words, words[1:], words[2:], strict=False) if len(words) >= _TRIPLE else whole
    numbers = (word for word in words if not word.isalpha())
    return _Print(frozenset(map(hash, triples)), frozenset(numbers))


def _alike(one: _Print, other: _Print) -> bool:
    few, many = sorted((len(one.triples), len(other.triples)))
    # Most pairs differ in length already.
    if few < _ALIKE * many or one.numbers != other.numbers:
        return False
    both = len(one.triples & other.triples)
    return both >= _ALIKE * (few + many - both)
