"""Finds out what differs between documents and a store, reads what is new, and stages all that.

A file is read if its content is new to the store. To know that, it is hashed, unless the file
system says the same of it as last time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragsocket.engine.ingestion.job import Progress, Upload
from ragsocket.engine.passages import (
    File,
    Passage,
    Passages,
    Store,
    make_file_id,
    make_passage_id,
)
from ragsocket.engine.reading.document import MIB, Limits, Piece, Request, Task, Unreadable
from ragsocket.engine.reading.folder import list_folder, open_inside
from ragsocket.engine.reading.process import Readers

# A file that changed so lately may change again without the file system's clock noticing.
SETTLED_NS = 2_000_000_000

Tell = Callable[[Progress], None]


@dataclass
class Change:
    """What differs between the documents and the store.

    Attributes:
        counts: files that were `added`, `changed`, `removed`, or are `unchanged`.
        failed: file and reason for each one that could not be taken in, by name.
        notes: other things an operator should know.
        read: files that were opened and read.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    read: int = 0


@dataclass(frozen=True)
class _Listed:
    """A file that the store shall hold: as it is known by now, where it is, and as it was."""

    file: File
    path: Path
    old: File | None


def stage(
    documents: Path | Sequence[Upload],
    db: Passages,
    store: Store,
    task: Task,
    split_all: bool,
    progress: Tell,
    *,
    but: Path | None = None,
) -> Change:
    """Stage everything that the next revision shall change; blocks for as long as reading takes.

    Args:
        documents: a folder, or all the uploaded files that the store shall hold.
        db: where the store is.
        store: as it is now.
        task: how files are read.
        split_all: whether unchanged files are read as well.
        progress: told of each file.
        but: a folder that is passed over.
    """
    change = Change()
    root: Path | None = None
    if isinstance(documents, Path):
        root = documents.resolve()
        listed = _list(root, but, store, change)
    else:
        listed = [(File(u.file_id, u.name, "", 0), Path(u.path)) for u in documents]
    known = {file.id: file for file in db.files(store.owner, store.id)}
    staged = db.staged(store)
    for file_id in staged.keys() - {file.id for file, _ in listed}:
        db.unstage(store, file_id)

    def to_read() -> Iterator[tuple[_Listed, Request]]:
        for done, (file, path) in enumerate(listed):
            progress(Progress("reading", done, len(listed), file.path))
            one = _Listed(file, path, known.pop(file.id, None))
            before = staged.get(file.id) or (None if split_all else one.old)
            try:
                one = _looked_at(one, root, task.limits, before)
            except (Unreadable, OSError) as error:
                _note(db, store, one, _reason(error), change)
                continue
            if before is None or one.file.sha256 != before.sha256 or _is_touched(one, before):
                yield one, Request(str(path), file.path, None if root is None else str(root))
            elif before.id in staged:
                _count(one, before.error, change)
            else:
                if one.file.stat != before.stat:
                    db.save_files(store, [replace(before, stat=one.file.stat)])
                if before.error is not None:
                    change.failed.append((before.path, before.error))
                else:
                    change.counts["unchanged"] += 1

    with Readers(task) as readers:
        for one, outcome in readers.read_all(to_read()):
            _note(db, store, one, outcome, change)
        change.read = readers.read_files
    progress(Progress("reading", len(listed), len(listed)))
    for old in known.values():
        db.stage(store, replace(old, status="removed"))
        change.counts["removed"] += old.status == "completed"
    change.failed.sort()
    return change


def _list(root: Path, but: Path | None, store: Store, change: Change) -> list[tuple[File, Path]]:
    """Return the files of a folder and where they are; what is left out goes into `change`."""
    listing = list_folder(root, but)
    change.failed += listing.refused
    if listing.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in listing.others.most_common(5))
        change.notes.append(f"Files of other kinds were passed over: {kinds}.")
    return [
        (File(make_file_id(store.owner, store.id, relative), relative, "", 0), path)
        for relative, path in listing.files
    ]


def _looked_at(one: _Listed, root: Path | None, limits: Limits, before: File | None) -> _Listed:
    """Return a file with its size, its hash, and what the file system says of it.

    The hash is that of `before` if the file system says the same as it did then.

    Raises:
        Unreadable: it is no file, lies elsewhere, or is too large.
        OSError: it cannot be opened or read.
    """
    now = os.stat(one.path)
    stat = f"{now.st_size}/{now.st_mtime_ns}/{now.st_ctime_ns}/{now.st_ino}"
    if max(now.st_mtime_ns, now.st_ctime_ns) > time.time_ns() - SETTLED_NS:
        stat = ""
    file = replace(one.file, size=now.st_size, stat=stat)
    if stat and before is not None and stat == before.stat:
        return replace(one, file=replace(file, sha256=before.sha256))
    if now.st_size > limits.file_bytes:
        raise Unreadable(f"is larger than {limits.file_bytes // MIB} MiB")
    with open_inside(one.path, root) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return replace(one, file=replace(file, sha256=digest))


def _is_touched(one: _Listed, before: File) -> bool:
    """Return whether a file that failed has been touched, so that somebody wants it tried again."""
    return before.error is not None and before.stat not in ("", one.file.stat)


def _reason(error: Unreadable | OSError) -> Unreadable:
    if isinstance(error, Unreadable):
        return error
    return Unreadable(error.strerror or "cannot be read")


def _note(
    db: Passages,
    store: Store,
    one: _Listed,
    outcome: Sequence[Piece] | Unreadable,
    change: Change,
) -> None:
    """Stage what became of a file."""
    error = str(outcome) if isinstance(outcome, Unreadable) else None
    file = replace(one.file, status="completed" if error is None else "failed", error=error)
    if error is not None and one.old is not None and one.old.error == error and not file.sha256:
        # What cannot be opened is looked at in every run, and changes nothing by that.
        change.failed.append((file.path, error))
        return
    passages: list[Passage] = []
    if not isinstance(outcome, Unreadable):
        seen: Counter[str] = Counter()
        for ordinal, piece in enumerate(outcome):
            passage_id = make_passage_id(file.id, piece.text, seen[piece.text])
            seen[piece.text] += 1
            passages.append(Passage(passage_id, file.id, ordinal, piece.text, piece.place))
    db.stage(store, file, passages)
    _count(one, error, change)


def _count(one: _Listed, error: str | None, change: Change) -> None:
    if error is not None:
        change.failed.append((one.file.path, error))
    else:
        was_there = one.old is not None and one.old.status == "completed"
        change.counts["changed" if was_there else "added"] += 1
