"""Notices that a folder of documents changes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from anyio import to_thread
from watchfiles import Change, awatch

log = logging.getLogger("ragsocket.engine")

GATHER_MS = 800
"""How long changes are gathered, at most, where one follows another."""

QUIET_MS = 100
"""How long it must be quiet before changes count as done."""

POLL_MS = 1000
"""How often a folder is looked through whose file system tells nothing."""


async def changes(folder: Path, *, but: Path) -> AsyncGenerator[None]:
    """Yield whenever something in a folder may have changed, once for many changes at a time.

    Hidden files are none of it, and where the system cannot tell, the folder is looked through
    every now and then.

    Args:
        folder: the folder.
        but: a folder whose changes do not count, since they are our own.

    Raises:
        OSError: the folder is not there.
    """
    root, ours = await to_thread.run_sync(lambda: (folder.resolve(), but.resolve()))
    # It tells the log of every change, and we say what came of it.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)

    def counts(_: Change, path: str) -> bool:
        here = Path(path)
        if not here.is_relative_to(root) or here.is_relative_to(ours):
            return False
        return not any(part.startswith(".") for part in here.relative_to(root).parts)

    # Most systems watch a bounded number of folders, and some file systems tell nothing.
    for polls in (None, True):
        try:
            found = awatch(
                root,
                watch_filter=counts,
                debounce=GATHER_MS,
                step=QUIET_MS,
                force_polling=polls,
                poll_delay_ms=POLL_MS,
                ignore_permission_denied=True,
            )
            async with aclosing(found) as batches:
                async for _ in batches:
                    yield
                return
        except OSError as error:
            if polls or not await to_thread.run_sync(root.is_dir):
                raise
            log.warning(
                "changes of %s are looked for, since the system tells none: %s", root, error
            )
