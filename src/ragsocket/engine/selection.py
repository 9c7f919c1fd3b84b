"""Which files a search may find, and what their owner says about them; every function blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ragsocket.engine.base import Attributes, Filter
from ragsocket.engine.catalog import Catalog
from ragsocket.engine.filters import passes
from ragsocket.engine.ingestion.job import store_of, uploads_part
from ragsocket.engine.ingestion.revision import Revision
from ragsocket.engine.passages import File


def is_narrowed(catalog: Catalog, parts: Iterable[Revision]) -> bool:
    """Return whether revisions may hold files that were taken out of their store; never blocks."""
    return any((part.owner, store_of(part.vector_store_id)) in catalog.leaving for part in parts)


def choose(
    catalog: Catalog | None, part: Revision, files: Iterable[File], filters: Filter | None
) -> list[str]:
    """Return the ids of those of a part's files that may be found.

    Args:
        catalog: knows which uploads are in which store; None where there are none.
        part: the revision that is searched.
        files: the files in it.
        filters: what they must pass; None for nothing.
    """
    owner, store = part.owner, store_of(part.vector_store_id)
    attributes: Mapping[str, Attributes] = {}
    if catalog is not None:
        attributes = catalog.attributes(owner, store)
        if part.vector_store_id == uploads_part(store):
            members = {file_id for file_id, _, _ in catalog.listing((owner, store))}
            files = [file for file in files if file.id in members]
    return [
        file.id
        for file in files
        if filters is None
        or passes(
            filters,
            {**attributes.get(file.id, {}), "file_id": file.id, "file_name": file.path},
        )
    ]


def attributes_of(catalog: Catalog, parts: Iterable[Revision]) -> Mapping[str, Attributes]:
    """Return the attributes of files by id; of a file in several stores, those of the first."""
    found: dict[str, Attributes] = {}
    for owner, store in dict.fromkeys((p.owner, store_of(p.vector_store_id)) for p in parts):
        found = {**catalog.attributes(owner, store), **found}
    return found
