"""Answers without a language model: the sentences that fit the question best, each cited.

It cannot say yes or no, combine facts or invent any; so it says what it is.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from anyio.lowlevel import checkpoint

from ragsocket.engine.base import Source, TextDelta, Turn
from ragsocket.engine.gate import Vocabulary, wants_it_shorter

LABEL = "No language model answered this. What the documents say that fits the question best:"
"""First line of every answer made of extracts."""

QUOTES = "\n\nWhat the documents say about it:"
"""Stands between a small model's answer and the sentences of the documents that fit best."""

UNANSWERED = "The documents do not seem to answer that question."
CLOSEST = f"{UNANSWERED} What comes closest to it:"
"""First line of the answer to a question that a small model takes for unanswerable."""

NO_DOCUMENTS = "There are no documents to answer from yet."
"""The whole answer while nothing has been ingested."""

ONLY_QUOTES = (
    "Without a language model I can only quote the documents; ask something that they could answer."
)
"""The whole answer to a turn about the conversation."""

SENTENCES = 4
SENTENCES_IN_DETAIL = 10
SOURCES = 5
DELTA_WORDS = 4

# A sentence that holds less of the question than this share of what the best one holds adds noise.
_WORTH = 0.4
# How much the words of the sentences beside it, and of the heading above, count.
_NEIGHBOUR = 0.2
# How much the words of earlier questions count: as much as those of the last one, extracts had the
# facts of 16 in 24 follow-ups on the sample corpus, at a third of 20.
_EARLIER = 1 / 3
# How much a place further down the list of sources costs.
_RANK = 0.1
# BM25's measure against long sentences, which hold many words of any question.
_LENGTH = 0.15
_USUAL_WORDS = 14
_LONGEST = 600
_SHORT = 60
_ENDS = ".!?…:;,。！？"

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]”»*_]*\s+(?=[^a-z\s])|(?<=[。！？])")
_NOT_AN_END = re.compile(
    r"(?:\b(?i:e\.g|i\.e|etc|cf|vs|approx|nr|fig|dr|mr|mrs|ms|prof|st|z\.b|bzw|ca)|\b[A-Z]|^\d+)"
    r"\.\s*$"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*+•>]|\d{1,3}[.)])\s+")
_HEADING = re.compile(r"^\s*#{1,6}\s+(.*?)[\s#]*$")
_RULE = re.compile(r"^[\s|:=+_*-]+$")
_MARK = re.compile(r"\s*\[\d+\]")
_WORDS = re.compile(rf"(?:\S+\s*){{1,{DELTA_WORDS}}}|\s+")


@dataclass(slots=True)
class _Sentence:
    text: str
    heading: str
    terms: set[str] = field(default_factory=set)
    length: int = 0


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A sentence, the number of its source from 1, and its place there."""

    score: float
    number: int
    place: int
    sentence: _Sentence


def extract(
    question_text: str,
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    *,
    before: str = "",
    most: int = SENTENCES,
) -> list[tuple[str, int]]:
    """Return the sentences that fit a question best, with the number of their source, from 1.

    A sentence counts by the weight of the question's words in it, a little by those in the
    sentences around it and in its heading, and less the longer it is. The best comes first.

    Args:
        question_text: the words looked for.
        sources: best first; the first five are read.
        vocabulary: weighs words.
        before: earlier questions that this one leans on; their words count less.
        most: how many sentences at most.
    """
    ranked = _ranked(question_text, before, sources, vocabulary)[:most]
    worth = ranked[0].score * _WORTH if ranked else 0.0
    return [(one.sentence.text, one.number) for one in ranked if one.score >= worth]


def evidence(
    question_text: str,
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    *,
    before: str = "",
    most: int,
    most_tokens: int,
    count: Callable[[str], int],
    apart_from: Collection[str] = (),
) -> str:
    """Return what a model with little room should read: the sentences that fit a question best.

    They stand in the order of their passage, under its headings; the passage with the best one
    comes last, where small models look first.

    Args:
        question_text: the words looked for.
        sources: best first; the first five are read.
        vocabulary: weighs words.
        before: earlier questions that this one leans on; their words count less.
        most: how many sentences at most.
        most_tokens: what they may come to; the best one is taken even if it is longer.
        count: returns the tokens of a text.
        apart_from: sentences that it has read already.
    """
    chosen: dict[int, list[_Ranked]] = {}
    left, taken = most_tokens, 0
    for one in _ranked(question_text, before, sources, vocabulary):
        if one.sentence.text in apart_from:
            continue
        cost = count(one.sentence.text) + 2
        if taken < most and (cost <= left or not taken):
            chosen.setdefault(one.number, []).append(one)
            left -= cost
            taken += 1
    blocks = []
    # Ranked best first, so the passage met first is the one with the best sentence.
    for ones in reversed(chosen.values()):
        lines: list[str] = []
        heading = ""
        for one in sorted(ones, key=lambda one: one.place):
            if one.sentence.heading not in ("", heading):
                heading = one.sentence.heading
                lines.append(f"{heading}:")
            lines.append(one.sentence.text)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def answer_text(extracts: Sequence[tuple[str, int]], *, label: str = LABEL) -> str:
    """Return the answer made of extracts: what it is, then a list with a mark after each."""
    return "\n".join([label, "", *(f"- {text} [{number}]" for text, number in extracts)])


def without_quotes(text: str) -> str:
    """Return an answer without the documents' words below `QUOTES` or `CLOSEST`."""
    if text.startswith(CLOSEST):
        return UNANSWERED
    return text.partition(QUOTES)[0].rstrip()


def conversation_text(turns: Sequence[Turn]) -> str:
    """Return what can be said, without a model, to a turn about the conversation itself.

    For "shorter" that is the first extract of the last answer, without its mark, which would
    name a source that this answer does not have.
    """
    answers = [turn.text for turn in turns if turn.role == "assistant"]
    if answers and wants_it_shorter(turns[-1].text):
        lines = [line for line in answers[-1].splitlines() if line.startswith("- ")]
        if lines:
            return _MARK.sub("", lines[0].removeprefix("- "))
    return ONLY_QUOTES


async def spoken(text: str) -> AsyncGenerator[TextDelta]:
    """Yield a text a few words at a time, with a chance to be stopped before each."""
    for match in _WORDS.finditer(text):
        await checkpoint()
        yield TextDelta(match.group(), tokens=len(match.group().split()) or 1)


def _ranked(
    question_text: str, before: str, sources: Sequence[Source], vocabulary: Vocabulary
) -> list[_Ranked]:
    """Return every sentence of the first sources once, the best first."""
    weights = vocabulary.term_weights(question_text)
    for term, weight in vocabulary.term_weights(before).items():
        weights.setdefault(term, weight * _EARLIER)
    ranked: list[_Ranked] = []
    seen: set[str] = set()
    for number, source in enumerate(sources[:SOURCES], 1):
        sentences = _sentences(source.text, vocabulary)
        for place, sentence in enumerate(sentences):
            key = " ".join(sentence.text.casefold().split())
            if key in seen:
                continue
            seen.add(key)
            score = _score(sentences, place, weights, vocabulary) / (1 + _RANK * (number - 1))
            ranked.append(_Ranked(score, number, place, sentence))
    ranked.sort(key=lambda one: (-one.score, one.number, one.place))
    return ranked


def _score(
    sentences: Sequence[_Sentence],
    place: int,
    weights: dict[str, float],
    vocabulary: Vocabulary,
) -> float:
    sentence = sentences[place]
    own = weights.keys() & sentence.terms
    if not own:
        return 0.0
    around = set(vocabulary.terms(sentence.heading))
    for other in (place - 1, place + 1):
        if 0 <= other < len(sentences):
            around |= sentences[other].terms
    near = (weights.keys() & around) - own
    length = 1 - _LENGTH + _LENGTH * max(sentence.length, _USUAL_WORDS / 2) / _USUAL_WORDS
    return (
        sum(weights[term] for term in own) + _NEIGHBOUR * sum(weights[term] for term in near)
    ) / length


def _sentences(text: str, vocabulary: Vocabulary) -> list[_Sentence]:
    sentences = []
    for sentence, heading in _split(text):
        terms = vocabulary.terms(sentence)
        if terms:
            sentences.append(_Sentence(sentence, heading, set(terms), len(terms)))
    return sentences


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield (sentence, heading above it).

    Things that say nothing alone stay together: a list with the sentence that announces it, and
    names with values that stand in paragraphs of their own. A short line before a paragraph is
    its heading.
    """
    heading = ""
    short: list[str] = []
    blocks = [*_blocks(text), ("end", "")]
    number = 0
    while number < len(blocks):
        kind, block = blocks[number]
        number += 1
        if kind == "short":
            short.append(block)
            continue
        if len(short) > 1:
            heading = short[0]
            yield from ((one, heading) for one in _bounded(" · ".join(short)))
        elif short:
            heading = short[0]
        short = []
        if kind == "heading":
            heading = block
        elif kind == "row":
            yield block, heading
        elif kind in ("paragraph", "item"):
            *before, last = [*_of_paragraph(block)]
            yield from ((one, heading) for one in before)
            joint = " "
            while last.endswith(":") or joint == "; ":
                if blocks[number][0] != "item" or len(last + blocks[number][1]) > _LONGEST:
                    break
                last += joint + blocks[number][1].rstrip(".;,")
                joint = "; "
                number += 1
            yield last, heading


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text): heading, row of a table, item of a list, paragraph, or short line."""
    header: list[str] = []
    open_block: list[str] = []
    kind = ""
    lines = text.splitlines()
    for number, line in enumerate([*lines, ""]):
        bare = line.strip()
        is_row = bare.startswith("|") and bare.endswith("|") and len(bare) > 1
        is_heading = _HEADING.match(line)
        is_item = _LIST_MARK.match(line)
        if open_block and (not bare or is_row or is_heading or is_item):
            block = " ".join(open_block)
            if len(block) <= _SHORT and block[-1] not in _ENDS:
                # Plain text marks its headings by capitals, often after a number.
                kind = "heading" if block.isupper() else "short" if kind == "paragraph" else kind
            yield kind, block
            open_block = []
        if not is_row:
            header = []
        if _RULE.match(bare):
            continue
        if is_heading:
            yield "heading", is_heading[1]
        elif is_row:
            cells = [cell.strip() for cell in bare.strip("|").split("|")]
            if number + 1 < len(lines) and _RULE.match(lines[number + 1].strip()):
                header = cells
            else:
                yield "row", _row(cells, header)
        elif bare:
            if not open_block:
                kind = "item" if is_item else "paragraph"
            open_block.append(_LIST_MARK.sub("", line).strip() or bare)


def _row(cells: Sequence[str], header: Sequence[str]) -> str:
    if len(header) != len(cells):
        return ", ".join(cell for cell in cells if cell)
    named = [
        f"{name}: {cell}" if name else cell
        for name, cell in zip(header, cells, strict=True)
        if cell
    ]
    return "; ".join(named)


def sentence_ends(text: str) -> Iterator[int]:
    """Yield where the sentences of a paragraph end, white space behind them included.

    The last one ends with the paragraph, which is not said.
    """
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _NOT_AN_END.search(text[start : match.end()].rstrip()):
            start = match.end()
            yield start


def _of_paragraph(text: str) -> Iterator[str]:
    start = 0
    for end in sentence_ends(text):
        yield from _bounded(text[start:end].strip())
        start = end
    yield from _bounded(text[start:].strip())


def _bounded(sentence: str) -> Iterator[str]:
    while len(sentence) > _LONGEST:
        cut = sentence.rfind(" ", 1, _LONGEST)
        cut = cut if cut > 0 else _LONGEST
        yield sentence[:cut]
        sentence = sentence[cut:].strip()
    if sentence:
        yield sentence
