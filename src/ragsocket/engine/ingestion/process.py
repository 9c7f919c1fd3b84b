"""Runs an ingestion in a child process, so that sockets never wait for parsing or embedding."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from anyio import from_thread, to_thread
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from ragsocket.engine.ingestion.job import (
    DEFAULT_OWNER,
    DEFAULT_VECTOR_STORE,
    BuiltInEmbed,
    EmbedSettings,
    Job,
    Message,
    Progress,
    Report,
    Upload,
    choose_embedding,
    from_line,
    reading_limits,
    to_line,
)
from ragsocket.errors import ConfigError, EngineError
from ragsocket.settings import Settings

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

logger = logging.getLogger(__name__)

TERMINATE_GRACE_S = 2.0
MAX_LINE_BYTES = 1024 * 1024 * 16
STDERR_TAIL_BYTES = 4096


async def run_ingestion(
    settings: Settings,
    documents: Path | Sequence[Upload],
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    vector_store_id: str = DEFAULT_VECTOR_STORE,
    owner: str = DEFAULT_OWNER,
    embed_model: BaseEmbedding | None = None,
) -> Report:
    """Take documents into the index and publish revisions if anything changed.

    Runs in a child process that ends with this one, even at kill -9. Cancelling the caller ends
    the child; what was published by then stays, and the next run goes on there. With
    `embed_model`, an object of this process, it runs in a thread of this process instead, because
    such an object cannot be sent elsewhere; cancelling then takes effect at the next file or batch
    of passages.

    Args:
        settings: the operator's choices.
        documents: a folder, or all the uploaded files that the store shall hold.
        on_progress: called on the event loop.
        vector_store_id: store to bring in line with them.
        owner: whose store it is.
        embed_model: embeds the passages in place of what the settings name.

    Raises:
        ConfigError: the folder or the index cannot be used; the message names the fix.
        EngineError: `ingestion_failed`, the ingestion broke; what was published by then stays.
    """
    chosen = choose_embedding(settings)
    job = Job(
        limits=reading_limits(settings),
        documents=(
            str(await anyio.Path(documents).absolute())
            if isinstance(documents, Path)
            else tuple(documents)
        ),
        state_dir=str(await anyio.Path(settings.state_dir).absolute()),
        index_path=str(await anyio.Path(settings.index_path).absolute()),
        chunk_tokens=settings.chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
        vector_store_id=vector_store_id,
        owner=owner,
        server=chosen if isinstance(chosen, EmbedSettings) else None,
        built_in=chosen if isinstance(chosen, BuiltInEmbed) else None,
    )
    if embed_model is not None:
        return await _run_in_thread(job, embed_model, on_progress)
    # -P: the working directory may be the folder of documents, and must not be imported from.
    command = [sys.executable, "-P", "-m", "ragsocket.engine.ingestion"]
    # A session of its own: Ctrl-C at the terminal is the parent's to handle, who ends the child.
    process = await anyio.open_process(command, start_new_session=True)
    try:
        return await _converse(process, job, on_progress)
    finally:
        await _end(process)


async def _converse(process: Process, job: Job, on_progress: Callable[[Progress], None]) -> Report:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    tail = bytearray()
    drained = anyio.Event()
    last = Message()
    async with anyio.create_task_group() as readers:
        readers.start_soon(_drain, stderr, tail, drained)
        try:
            await stdin.send(to_line(job))
            lines = BufferedByteReceiveStream(stdout)
            while last.report is None and last.config_error is None:
                last = from_line(Message, await lines.receive_until(b"\n", MAX_LINE_BYTES))
                if last.progress:
                    on_progress(last.progress)
        except (
            anyio.EndOfStream,
            anyio.IncompleteRead,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            msgspec.DecodeError,
        ):
            logger.debug("the ingestion process stopped talking", exc_info=True)
        if last.report is None and last.config_error is None:
            with anyio.move_on_after(TERMINATE_GRACE_S):
                await process.wait()
                await drained.wait()
        readers.cancel_scope.cancel()
    if last.config_error:
        raise ConfigError(last.config_error)
    if last.report is None:
        words = tail.decode(errors="replace").strip()
        logger.error("ingestion process ended with %s: %s", process.returncode, words)
        raise EngineError(
            "ingestion_failed", "The documents could not be taken in.", retryable=True
        ) from RuntimeError(f"exit status {process.returncode}: {words}")
    return last.report


async def _drain(stream: ByteReceiveStream, tail: bytearray, drained: anyio.Event) -> None:
    async for chunk in stream:
        tail += chunk
        del tail[:-STDERR_TAIL_BYTES]
    drained.set()


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.terminate()
            with anyio.move_on_after(TERMINATE_GRACE_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def _run_in_thread(
    job: Job, embed_model: BaseEmbedding, on_progress: Callable[[Progress], None]
) -> Report:
    def work() -> Report:
        # Loaded here: the import takes seconds and this is the thread that may wait for it.
        from ragsocket.engine.ingestion.pipeline import ingest

        def tell(progress: Progress) -> None:
            from_thread.check_cancelled()
            from_thread.run_sync(on_progress, progress)

        return ingest(
            Path(job.documents) if isinstance(job.documents, str) else job.documents,
            Path(job.index_path),
            vector_store_id=job.vector_store_id,
            owner=job.owner,
            embed=embed_model,
            chunk_tokens=job.chunk_tokens,
            chunk_overlap_tokens=job.chunk_overlap_tokens,
            limits=job.limits,
            state_dir=None if job.state_dir is None else Path(job.state_dir),
            progress=tell,
        )

    return await to_thread.run_sync(work)
