"""The SQLite file of passages: revisions, purging, owners, damage."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ragsocket.engine.passages import (
    File,
    Passage,
    Passages,
    Store,
    make_file_id,
    make_passage_id,
)
from ragsocket.errors import ConfigError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Passages]:
    """An empty file of passages."""
    passages = Passages(tmp_path / "passages.sqlite3", create=True)
    yield passages
    passages.close()


def replace_file(db: Passages, store: Store, text: str) -> tuple[Store, int]:
    """Publish a revision whose one file has one passage; return the store and the row."""
    file = File(make_file_id(store.owner, store.id, "a.md"), "a.md", text, 1)
    db.stage(store, file, [Passage(make_passage_id(file.id, text, 0), file.id, 0, text)])
    with db.transaction():
        number = db.next_revision()
        db.take_staged(store, number)
        db.publish(store, number, has_vectors=False)
        db.purge(store)
    store = replace(store, revision=number, previous_revision=store.revision)
    return store, db.living(store)[0][0]


def test_the_previous_revision_can_still_be_read(db: Passages) -> None:
    """Rows of the previous revision stay; those of the one before it are purged."""
    store = db.open_store("local", "vs_default")
    rows = []
    for text in ("one", "two", "three"):
        store, row = replace_file(db, store, text)
        rows.append(row)
    assert [found.text for found in db.find("local", "vs_default", rows)] == ["two", "three"]
    assert db.open_store("local", "vs_default") == store
    assert (store.revision, store.previous_revision) == (3, 2)


def test_a_dropped_store_leaves_the_others_and_its_numbers(db: Passages) -> None:
    """Its rows are gone, another store's stay, and no revision is ever called as one before."""
    dropped, row = replace_file(db, db.open_store("local", "vs_one"), "one")
    kept, other = replace_file(db, db.open_store("local", "vs_two"), "two")
    dropped, row = replace_file(db, dropped, "three")
    db.drop(dropped)
    assert (db.find("local", "vs_one", [row]), db.files("local", "vs_one")) == ([], [])
    assert db.open_store("local", "vs_one").revision == 0
    assert [found.text for found in db.find("local", "vs_two", [other])] == ["two"]
    assert db.next_revision() == dropped.revision + 1 > kept.revision


def test_the_file_can_be_made_by_several_at_the_same_time(tmp_path: Path) -> None:
    """The folder's ingestion and one of uploads may be the first at once."""
    path = tmp_path / "made" / "passages.sqlite3"
    gate = threading.Barrier(8)

    def make() -> int:
        gate.wait()
        with closing(Passages(path, create=True)) as made:
            return made.next_revision()

    with ThreadPoolExecutor(8) as pool:
        assert [future.result() for future in [pool.submit(make) for _ in range(8)]] == [1] * 8


def test_rows_come_in_the_order_asked_for(db: Passages) -> None:
    """Looking up rows keeps their order and leaves out what is not there."""
    store, first = replace_file(db, db.open_store("local", "vs_default"), "one")
    _, second = replace_file(db, store, "two")
    found = db.find("local", "vs_default", [second, 999, first])
    assert [passage.text for passage in found] == ["two", "one"]
    assert db.find("local", "vs_default", []) == []


def test_owners_and_stores_are_apart(db: Passages) -> None:
    """The same path in another owner's or another store has other ids and cannot be looked up."""
    keys = [("ann", "vs_default"), ("bob", "vs_default"), ("ann", "vs_other")]
    rows = {key: replace_file(db, db.open_store(*key), f"of {key}")[1] for key in keys}
    for key in keys:
        found = db.find(*key, list(rows.values()))
        assert [passage.text for passage in found] == [f"of {key}"]
        assert len(db.files(*key)) == 1
    assert len({make_file_id(*key, "a.md") for key in keys}) == 3
    assert len({store.revision for store in db.stores()}) == 3


def test_an_unfinished_transaction_leaves_nothing(db: Passages) -> None:
    """An exception before the end undoes the rows and the revision."""
    store, row = replace_file(db, db.open_store("local", "vs_default"), "one")
    (file,) = db.files("local", "vs_default")
    db.stage(store, replace(file, status="removed"))

    def fail() -> None:
        with db.transaction():
            db.take_staged(store, 2)
            db.publish(store, 2, has_vectors=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert db.open_store("local", "vs_default") == store
    assert [living[0] for living in db.living(store)] == [row]


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    """Whether it is no database at all or a damaged one, the error names the file and the fix."""
    path = tmp_path / "passages.sqlite3"
    db = Passages(path, create=True)
    store = db.open_store("local", "vs_default")
    replace_file(db, store, "word " * 5000)
    db.close()
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:100] = b"?" * 100
    else:
        content[4096:] = b"?" * (len(content) - 4096)
    path.write_bytes(content)

    def read() -> None:
        with closing(Passages(path)) as damaged:
            damaged.living(store)

    with pytest.raises(ConfigError, match=r"passages\.sqlite3 is damaged"):
        read()


def test_another_format_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """A file of another version is not touched; a missing one is not made by a reader."""
    path = tmp_path / "passages.sqlite3"
    with pytest.raises(ConfigError, match="cannot be opened"):
        Passages(path)
    assert not path.exists()
    db = Passages(path, create=True)
    db.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="format 99"):
        Passages(path)
