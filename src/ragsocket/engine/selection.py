"""Which passages a search may find, and what the owners of their files say about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

import numpy as np

from ragsocket.engine.base import Attributes, Filter
from ragsocket.engine.catalog import Catalog
from ragsocket.engine.filters import passing
from ragsocket.engine.ingestion.job import DEFAULT_VECTOR_STORE, store_of, uploads_part
from ragsocket.engine.ingestion.revision import Places, Revision, Rows
from ragsocket.engine.passages import Passages


class Selection:
    """Chooses among the passages of revisions.

    Args:
        catalog: knows which uploads are in which store, and the attributes of files; None where
            there are neither.
    """

    def __init__(self, catalog: Catalog | None) -> None:
        self._catalog = catalog
        # Made when a search first asks for it, which most never do.
        self._files: WeakKeyDictionary[Revision, Mapping[str, tuple[str, Rows]]] = (
            WeakKeyDictionary()
        )

    def places(
        self, passages: Passages, part: Revision, filters: Filter | None = None
    ) -> Places | None:
        """Return which passages of a revision may be found, shape (n,); None for all. Blocks.

        Args:
            passages: where the revision's passages are.
            part: the revision.
            filters: what their files must pass; None for nothing.
        """
        if filters is None and not self._may_hold_others(part):
            return None
        files = self._files_of(passages, part)
        attributes: Mapping[str, Attributes] = {}
        owner, store = part.owner, store_of(part.vector_store_id)
        if self._catalog is not None:
            if filters is not None:
                attributes = self._catalog.attributes(owner, store)
            if part.vector_store_id == uploads_part(store):
                members = {file_id for file_id, _, _ in self._catalog.listing((owner, store))}
                files = {file_id: files[file_id] for file_id in files.keys() & members}
        among = np.zeros(len(part.rows), dtype=bool)
        passes = passing(filters) if filters is not None else None
        for file_id, (path, rows) in files.items():
            if passes is not None:
                has = {**attributes.get(file_id, {}), "file_id": file_id, "file_name": path}
                if not passes(has):
                    continue
            among[rows] = True
        return among

    def attributes(self, parts: Iterable[Revision]) -> Mapping[str, Attributes]:
        """Return files' attributes by id; of a file in several stores, the first's. Blocks."""
        found: dict[str, Attributes] = {}
        if self._catalog is not None:
            stores = dict.fromkeys((part.owner, store_of(part.vector_store_id)) for part in parts)
            for owner, store in stores:
                found = {**self._catalog.attributes(owner, store), **found}
        return found

    @property
    def has_attributes(self) -> bool:
        """Whether any file has attributes; never blocks."""
        return self._catalog is not None and self._catalog.has_attributes

    def _may_hold_others(self, part: Revision) -> bool:
        """Return whether files may be in a revision that were taken out of its store."""
        if self._catalog is None or part.vector_store_id == DEFAULT_VECTOR_STORE:
            return False
        return (part.owner, store_of(part.vector_store_id)) in self._catalog.leaving

    def _files_of(self, passages: Passages, part: Revision) -> Mapping[str, tuple[str, Rows]]:
        """Return path and places of a revision's files by id."""
        if part not in self._files:
            rows = passages.rows_by_file(part.owner, part.vector_store_id)
            self._files[part] = {
                file.id: (file.path, part.places_of(rows[file.id]))
                for file in passages.files(part.owner, part.vector_store_id)
                if file.id in rows
            }
        return self._files[part]
