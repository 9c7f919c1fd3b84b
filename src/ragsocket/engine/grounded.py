"""Answers of a small model on this machine: what it reads, and what stands below its words.

Such a model reads slowly, follows one rule at a time and misreads long texts. So it is shown
single sentences; it is asked first whether they hold the answer, if it is one that can tell; and
below its answer stand the documents' own words, cited, for a reader to compare.

**The prompt begins as it did last time**, so that the model, which keeps the prompts it has read,
reads only what is new. A conversation is handed over as text alone; so each earlier question gets
its sentences anew, by the same search, and a later one only those that were not shown yet. What
grows too long begins again, with the exchange before as it was said.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ragsocket.engine.base import LimitReached, ModelEvent, Question, Turn, Usage
from ragsocket.engine.extractive import (
    CLOSEST,
    LABEL,
    QUOTES,
    SENTENCES_IN_DETAIL,
    answer_text,
    evidence,
    extract,
    spoken,
    without_quotes,
)
from ragsocket.engine.gate import ASSENT_PER_SCORE, REFUSAL, leans_on_history, wants_detail
from ragsocket.engine.index import SearchResult
from ragsocket.engine.models.local import LocalModel
from ragsocket.engine.prompt import (
    ASSENT,
    BRIEFLY,
    IN_DETAIL,
    Profile,
    build_messages,
    count_messages,
    estimate_tokens,
    question_of,
    with_evidence,
)
from ragsocket.engine.query import search_query
from ragsocket.engine.token_stream import Message, TokenStream
from ragsocket.settings import Settings

Parts = AsyncGenerator[ModelEvent]
Search = Callable[[Question], Awaitable[SearchResult | None]]

SENTENCES = 12
"""How many sentences the first question is shown at most."""

NEW_SENTENCES = 4
"""How many that it was not shown yet a later question gets. They are the best for what it asks, and
each has to be read before the answer begins."""

QUOTED = 4
"""How many sentences of the documents stand below an answer."""

EXCHANGES = 8
"""Exchanges of which a prompt holds at least so many, if they fit, and less than twice as many.
In steps, since every other beginning has to be read anew."""


@dataclass(slots=True)
class _Read:
    """What the model has read so far, as turns.

    Attributes:
        turns: with the sentences in them.
        lines: of the sentences.
        tokens: of all of it.
    """

    turns: list[Turn] = field(default_factory=list)
    lines: set[str] = field(default_factory=set)
    tokens: int = 0

    def take(self, turn: Turn) -> None:
        """Add a turn."""
        self.turns.append(turn)
        self.tokens += estimate_tokens(turn.text)


class SmallModel:
    """Answers through a small model.

    Args:
        tokens: the model.
        profile: how much it may read.
        settings: the operator's choices.
        search: finds what the last turn of a question is answered from; None if it is not
            searched for.
    """

    def __init__(
        self, tokens: TokenStream, profile: Profile, settings: Settings, search: Search
    ) -> None:
        self._tokens = tokens
        self._profile = profile
        self._settings = settings
        self._search = search

    async def answer(self, question: Question, found: SearchResult | None) -> Parts:
        """Yield the model's answer and the documents' words; or those alone if it sees no answer.

        Args:
            question: what is asked.
            found: what its last turn is answered from, or None.

        Raises:
            RequestError: the question is too long, or a search cannot be done.
            EngineError: the model could not be asked, or did not finish.
        """
        asked = question_of(question.turns)
        detailed = wants_detail(asked)
        read = await self._read_before(question)
        quotes: list[tuple[str, int]] = []
        task = text = ""
        if found is not None:
            task = IN_DETAIL if detailed else BRIEFLY
            text = self._sentences(question, found, read)
            quotes = extract(
                asked,
                found.sources,
                found.snapshot,
                before=_leans_on(question, found),
                most=SENTENCES_IN_DETAIL if detailed else QUOTED,
            )
        messages = self._messages(question, read, text, task)
        yield Usage(count_messages(messages), 0, estimated=True)
        if found is not None and quotes:
            if not await self._can_answer(question, found, read, text):
                async with aclosing(spoken(answer_text(quotes, label=CLOSEST))) as words:
                    async for word in words:
                        yield word
                return
        stream = self._tokens.stream(messages, model=question.model, sampling=question.sampling)
        whole = True
        async with aclosing(stream) as events:
            async for event in events:
                whole = whole and not isinstance(event, LimitReached)
                yield event
        if whole and quotes:
            async with aclosing(spoken(answer_text(quotes, label=QUOTES))) as words:
                async for word in words:
                    yield word

    async def _can_answer(
        self, question: Question, found: SearchResult, read: _Read, text: str
    ) -> bool:
        """Ask the model whether it was shown the answer, if it is one that can tell."""
        if not isinstance(self._tokens, LocalModel):
            return True
        chosen = self._settings.gate_min_assent
        least = self._tokens.min_assent if chosen is None else chosen
        if least is None:
            return True
        sure = await self._tokens.assent(self._messages(question, read, text, ASSENT))
        return sure + ASSENT_PER_SCORE * max(s.score for s in found.sources) >= least

    async def _read_before(self, question: Question) -> _Read:
        """Return the turns before the last one as the model read them when they were asked."""
        turns = question.turns
        read = _Read()
        for place in range(_begin(turns), len(turns) - 1):
            turn = turns[place]
            if turn.role == "assistant":
                read.take(_as_given(turn))
                continue
            follows = turns[place + 1]
            if follows.role == "user" or follows.text.startswith((REFUSAL, LABEL)):
                # The model was not asked.
                read.take(turn)
                continue
            then = replace(question, turns=turns[: place + 1])
            found = await self._search(then)
            if found is None or not found.sources:
                read.take(turn)
                continue
            text = self._sentences(then, found, read)
            task = IN_DETAIL if wants_detail(turn.text) else BRIEFLY
            read.take(replace(turn, text=with_evidence(turn.text, text, task)))
        return read

    def _sentences(self, question: Question, found: SearchResult, read: _Read) -> str:
        """Return what the last turn of a question is shown; what was read may begin again."""
        room = self._profile.evidence_tokens
        if read.tokens + room > self._profile.context_tokens * 3 // 2:
            before = [_as_given(turn) for turn in question.turns[:-1][-2:]]
            read.turns, read.lines, read.tokens = [], set(), 0
            for turn in before:
                read.take(turn)
        first = not read.lines
        text = evidence(
            question_of(question.turns),
            found.sources,
            found.snapshot,
            before=_leans_on(question, found),
            most=SENTENCES if first else NEW_SENTENCES,
            most_tokens=room if first else room // 4,
            count=estimate_tokens,
            apart_from=read.lines,
        )
        read.lines |= set(text.splitlines())
        return text

    def _messages(self, question: Question, read: _Read, text: str, task: str) -> list[Message]:
        last = question.turns[-1]
        if task:
            last = replace(last, text=with_evidence(last.text, text, task))
        return build_messages(
            replace(question, turns=[*read.turns, last]),
            budget_tokens=self._profile.most_context_tokens,
            first_instructions=self._profile.instructions,
            operator_instructions=self._settings.instructions,
        )


def _leans_on(question: Question, found: SearchResult) -> str:
    """Return the questions that the last one leans on, and it; nothing if it stands alone."""
    leans = leans_on_history(question_of(question.turns), found.snapshot)
    return search_query(question.turns) if leans else ""


def _begin(turns: Sequence[Turn]) -> int:
    """Return the place of the first turn that is read."""
    asks = [
        place
        for place, turn in enumerate(turns)
        if turn.role == "user" and (not place or turns[place - 1].role == "assistant")
    ]
    return asks[max(0, len(asks) // EXCHANGES - 1) * EXCHANGES] if asks else 0


def _as_given(turn: Turn) -> Turn:
    """Return an answer as its model gave it; one that was cut in the quotes was whole by then."""
    text = without_quotes(turn.text)
    return turn if text == turn.text else replace(turn, text=text, cut=False)
