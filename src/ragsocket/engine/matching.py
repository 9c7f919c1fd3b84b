"""Finds the passages that an answer without marks rests on: afterwards, sentence by sentence. Pure.

Many small models set no marks, however they are asked. A sentence whose words stand in a passage
most likely comes from there. That is a guess by words, so what comes of it says that it is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ragsocket.engine.base import Citation, Source
from ragsocket.engine.extractive import sentence_ends
from ragsocket.engine.gate import Vocabulary

_HELD = 0.7
"""Share of a sentence's words, by weight, that a passage must hold; measured, docs/retrieval.md."""
_FEWEST_WORDS = 3
_FENCE = "```"
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def match(
    text: str, sources: Sequence[Source], vocabulary: Vocabulary, *, start: int = 0
) -> list[Citation]:
    """Return a citation at the end of each sentence that a passage holds, in order.

    It is the passage that holds most of the sentence's words by their weight, if that is enough,
    and all of its numbers. Sentences of one or two words and code cite nothing.

    Args:
        text: what the model said.
        sources: best first.
        vocabulary: weighs words.
        start: where the text begins in the answer, in code points.
    """
    held = [set(vocabulary.terms(source.text)) for source in sources]
    numbers = [set(_NUMBER.findall(source.text)) for source in sources]
    found = []
    for begin, end in _sentences(text):
        sentence = text[begin:end]
        weights = vocabulary.term_weights(sentence)
        if len(weights) < _FEWEST_WORDS:
            continue
        said = set(_NUMBER.findall(sentence))
        shares = [
            sum(weights[term] for term in weights.keys() & words) if said <= has else 0.0
            for words, has in zip(held, numbers, strict=True)
        ]
        best = max(shares, default=0.0)
        if best >= _HELD * sum(weights.values()):
            place = shares.index(best)
            found.append(Citation(sources[place], start + end, place + 1, matched=True))
    return found


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each sentence, white space behind it left out."""
    at, in_code = 0, False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith(_FENCE):
            in_code = not in_code
        elif not in_code:
            begin = 0
            for end in (*sentence_ends(line), len(line)):
                if sentence := line[begin:end].rstrip():
                    yield at + begin, at + begin + len(sentence)
                begin = end
        at += len(line)
