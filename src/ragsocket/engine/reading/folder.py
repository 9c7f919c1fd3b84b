"""Finds the documents of a folder, and opens nothing that lies outside it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from ragsocket.engine.reading.document import Unreadable
from ragsocket.engine.reading.kinds import kind_by_name

LEAVES = "symbolic link that leaves the folder"
NOT_A_FILE = "not a file (a pipe, a socket or a device)"


@dataclass
class Listing:
    """The files of a folder, paths relative to it with `/`.

    Attributes:
        files: what can be read, in order of path.
        refused: path and reason of what lies there but is not followed.
        others: how many files of other kinds were passed over, by suffix.
    """

    files: list[tuple[str, Path]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def list_folder(root: Path, but: Path | None = None) -> Listing:
    """List a folder and the folders in it; names that begin with a dot are passed over.

    Symbolic links are followed to files inside the folder only; a link to a folder inside it is
    passed over, since that folder is listed where it stands, and any other link is refused.

    Args:
        root: the folder.
        but: a folder that is passed over with all that is in it, wherever it stands.
    """
    root = root.resolve()
    ours = None if but is None else str(but.resolve())
    listing = Listing()
    for folder, folders, names in os.walk(root, onerror=lambda e: _refuse(listing, root, e)):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.join(folder, name) != ours
        )
        for name in [*names, *links]:
            if not name.startswith("."):
                _look(Path(folder, name), root, listing)
    listing.files.sort()
    listing.refused.sort()
    return listing


def _look(path: Path, root: Path, listing: Listing) -> None:
    name = path.relative_to(root).as_posix()
    relative = _shown(name)
    promised = kind_by_name(path.name)
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        listing.refused.append((relative, error.strerror or "cannot be read"))
        return
    is_link = stat.S_ISLNK(mode)
    if is_link and not Path(os.path.realpath(path)).is_relative_to(root):
        listing.refused.append((relative, LEAVES))
    elif is_link and path.is_dir():
        pass
    elif promised is None:
        listing.others[_shown(path.suffix.lower()) or "no suffix"] += 1
    elif is_link and not path.exists():
        # A chain of links that ends nowhere, or in itself.
        listing.refused.append((relative, "symbolic link to nothing"))
    elif not (path.is_file() if is_link else stat.S_ISREG(mode)):
        listing.refused.append((relative, NOT_A_FILE))
    elif relative != name:
        listing.refused.append((relative, "name that is not UTF-8: rename the file"))
    else:
        listing.files.append((relative, path))


def _refuse(listing: Listing, root: Path, error: OSError) -> None:
    path = Path(error.filename or root)
    relative = _shown(path.relative_to(root).as_posix())
    listing.refused.append((relative, error.strerror or "unreadable"))


def _shown(name: str) -> str:
    """Return a name with a mark in place of bytes that no encoding can carry."""
    return os.fsencode(name).decode(errors="replace")


def open_inside(path: str | Path, root: str | Path | None) -> BufferedReader:
    """Open a file for reading, whatever became of its path since it was listed; never waits.

    Args:
        path: where it is.
        root: the folder that it must be in, resolved; None for anywhere.

    Raises:
        Unreadable: it is no file, or lies elsewhere.
        OSError: it cannot be opened.
    """
    # A pipe without a writer would hold up who opens it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        opened = os.fstat(handle)
        if not stat.S_ISREG(opened.st_mode):
            raise Unreadable(NOT_A_FILE)
        if root is not None:
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(root) or not os.path.samestat(os.stat(real), opened):
                raise Unreadable(LEAVES)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
