"""Decides what a small model cannot: whether to search, and whether the documents can answer.

Both decisions lean to one side. A real question taken for small talk, or refused though the
documents answer it, is worse than a search too many or an answer that says it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from ragsocket.engine.base import Source, Turn

REFUSAL = (
    "The documents here do not seem to answer that question. You could ask it in other words, "
    "name what it is about more exactly, or ask about something else that the documents cover."
)
"""The whole answer where the documents cannot answer; fixed, and without a mark."""


ASSENT_PER_SCORE = 4.0
"""What the best retrieval score (0 to 1) weighs against a model's own yes or no (a difference of
logarithms) when it is asked whether the text holds the answer; measured, see docs/benchmarks.md."""


class Vocabulary(Protocol):
    """The words of an index; `ragsocket.engine.index.Snapshot` is one."""

    def terms(self, text: str) -> list[str]:
        """Return the stemmed content words of a text in order."""

    def term_weights(self, text: str) -> dict[str, float]:
        """Return each stemmed content word with its weight; the rarer the heavier."""


# Longer turns say something of their own.
_LONGEST_ABOUT_CONVERSATION = 100

# Each list is matched against the whole turn, so that "thanks, and what does it cost?" is searched.
_ANYTIME = (
    r"(hi|hello|hey|good (morning|afternoon|evening)|hallo|bonjour|hola)( there| again)?"
    r"( who are you| how are you)?( and)?( what can you (do|help( me)?( with)?))?",
    r"(many )?(thanks|thank you|thx|cheers|danke|merci|gracias)"
    r"( a lot| so much| very much| again| for (that|the help|your help))?"
    r"( that (helps|helped|is helpful|was helpful|is all|will do))?",
    r"(ok|okay|great|perfect|cool|nice|good|got it|i see|that helps|bye|goodbye)"
    r"( (great|perfect|good|thanks|thank you|bye|goodbye))*",
    r"(who|what) are you|what can you do|how do you work",
)
_IT = (
    r"(it|that|this|that again|the above|"
    r"(what|everything|all) you (have |just )?(said|wrote|told me)( so far)?|"
    r"(your|the|that|this) (last |previous |first )?(answer|reply|response|message|summary|list))"
)
_CHAT = r"(our|the|this) (whole )?(conversation|chat|discussion)( so far)?"
_LANGUAGE = (
    r"(arabic|chinese|dutch|english|french|german|greek|hindi|italian|japanese|korean|polish|"
    r"portuguese|russian|spanish|turkish|ukrainian)"
)
_FORM = (
    r"(a |an |one |two |three |fewer |less |more |simple |simpler |plain |short |shorter |"
    r"bullet |\d+ )*(words?|terms|sentences?|paragraphs?|lines?|list|table|bullets|bullet points|"
    r"points|bullet list|language|(text )?message|e mail|email|letter|note)( (to|for) my \w+)?"
)
_AS = (
    rf"((in|into|to) {_LANGUAGE}|(in|as|into|with) {_FORM}|in short|in other words|again|"
    r"(much |a bit |even )?(shorter|longer|simpler|briefer|clearer)|"
    r"(more )?(briefly|simply|clearly|formally|politely))"
)
_WITH_HISTORY = (
    rf"{_AS}( {_AS})?",
    rf"(make|keep|put|say|phrase|write|explain|give|tell me|repeat|rephrase|reword|rewrite|"
    rf"translate|shorten|simplify|summari[sz]e|format|sum up|show) {_IT}( {_AS})*",
    rf"(repeat|rephrase|reword|shorten|simplify|summari[sz]e|translate|sum up)( {_IT}| {_CHAT})?"
    rf"( {_AS})*",
    rf"(give me )?(a |the )?(short |brief )?summary of ({_IT}|{_CHAT})",
    r"what (did|have) (i|you|we) (just |already )?(ask|asked|say|said|talk about|talked about|"
    r"discuss|discussed|mean)( you)?( by that| with that)?( so far| first| last| before| earlier| "
    r"just now)*",
    r"what was (my|your) (first|last|previous) (question|answer|message|reply)",
    r"how many (questions|things) (have i asked|did i ask)( you)?( so far)?",
    r"which (one )?of my questions (was|were) .{1,40}",
    rf"(sorry )?i (don't|do not|didn't|did not) (understand|get)( {_IT})?"
    rf"( (can|could) you)?( please)?( (explain|say|put) {_IT})?( {_AS})*",
)
_POLITE_BEFORE = re.compile(
    r"^(?:(?:please|ok(?:ay)?|and|now|so|then|well|thanks|thank you|"
    r"(?:can|could|would|will) you(?: please)?|i(?:'d| would) like you to|i want you to)[\s,]+)+"
)
_POLITE_AFTER = re.compile(r"[\s,]+(?:please|for me|now|then|thanks|thank you)$")
_ANYTIME_TURN = re.compile("|".join(f"(?:{one})" for one in _ANYTIME))
_HISTORY_TURN = re.compile("|".join(f"(?:{one})" for one in (*_ANYTIME, *_WITH_HISTORY)))
_SHORTER_TURN = re.compile(r".*\b(shorter|shorten|briefer|briefly|sum up|summar\w+|one sentence)\b")


def about_conversation(turns: Sequence[Turn]) -> bool:
    """True if the last turn is about the conversation itself, so that there is nothing to search.

    Greetings and thanks are, always; wishes about an earlier answer (shorter, in French, as a
    list, what did I ask first) only where there is one. The lists are English, but for a few
    greetings; what they miss is searched for, as any question.
    """
    if not turns or turns[-1].role != "user":
        return False
    said = _plain(turns[-1].text)
    if not said or len(said) > _LONGEST_ABOUT_CONVERSATION:
        return False
    pattern = _HISTORY_TURN if any(t.role == "assistant" for t in turns) else _ANYTIME_TURN
    bare = _POLITE_AFTER.sub("", _POLITE_BEFORE.sub("", said))
    return bool(pattern.fullmatch(said) or pattern.fullmatch(bare))


def wants_it_shorter(text: str) -> bool:
    """True if a turn about the conversation asks for less of the last answer."""
    return _SHORTER_TURN.match(_plain(text)) is not None


def _plain(text: str) -> str:
    """Return a turn in lower case, without the marks that end sentences."""
    words = text.strip().lower().replace("’", "'")
    return re.sub(r"[\s,;:]+", " ", re.sub(r"[.!?…\"()*_-]+", " ", words)).strip()


# A question that needs what was said before: it points back, opens as a sequel, or is tiny.
_POINTS_BACK = re.compile(
    r"\b(it|its|they|them|their|he|him|his|she|her|hers|this|that|these|those|there|one|ones|"
    r"same|other|others|another|else|former|latter|both|first|second|last)\b"
)
_SEQUEL = re.compile(
    r"(and|but|or|so|then|also|why|how come|what about|how about|what if|yes|no)\b"
)
_TINY = 2


_REQUEST_WORDS = (
    "answer describe detail details document documents explain find full give happen happened help "
    "information know list mean need overview question say says show summary summarise summarize "
    "tell want"
)


def leans_on_history(question_text: str, vocabulary: Vocabulary) -> bool:
    """True if a question may need earlier turns to be understood; too often rather than seldom."""
    plain = _plain(question_text)
    return bool(
        _SEQUEL.match(plain)
        or _POINTS_BACK.search(plain)
        or len(set(vocabulary.terms(question_text))) <= _TINY
    )


_DETAIL = re.compile(
    r"\b(explain|describe|summari[sz]e|summary|overview|step by step|in detail|everything|compare|"
    r"(list|name|what are) all|(what|which) ways|day by day|for each|what do (we|i) need to know)\b"
)


def wants_detail(text: str) -> bool:
    """True if a question asks for more than a fact: an explanation, a summary, a whole list."""
    return _DETAIL.search(_plain(text)) is not None


def coverage(text: str, sources: Sequence[Source], vocabulary: Vocabulary) -> float:
    """Return how much of a text's content words the best passage holds, 0 to 1, by weight.

    One passage and not all together, since any five passages hold most common words. Words that
    only say how to answer ("describe", "in detail") do not count. A text without content words
    gives 1: nothing speaks against the passages.
    """
    weights = vocabulary.term_weights(text)
    for word in vocabulary.terms(_REQUEST_WORDS):
        weights.pop(word, None)
    total = sum(weights.values())
    if total <= 0:
        return 1.0
    best = 0.0
    for source in sources:
        held = weights.keys() & set(vocabulary.terms(f"{source.file_name} {source.text}"))
        best = max(best, sum(weights[term] for term in held))
    return best / total


def answerable(
    question_text: str,
    query_text: str,
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    *,
    min_score: float,
    min_coverage: float,
) -> bool:
    """True unless everything speaks against the documents answering a question.

    Refused is where nothing was found, or where both the best retrieval score and the coverage
    of the question's words are low. A question that leans on earlier turns is also given the
    words of those, and the better of the two coverages counts.

    Args:
        question_text: the last user turn.
        query_text: what was searched for, that turn and earlier ones.
        sources: what was found.
        vocabulary: weighs words.
        min_score: 0 to 1; 0 switches the gate off, but for a search without results.
        min_coverage: 0 to 1; 0 does the same.
    """
    if not sources:
        return False
    if max(source.score for source in sources) >= min_score:
        return True
    if coverage(question_text, sources, vocabulary) >= min_coverage:
        return True
    return leans_on_history(question_text, vocabulary) and (
        coverage(query_text, sources, vocabulary) >= min_coverage
    )
