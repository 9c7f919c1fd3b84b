"""What came of questions, in figures. Pure.

A *place* is where an answer stands: a file, or words that the right passage holds. Ranks count
passages, so two of one file take two.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ragsocket.errors import ConfigError

RANKS = 10
"""How many passages a search is asked for, so that MRR@10 can be told."""

Figures = dict[str, float | None]
Result = Mapping[str, Any]
"""A passage as the socket gives it: `filename`, `text`."""

SAYS_NO = re.compile(
    r"(documents?|passages?|text|context|sources?)[^.]{0,40} (do(es)? not|don't|doesn't|cannot)"
    r"|not (mentioned|stated|specified|provided|given|in the (documents?|passages?))"
    r"|no (information|mention|answer)|(do not|don't|cannot|can't) (know|answer|find)",
    re.IGNORECASE,
)
"""How models and this server say that the documents do not answer."""


class Record(BaseModel):
    """One question of the file.

    Attributes:
        question: what is asked last.
        kind: a name that tables group by.
        file: the file that the answer stands in; null if there is none.
        files: several of those.
        passages: words that the right passages hold, in place of files.
        facts: what a right answer holds; bars part alternatives.
        history: the messages before.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: str
    kind: str = "fact"
    file: str | None = None
    files: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    history: tuple[dict[str, str], ...] = ()

    @property
    def is_follow_up(self) -> bool:
        """Whether the user said something before."""
        return any(turn.get("role", "user") == "user" for turn in self.history)

    @property
    def places(self) -> int:
        """How many places the answer stands in; 0 if none is named."""
        return len(self.passages or self._files)

    @property
    def _files(self) -> frozenset[str]:
        return frozenset((*self.files, *((self.file,) if self.file else ())))

    def held(self, results: Iterable[Result]) -> set[str]:
        """Return the places that some of these passages are."""
        if self.passages:
            texts = [_plain(result["text"]) for result in results]
            return {one for one in self.passages if any(_plain(one) in text for text in texts)}
        return {result["filename"] for result in results} & self._files


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a search found, held against the places.

    Attributes:
        recalls: share of the places among the first k passages, by k; empty if none is named.
        reciprocal: one divided by the rank of the first passage that is a place, 0 if none of the
            first ten is; None if none is named.
        search_ms: the time that the search took.
    """

    recalls: Mapping[int, float]
    reciprocal: float | None
    search_ms: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one question.

    Attributes:
        status: of the response, or the code of the error.
        found: the files of the sources, best first.
        ranking: what the search found.
        facts_held: whether the answer holds every fact; None if none is expected.
        refused: whether the answer says that the documents do not answer.
        citations_right: share of the citations that name one of the places; None without
            citations or places.
        ttft_ms: to the first text.
        tokens_per_s: while it was written; None for fewer than two tokens.
    """

    question: str
    kind: str
    status: str
    text: str
    found: tuple[str, ...]
    ranking: Ranking = field(default_factory=lambda: Ranking({}, None, None))
    facts_held: bool | None = None
    refused: bool = False
    citations_right: float | None = None
    ttft_ms: float | None = None
    tokens_per_s: float | None = None


def read(path: Path) -> list[Record]:
    """Return the records of a file.

    Raises:
        ConfigError: it cannot be read, or a line is not a record; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records.append(RECORD.validate_json(line))
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(str(part) for part in fault["loc"])
                raise ConfigError(f"{path}, line {number}: {where} {fault['msg']}") from None
    if not records:
        raise ConfigError(f"{path} holds no questions: write one JSON object per line.")
    return records


def ranked(
    record: Record, results: Sequence[Result], search_ms: float | None, *, ks: Iterable[int]
) -> Ranking:
    """Hold what a search found against the places of a record.

    Args:
        record: what was asked.
        results: the passages, best first, ten of them if there are so many.
        search_ms: the time that the search took.
        ks: numbers of passages to count the places among.
    """
    if not record.places:
        return Ranking({}, None, search_ms)
    recalls = {k: len(record.held(results[:k])) / record.places for k in ks}
    hits = (rank for rank, one in enumerate(results[:RANKS], 1) if record.held([one]))
    first = next(hits, None)
    return Ranking(recalls, 1 / first if first else 0.0, search_ms)


def outcome(record: Record, response: Mapping[str, Any], ranking: Ranking) -> Outcome:
    """Hold an answer against a record.

    Args:
        record: what was asked.
        response: the Response as the socket gives it; of an error, `status` its code.
        ranking: what a search of ten passages found.
    """
    results: list[Result] = []
    citations: list[Mapping[str, Any]] = []
    text = ""
    for item in response["output"]:
        if item["type"] == "message":
            text += "".join(part["text"] for part in item["content"])
            citations += [one for part in item["content"] for one in part["annotations"]]
        elif item["type"] == "file_search_call":
            results += item.get("results") or ()
    facts = response.get("ragsocket") or {}
    ttft, total = facts.get("ttft_ms"), facts.get("total_ms")
    tokens = (response.get("usage") or {}).get("output_tokens", 0)
    writing = (total - ttft) / 1000 if ttft is not None and total is not None else 0
    right = [bool(record.held([_cited(one, results)])) for one in citations]
    return Outcome(
        question=record.question,
        kind=record.kind,
        status=response["status"],
        text=text,
        found=tuple(dict.fromkeys(result["filename"] for result in results)),
        ranking=ranking,
        facts_held=all(holds(text, fact) for fact in record.facts) if record.facts else None,
        refused=SAYS_NO.search(text) is not None,
        citations_right=sum(right) / len(right) if right and record.places else None,
        ttft_ms=ttft,
        tokens_per_s=(tokens - 1) / writing if tokens > 1 and writing > 0 else None,
    )


def summarise(outcomes: Sequence[Outcome], k: int) -> dict[str, Figures]:
    """Return, for each kind and for all, the shares and the medians of the table."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[one.kind].append(one)
    groups["all"] = list(outcomes)
    return {
        kind: {
            "questions": len(group),
            **summarise_search([one.ranking for one in group], [k]),
            "facts in answer": share(one.facts_held for one in group),
            "citations right": share(one.citations_right for one in group),
            "refused": share(one.refused for one in group),
            "failed": sum(one.status not in ("completed", "incomplete") for one in group),
            "first text ms": middle(one.ttft_ms for one in group),
            "tokens/s": middle(one.tokens_per_s for one in group),
        }
        for kind, group in groups.items()
    }


def summarise_search(rankings: Sequence[Ranking], ks: Iterable[int]) -> Figures:
    """Return recall at each k, MRR@10 and the median time of searches."""
    return {
        **{f"recall@{k}": share(one.recalls.get(k) for one in rankings) for k in ks},
        f"MRR@{RANKS}": share(one.reciprocal for one in rankings),
        "search ms": middle(one.search_ms for one in rankings),
    }


def holds(text: str, fact: str) -> bool:
    """True if an answer holds a fact, or one of its alternatives; case and marks aside."""
    said = _plain(text)
    return any(_plain(one) in said for one in fact.split("|"))


def share(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known."""
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None


def _cited(citation: Mapping[str, Any], results: Sequence[Result]) -> Result:
    number: int | None = (citation.get("ragsocket") or {}).get("passage")
    if number is not None and 1 <= number <= len(results):
        return results[number - 1]
    return {"filename": citation["filename"], "text": ""}


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`’']", "", text.lower()).split())
