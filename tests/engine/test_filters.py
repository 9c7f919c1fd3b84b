"""Whether a file passes a filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from material import CHUNKS, write_files

from ragsocket.engine.base import Attributes, Combination, Comparison, Filter
from ragsocket.engine.catalog import Catalog
from ragsocket.engine.filters import passes
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.metadata_filters import from_metadata_filters, to_metadata_filters
from words import WordEmbedding

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
_lists = st.builds(
    Comparison,
    key=st.sampled_from("ab"),
    type=st.sampled_from(("in", "nin")),
    value=st.lists(_values, max_size=3),
)
_any_filters: st.SearchStrategy[Filter] = st.recursive(
    _comparisons | _lists,
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


def _plainly(filter: Filter, file: dict[str, Any]) -> bool:
    """What a filter means, said once more in plain Python."""
    if isinstance(filter, Combination):
        held = [_plainly(one, file) for one in filter.filters]
        return {"and": all(held), "or": any(held)}[filter.type]
    has = file.get(filter.key)

    def kind(value: Any) -> str:
        return {bool: "truth", int: "number", float: "number", str: "text"}[type(value)]

    def equal(value: Any) -> bool:
        return has is not None and kind(has) == kind(value) and bool(has == value)

    wanted: Any = filter.value
    if filter.type in ("in", "nin"):
        return any(map(equal, wanted)) is (filter.type == "in")
    if filter.type in ("eq", "ne"):
        return equal(wanted) is (filter.type == "eq")
    if has is None or kind(has) != kind(wanted) or kind(has) == "truth":
        return False
    return bool(
        {
            "gt": has > wanted,
            "gte": has >= wanted,
            "lt": has < wanted,
            "lte": has <= wanted,
        }[filter.type]
    )


@given(_any_filters)
def test_a_filter_survives_llama_indexs_words(filter: Filter) -> None:
    """A store is asked for exactly what was meant, truths and mixed lists included."""
    again = from_metadata_filters(to_metadata_filters(filter))
    files: list[dict[str, Any]] = [{}, {"a": True, "b": 1}, {"a": "", "b": 0.5}, {"a": 1, "b": "x"}]
    for file in files:
        assert passes(again, file) is passes(filter, file)


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        (MetadataFilters(filters=[], condition=FilterCondition.NOT), "not"),
        (
            MetadataFilters(
                filters=[MetadataFilter(key="a", value="b", operator=FilterOperator.TEXT_MATCH)]
            ),
            "text_match",
        ),
        (
            MetadataFilters(
                filters=[MetadataFilter(key="a", value=None, operator=FilterOperator.IS_EMPTY)]
            ),
            "is_empty",
        ),
    ],
)
def test_what_a_store_cannot_filter_by_is_named(filters: MetadataFilters, named: str) -> None:
    """LlamaIndex has more than this store; it says which, and filters by nothing else instead."""
    with pytest.raises(NotImplementedError, match=named):
        from_metadata_filters(filters)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Index, Catalog]]:
    """An index of many files in which every passage fits the question, and their catalog."""
    folder = tmp_path_factory.mktemp("filtered")
    root = write_files(folder / "documents", {f"{n}.md": f"Dogs of hut {n}." for n in range(24)})
    path = folder / "passages.sqlite3"
    ingest(root, path, embed=WordEmbedding(), **CHUNKS)
    catalog = Catalog(folder / "catalog.sqlite3")
    index = Index(path, WordEmbedding(), catalog)
    yield index, catalog
    index.close()
    catalog.close()


@settings(max_examples=60, deadline=None)
@given(_any_filters, st.lists(st.dictionaries(st.sampled_from("ab"), _values), max_size=24))
async def test_a_search_finds_exactly_what_passes(
    searched: tuple[Index, Catalog], filter: Filter, files: list[dict[str, Any]]
) -> None:
    """Through index, store and catalog, by words and vectors, against plain Python."""
    index, catalog = searched
    await index.open()
    ids = {file.path: file.id for file in index.files("local", "vs_default")}
    attributes = {f"{n}.md": files[n] if n < len(files) else {} for n in range(24)}
    for name, has in attributes.items():
        catalog.set_attributes(("local", "vs_default"), ids[name], has)
    found = await index.search("dogs of the hut", owner="local", top_k=24, filters=filter)
    assert {source.file_name for source in found.sources} == {
        name for name, has in attributes.items() if _plainly(filter, has)
    }
    for source in found.sources:
        assert source.attributes == attributes[source.file_name]
