"""The child process of `run_ingestion`: one job in on stdin, messages out on stdout."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from ragsocket.engine.ingestion.job import Job, Message, Progress, from_line, to_line
from ragsocket.errors import ConfigError

ORPHANED = 3
NICENESS = 10


def _end_with_parent() -> None:
    # Raw reads: a buffered stdin held by this thread would break the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


def _stand_back() -> None:
    # Questions that are answered meanwhile come first; embedding takes what they leave.
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))


def _run(out: BinaryIO) -> None:
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        job = from_line(Job, stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _stand_back()
    # After the watch has begun: this import takes seconds.
    from ragsocket.engine.ingestion.pipeline import ingest

    def tell(progress: Progress) -> None:
        out.write(to_line(Message(progress=progress)))

    try:
        report = ingest(
            Path(job.documents) if isinstance(job.documents, str) else job.documents,
            Path(job.index_path),
            vector_store_id=job.vector_store_id,
            owner=job.owner,
            embed=job.server or job.built_in,
            chunk_tokens=job.chunk_tokens,
            chunk_overlap_tokens=job.chunk_overlap_tokens,
            limits=job.limits,
            state_dir=None if job.state_dir is None else Path(job.state_dir),
            progress=tell,
        )
    except ConfigError as error:
        out.write(to_line(Message(config_error=str(error))))
    else:
        out.write(to_line(Message(report=report)))


def main() -> None:
    """Run the job; what libraries print goes to stderr, so that stdout carries messages alone."""
    out = open(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    with out:
        _run(out)


if __name__ == "__main__":
    main()
