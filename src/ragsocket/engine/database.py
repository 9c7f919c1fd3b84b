"""A connection to an SQLite file of ours: opened, versioned, shared by threads, closed."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ragsocket.errors import ConfigError

BUSY_TIMEOUT_S = 120.0
"""Who writes waits for a revision that is being published, which takes seconds when it is large."""


class Database:
    """One SQLite file; any thread may use it, one at a time.

    Attributes:
        path: where it is.

    Raises:
        ConfigError: from any method, if the file is damaged or from another version.
    """

    SCHEMA: ClassVar[str]
    VERSION: ClassVar[int]
    WHAT: ClassVar[str]
    """What people call the file."""
    REMEDY: ClassVar[str]
    """What helps when it cannot be used."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file, which must exist unless `create` is set."""
        self.path = path
        self._lock = threading.RLock()
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rwc" if create else "rw"
        try:
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.OperationalError as error:
            raise ConfigError(f"the {self.WHAT} {path} cannot be opened: {error}.") from error
        try:
            self._prepare(create)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, create: bool) -> None:
        version = self._version()
        if version == 0 and create:
            self._write_ahead()
            with self.transaction():
                # Two processes may make the file at the same time.
                version = self._version()
                if version == 0:
                    for statement in self.SCHEMA.split(";"):
                        self._all(statement)
                    self._all(f"PRAGMA user_version = {self.VERSION}")
                    version = self.VERSION
        if version not in (0, self.VERSION):
            raise ConfigError(
                f"the {self.WHAT} {self.path} has format {version}, this version reads "
                f"{self.VERSION}: {self.REMEDY}."
            )
        self._all("PRAGMA synchronous = NORMAL")

    def _write_ahead(self) -> None:
        # The one statement that does not wait for another process that makes the file too.
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._all("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _version(self) -> int:
        """Return the format of the file; 0 if nobody has written to it yet."""
        return int(self._all("PRAGMA user_version")[0][0])

    def close(self) -> None:
        """Close the connection; nothing else may be called afterwards."""
        with self._lock:
            self._db.close()

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._named():
            return self._db.execute(sql, parameters).fetchall()

    def _many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._lock, self._named():
            self._db.executemany(sql, rows)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            # Subclasses are about a statement or the disk; the class itself means a damaged file.
            if type(error) is sqlite3.DatabaseError:
                raise ConfigError(
                    f"the {self.WHAT} {self.path} is damaged ({error}): {self.REMEDY}."
                ) from error
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside one atomic step; an exception undoes them."""
        with self._lock:
            self._all("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.rollback()
                raise
            self._all("COMMIT")
