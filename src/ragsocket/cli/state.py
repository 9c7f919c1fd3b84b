"""The state directory: made for its owner alone, and used by one server at a time.

Two servers would end each other's running answers at start, since what a dead process left over
cannot be told from what another one is writing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragsocket.errors import ConfigError

LOCK_NAME = "lock"


def prepare(directory: Path) -> None:
    """Make the state directory, closed to others, unless it is there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the right to serve from a state directory; it is made if missing.

    The kernel lets go of the lock when this process dies, however it dies.

    Raises:
        ConfigError: another server holds it, or the directory cannot be used.
    """
    prepare(directory)
    try:
        lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        try:
            _lock(lock)
        except BlockingIOError:
            holder = os.read(lock, 20).decode("ascii", "replace").strip()
            who = f"another ragsocket (process {holder})" if holder else "another ragsocket"
            raise ConfigError(
                f"the state directory {directory} is in use by {who}: stop that one, or give this "
                "one a directory of its own with --state-dir."
            ) from None
        except OSError as error:
            raise _unusable(directory, error) from error
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unusable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the state directory {directory} cannot be used ({error.strerror}): make it writable for "
        "this user, or name another with --state-dir."
    )
