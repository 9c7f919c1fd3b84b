"""Passages that say the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ragsocket.engine.doubles import without_doubles

PAGE = (
    "The hut stands on a saddle between two lakes and is open from June to the end of September. "
    "Guests bring a sleeping bag of their own; blankets are in every room. Breakfast is laid out "
    "before dawn for those who climb, and soup is kept warm for those who come late in the day. "
    "Dogs sleep in the porch, and their owners clean up after them before they leave the place. "
)


def kept(*texts: str, most: int = 9) -> list[int]:
    """The places of what is left."""
    return list(without_doubles(texts, most))


def test_copies_with_small_differences_are_dropped() -> None:
    """Another footer, white space, case or marks make no new passage; the first one stays."""
    copy = PAGE.upper().replace(" ", "\n ")
    assert kept(PAGE, copy, PAGE + "Printed in spring.", "Something else.") == [0, 3]


def test_other_numbers_make_another_passage() -> None:
    """Next year's page, with another price, is no copy of this one's."""
    assert kept(PAGE + "A bed is 16 euros.", PAGE + "A bed is 17 euros.") == [0, 1]


def test_short_passages_must_have_the_same_words() -> None:
    """In few words one makes the difference; without any, the signs do."""
    assert kept("Dogs may stay.", "Dogs may  stay", "Dogs may eat.", "Dogs", "dogs!") == [0, 2, 3]
    assert kept("", " ", "***", "* * *", "***") == [0, 2, 3]


def test_parts_of_a_longer_passage_are_passages() -> None:
    """What is in a longer one may stand without it."""
    assert kept(PAGE, PAGE[: len(PAGE) // 2]) == [0, 1]


@given(st.lists(st.text(st.sampled_from("abc 1.\n"), max_size=30), max_size=12), st.integers(1, 12))
def test_what_is_left_is_in_order_without_repeats(texts: list[str], most: int) -> None:
    """Places ascend, the first is kept, no text comes twice, and no more come than are wanted."""
    places = kept(*texts, most=most)
    assert places == sorted(set(places))
    assert places[:1] == [0][: len(texts)]
    assert len(places) == len({texts[place] for place in places}) <= most
