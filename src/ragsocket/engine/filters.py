"""Whether a file passes a filter. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from ragsocket.engine.base import Attributes, Comparison, Filter

Value = str | float | bool
Passes = Callable[[Attributes], bool]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def passing(filter: Filter) -> Passes:
    """Return what tells whether a file with these attributes may be found.

    Texts are compared with texts and numbers with numbers; between kinds nothing is equal, less
    or greater. A file without the attribute is unequal to every value. Asking costs the same for
    one value as for a list of a thousand.
    """
    if isinstance(filter, Comparison):
        return _comparing(filter)
    parts = [passing(part) for part in filter.filters]
    together = all if filter.type == "and" else any
    return lambda attributes: together(part(attributes) for part in parts)


def passes(filter: Filter, attributes: Attributes) -> bool:
    """Return whether a file with these attributes may be found, see `passing`."""
    return passing(filter)(attributes)


def _comparing(filter: Comparison) -> Passes:
    key = filter.key
    values: Sequence[Value] = (
        [filter.value] if isinstance(filter.value, str | int | float) else filter.value
    )
    if filter.type in _ORDERS:
        (value,) = values
        kind, compare = _kind(value), _ORDERS[filter.type]
        if kind is bool:
            return lambda _: False
        return lambda attributes: _kind(has := attributes.get(key)) is kind and compare(has, value)
    wanted = frozenset((_kind(value), value) for value in values)
    negated = filter.type in ("ne", "nin")
    return lambda attributes: ((_kind(has := attributes.get(key)), has) in wanted) is not negated


def _kind(value: Value | None) -> type:
    # True is a number to Python, and none to who writes a filter.
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, int | float) else type(value)
