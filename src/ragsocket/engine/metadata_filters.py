"""Filters in LlamaIndex's words, in which vector stores are asked, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from ragsocket.engine.base import Combination, Comparison, Filter

_Type = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
_OPERATORS: Mapping[_Type, FilterOperator] = {
    "eq": FilterOperator.EQ,
    "ne": FilterOperator.NE,
    "gt": FilterOperator.GT,
    "gte": FilterOperator.GTE,
    "lt": FilterOperator.LT,
    "lte": FilterOperator.LTE,
    "in": FilterOperator.IN,
    "nin": FilterOperator.NIN,
}
_TYPES = {operator: type for type, operator in _OPERATORS.items()}


def to_metadata_filters(filter: Filter) -> MetadataFilters:
    """Return a filter as vector stores take it."""
    if isinstance(filter, Combination):
        inner = [
            _comparison(one) if isinstance(one, Comparison) else to_metadata_filters(one)
            for one in filter.filters
        ]
        return MetadataFilters(filters=inner, condition=FilterCondition(filter.type))
    return MetadataFilters(filters=[_comparison(filter)])


def from_metadata_filters(filters: MetadataFilters) -> Filter:
    """Return what a vector store was asked for.

    Raises:
        NotImplementedError: an operator or condition is none of ours; the message names it.
    """
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.NOT:
        raise NotImplementedError("PassageVectorStore cannot filter by the condition not")
    parts: list[Filter] = []
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            parts.append(from_metadata_filters(one))
        elif one.operator not in _TYPES or one.value is None:
            raise NotImplementedError(f"PassageVectorStore cannot filter by {one.operator.value}")
        else:
            parts.append(Comparison(one.key, _TYPES[one.operator], one.value))
    return Combination("and" if condition == FilterCondition.AND else "or", parts)


def _comparison(filter: Comparison) -> MetadataFilter:
    value: Any = filter.value
    if not isinstance(value, str | int | float):
        value = list(value)
    # Unchecked: theirs knows no truths and no lists of several kinds, which ours compares.
    return MetadataFilter.model_construct(
        key=filter.key, operator=_OPERATORS[filter.type], value=value
    )
