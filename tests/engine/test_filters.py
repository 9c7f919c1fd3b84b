"""Whether a file passes a filter."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsocket.engine.base import Attributes, Combination, Comparison, Filter
from ragsocket.engine.filters import passes

FILE: Attributes = {"year": 1911, "kind": "note", "draft": False, "price": 2.5, "one": 1}


@pytest.mark.parametrize(
    ("key", "type", "value", "passing"),
    [
        ("kind", "eq", "note", True),
        ("kind", "eq", "Note", False),
        ("kind", "ne", "note", False),
        ("kind", "gt", "memo", True),
        ("kind", "in", ("memo", "note"), True),
        ("kind", "nin", ("memo", "note"), False),
        ("kind", "in", (), False),
        ("year", "eq", 1911.0, True),
        ("year", "eq", "1911", False),
        ("year", "ne", "1911", True),
        ("year", "gte", 1911, True),
        ("year", "gt", 1911, False),
        ("year", "lte", 1911, True),
        ("year", "lt", 1911.5, True),
        ("year", "lt", "1912", False),
        ("price", "gt", 2, True),
        ("price", "lt", 10**400, True),
        ("draft", "eq", False, True),
        ("draft", "eq", 0, False),
        ("one", "eq", True, False),
        ("draft", "lt", True, False),
        ("author", "eq", "Ingrid", False),
        ("author", "ne", "Ingrid", True),
        ("author", "nin", ("Ingrid",), True),
        ("author", "gt", "A", False),
    ],
)
def test_comparisons(key: str, type: Any, value: Any, passing: bool) -> None:
    """Texts compare with texts, numbers with numbers, truths with truths; nothing else is equal."""
    assert passes(Comparison(key, type, value), FILE) is passing


_values = st.one_of(st.text(max_size=2), st.integers(-2, 2), st.booleans(), st.floats(-2, 2))
_comparisons = st.builds(
    Comparison,
    key=st.sampled_from("ab"),
    type=st.sampled_from(("eq", "ne", "gt", "gte", "lt", "lte")),
    value=_values,
)
_filters: st.SearchStrategy[Filter] = st.recursive(
    _comparisons,
    lambda inner: st.builds(
        Combination, type=st.sampled_from(("and", "or")), filters=st.lists(inner, min_size=1)
    ),
    max_leaves=6,
)
_opposite: dict[str, Any] = {"eq": "ne", "ne": "eq", "and": "or", "or": "and"}


def _negated(filter: Filter) -> Filter:
    if isinstance(filter, Combination):
        return Combination(_opposite[filter.type], [_negated(one) for one in filter.filters])
    return Comparison(filter.key, _opposite[filter.type], filter.value)


def _has_order(filter: Filter) -> bool:
    if isinstance(filter, Combination):
        return any(_has_order(one) for one in filter.filters)
    return filter.type not in _opposite


@given(_filters, st.dictionaries(st.sampled_from("ab"), _values))
def test_a_filter_and_its_opposite_part_the_files(filter: Filter, file: dict[str, Any]) -> None:
    """Of eq, ne, and, or: each file passes a filter or its opposite, and never both."""
    if not _has_order(filter):
        assert passes(filter, file) is not passes(_negated(filter), file)
    assert passes(Combination("and", [filter, filter]), file) is passes(filter, file)
    assert passes(Combination("or", [filter]), file) is passes(filter, file)
