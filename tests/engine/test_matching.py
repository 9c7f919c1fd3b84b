"""Which passage a sentence without a mark rests on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ragsocket.engine.base import Source
from ragsocket.engine.ingestion.words import terms
from ragsocket.engine.matching import match

SOURCES = [
    Source(f"p{n}", f"file_{n}", f"{n}.md", text, 0.5)
    for n, text in enumerate(
        (
            "The ferry to Holm leaves at 7:40 every morning. Dogs travel free of charge.",
            "The harbour office opens at nine. Lost luggage is kept in shed four.",
            "Der Hund 🐕 darf mit auf die Fähre nach Holm.",
        ),
        1,
    )
]


class Words:
    """Every word weighs the same."""

    def terms(self, text: str) -> list[str]:
        """The stemmed words."""
        return terms(text)

    def term_weights(self, text: str) -> dict[str, float]:
        """Each with weight 1."""
        return dict.fromkeys(terms(text), 1.0)


def matched(text: str, start: int = 0) -> list[tuple[int, str]]:
    """Number of the passage, and the text up to the citation, for each of them."""
    found = match(text, SOURCES, Words(), start=start)
    assert all(one.matched and one.source is SOURCES[one.number - 1] for one in found)
    return [(one.number, text[: one.index - start]) for one in found]


def test_each_sentence_cites_the_passage_that_holds_its_words() -> None:
    """The citation stands at the end of the sentence, before the white space behind it."""
    text = "The ferry leaves at 7:40 every morning.  Luggage that is lost is kept in shed four.\n"
    assert matched(text) == [(1, text[:39]), (2, text.rstrip())]


def test_what_no_passage_says_cites_nothing() -> None:
    """Other words, other numbers, a single word, and code are left alone."""
    assert matched("The museum closes early on Sundays and holidays.") == []
    assert matched("The ferry to Holm leaves at 8:40 every morning.") == []
    assert matched("Holm.") == []
    assert matched("```\nThe ferry to Holm leaves every morning.\n```\n") == []


def test_places_are_code_points_from_the_start_of_the_answer() -> None:
    """Signs beyond the basic plane count as one, and what stands before the text counts along."""
    text = "🐕🐕 Der Hund darf auf die Fähre nach Holm. 🛳"
    ((number, upto),) = matched(text, start=100)
    assert (number, upto) == (3, "🐕🐕 Der Hund darf auf die Fähre nach Holm.")


@given(st.text(st.sampled_from("ferry Holm 7:40.!?\n `🐕"), max_size=60), st.integers(0, 9))
def test_any_text_gives_places_inside_of_it(text: str, start: int) -> None:
    """Places ascend, lie inside the text, and never behind white space."""
    places = [one.index for one in match(text, SOURCES, Words(), start=start)]
    assert places == sorted(set(places))
    assert all(start < place <= start + len(text) for place in places)
    assert not any(text[place - start - 1].isspace() for place in places)
