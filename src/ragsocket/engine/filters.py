"""Whether a file passes a filter. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from ragsocket.engine.base import Attributes, Comparison, Filter

Value = str | float | bool

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def passes(filter: Filter, attributes: Attributes) -> bool:
    """Return whether a file with these attributes may be found.

    Texts are compared with texts and numbers with numbers; between kinds nothing is equal, less
    or greater. A file without the attribute is unequal to every value.
    """
    if not isinstance(filter, Comparison):
        each = (passes(part, attributes) for part in filter.filters)
        return all(each) if filter.type == "and" else any(each)
    has = attributes.get(filter.key)
    values: Sequence[Value] = (
        [filter.value] if isinstance(filter.value, str | int | float) else filter.value
    )
    alike = [value for value in values if _kind(value) is _kind(has)]
    if filter.type in ("ne", "nin"):
        return has not in alike
    if filter.type in ("eq", "in"):
        return has in alike
    compare = _ORDERS[filter.type]
    return _kind(has) is not bool and any(compare(has, value) for value in alike)


def _kind(value: Value | None) -> type:
    # True is a number to Python, and none to who writes a filter.
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, int | float) else type(value)
