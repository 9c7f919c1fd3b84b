"""An engine that is there before it is loaded.

LlamaIndex takes seconds to import, and a folder may take minutes to ingest. The port opens
first; whoever asks early waits here, and `readiness` says what for.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ragsocket.engine.base import EngineEvent, Question
from ragsocket.engine.documents import Documents
from ragsocket.engine.models.choice import local_model
from ragsocket.errors import EngineError, RagsocketError, RequestError
from ragsocket.settings import Settings

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM

    from ragsocket.engine.compose import RagEngine
    from ragsocket.engine.ingestion import Progress

log = logging.getLogger("ragsocket.engine")

WAIT_S = 120.0
"""How long a question waits for an engine that is still being loaded."""

CLOSE_WITHIN_S = 5.0
"""How long the engine may take to close the connections to the model."""

EXTRACTIVE = "ragsocket-extractive"
"""Name of the answerer that quotes the documents and needs no model."""


class LateEngine:
    """Loads the composed engine in the background and stands in for it until then.

    Raises:
        ConfigError: the settings name a model that cannot be run here.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        llm: LLM | None = None,
        embed_model: BaseEmbedding | None = None,
    ) -> None:
        self._settings = settings
        self._llm = llm
        self._embed_model = embed_model
        self._local = local_model(settings) if llm is None else None
        self._engine: RagEngine | None = None
        self._missing = {"engine": "loading"}
        self._settled = anyio.Event()
        self._changed = anyio.Event()
        self._unread: Mapping[str, str] = {}

    @property
    def models(self) -> Sequence[str]:
        """What can be asked for; known before the engine is."""
        if self._engine is not None:
            return self._engine.models
        if self._llm is not None:
            return (self._llm.metadata.model_name,)
        if self._local is not None:
            return (self._local.name,)
        name = self._settings.llm_model
        return (EXTRACTIVE,) if name in (None, "none") else (str(name),)

    def readiness(self) -> Mapping[str, str]:
        """What questions still have to wait for."""
        if self._engine is None:
            return self._missing
        return {**self._engine.readiness(), **self._missing}

    @property
    def documents(self) -> Documents:
        """Files and vector stores.

        Raises:
            RequestError: the engine is not loaded yet.
        """
        if self._engine is None or self._engine.uploads is None:
            raise RequestError(
                "engine_not_ready",
                "the engine is not ready; /readyz says what is missing.",
                status=503,
            )
        return self._engine.uploads

    async def load(self) -> None:
        """Import, open the index, ingest the folder; ends when all that is done or failed."""
        from ragsocket.engine.load import load_engine

        settings = self._settings
        try:
            self._engine = await load_engine(settings, llm=self._llm, embed_model=self._embed_model)
        except RagsocketError as error:
            log.error("the engine cannot be loaded: %s", error)
            self._missing = {"engine": str(error)}
            self._settled.set()
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._engine.run)
                if settings.data is not None and settings.watch:
                    tasks.start_soon(self._watch, settings.data)
                while True:
                    # Before reading: what changes meanwhile is read next.
                    self._changed = anyio.Event()
                    await self._read_documents(self._engine)
                    await self._changed.wait()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_WITHIN_S):
                await self._engine.aclose()

    async def _watch(self, folder: Path) -> None:
        """Have the folder read again whenever something in it changes."""
        from ragsocket.engine.watching import changes

        try:
            async with aclosing(changes(folder, but=self._settings.state_dir)) as noticed:
                async for _ in noticed:
                    self._changed.set()
        except OSError as error:
            log.error("changes of %s are not noticed: %s", folder, error)

    async def _read_documents(self, engine: RagEngine) -> None:
        """Bring the index in line with the folder; an older revision answers meanwhile."""

        def tell(progress: Progress) -> None:
            waiting = "documents" in engine.readiness()
            read = f"{progress.stage}, {progress.done} of {progress.total}"
            self._missing = {"documents": read} if waiting else {}

        def answer_from_what_is_there() -> None:
            self._missing = {}
            self._settled.set()

        folder = self._settings.data
        self._missing = {}
        if "documents" not in engine.readiness():
            self._settled.set()
        if folder is not None:
            try:
                report = await engine.ingest(
                    folder, on_progress=tell, on_refreshed=answer_from_what_is_there
                )
            except RagsocketError as error:
                log.error("the documents could not be read: %s", error)
                waiting = "documents" in engine.readiness()
                self._missing = {"documents": str(error)} if waiting else {}
            else:
                unread = dict(report.failed)
                for file, reason in unread.items():
                    if self._unread.get(file) != reason:
                        log.warning("%s was not read: %s", file, reason)
                self._unread = unread
                self._missing = {}
                log.info("revision %d holds %d passages", report.revision, report.passages)
        self._settled.set()

    def answer(self, question: Question) -> AsyncGenerator[EngineEvent]:
        """See `Engine.answer`; a question that comes too early waits.

        Raises:
            EngineError: it could not be loaded, or not in time.
        """
        if self._engine is not None and self._settled.is_set():
            # Nothing stands between the engine and who iterates it: that would cost per token.
            return self._engine.answer(question)
        return self._answer_late(question)

    async def _answer_late(self, question: Question) -> AsyncGenerator[EngineEvent]:
        with anyio.move_on_after(WAIT_S):
            await self._settled.wait()
        if self._engine is None or not self._settled.is_set():
            raise EngineError(
                "engine_not_ready",
                "the engine is not ready; /readyz says what is missing.",
                retryable=True,
            )
        async with aclosing(self._engine.answer(question)) as events:
            async for event in events:
                yield event
