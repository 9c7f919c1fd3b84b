"""Puts the engine together from the settings.

Cheap to import. LlamaIndex takes seconds to load, which happens here in a thread, so that the
event loop goes on answering probes and sockets.
"""

from __future__ import annotations

import importlib
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from anyio import to_thread

from ragsocket.engine.models.choice import LocalFile, local_model
from ragsocket.errors import ConfigError
from ragsocket.settings import Settings

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM

    from ragsocket.engine.compose import RagEngine
    from ragsocket.engine.token_stream import TokenStream

log = logging.getLogger("ragsocket.engine")


async def load_engine(
    settings: Settings, *, llm: LLM | None = None, embed_model: BaseEmbedding | None = None
) -> RagEngine:
    """Import what is heavy in a thread, open the index, and compose the engine.

    Documents are not ingested here, see `RagEngine.ingest`; and a model on this machine answers
    while `RagEngine.run` runs.

    Args:
        settings: the operator's choices.
        llm: a LlamaIndex LLM to use in place of the server in the settings.
        embed_model: a LlamaIndex embedding to use in place of the one in the settings.

    Raises:
        ConfigError: the settings name something that cannot be used, or the index is damaged.
    """
    await to_thread.run_sync(importlib.import_module, "ragsocket.engine.compose")
    # From here on these are look-ups.
    from ragsocket.engine.catalog import Catalog
    from ragsocket.engine.compose import RagEngine
    from ragsocket.engine.index import Index
    from ragsocket.engine.kept import KeptBytes
    from ragsocket.engine.prompt import Profile
    from ragsocket.engine.rerank import RerankSettings, open_reranker
    from ragsocket.engine.uploads import Uploads

    def open_uploads() -> tuple[Catalog, KeptBytes]:
        kept = KeptBytes(settings.uploads_path)
        catalog = Catalog(settings.catalog_path)
        kept.keep_only(catalog.every_bytes())
        return catalog, kept

    async with AsyncExitStack() as opened:
        asks = embed_model or await _embedding(settings, opened)
        file = local_model(settings) if llm is None else None
        if file is not None:
            tokens: TokenStream | None = _local(file, settings)
            profile = Profile.small(file.context_tokens)
        else:
            tokens = _token_stream(settings, llm)
            profile = Profile.usual(settings.context_tokens)
        if settings.query == "model" and (tokens is None or profile.is_small):
            raise ConfigError(
                "RAGSOCKET_QUERY=model needs a model that can write search queries: set "
                "RAGSOCKET_LLM_URL and RAGSOCKET_LLM_MODEL, or RAGSOCKET_QUERY=turns."
            )
        reranking = RerankSettings.from_settings(settings)
        reranker = await opened.enter_async_context(open_reranker(reranking)) if reranking else None
        catalog, kept = await to_thread.run_sync(open_uploads)
        opened.callback(catalog.close)
        index = Index(settings.index_path, asks, catalog, reranker)
        opened.callback(index.close)
        await index.open()
        return RagEngine(
            index,
            tokens,
            settings,
            embed_model=embed_model,
            profile=profile,
            uploads=Uploads(index, catalog, kept, settings, embed_model),
            closes=opened.pop_all(),
        )


def _local(file: LocalFile, settings: Settings) -> TokenStream:
    from ragsocket.engine.models.local import LocalModel, Waits

    return LocalModel(
        file,
        slots=settings.llm_slots,
        threads=settings.llm_threads,
        max_output_tokens=settings.max_output_tokens,
        waits=Waits(
            connect_s=settings.connect_timeout_s,
            first_token_s=settings.first_token_timeout_s,
            token_s=settings.token_timeout_s,
        ),
    )


async def _embedding(settings: Settings, opened: AsyncExitStack) -> BaseEmbedding | None:
    from ragsocket.engine.embeddings import open_embedding
    from ragsocket.engine.ingestion import BuiltInEmbed, choose_embedding

    chosen = choose_embedding(settings)
    if chosen is None:
        return None
    try:
        return await opened.enter_async_context(open_embedding(chosen))
    except ConfigError as error:
        if not isinstance(chosen, BuiltInEmbed):
            raise
        # Nobody asked for it by name, and words alone answer as well.
        log.error("searching by words alone: %s", error)
        return None


def _token_stream(settings: Settings, llm: LLM | None) -> TokenStream | None:
    from ragsocket.engine.adapter import LlamaIndexTokenStream
    from ragsocket.engine.token_stream import OpenAICompatible

    if llm is not None:
        return LlamaIndexTokenStream(llm)
    if settings.llm_url is None or settings.llm_model in (None, "none"):
        return None
    key = settings.llm_api_key
    return OpenAICompatible(
        settings.llm_url,
        (str(settings.llm_model),),
        api_key=key.get_secret_value() if key else None,
        connect_timeout_s=settings.connect_timeout_s,
        first_token_timeout_s=settings.first_token_timeout_s,
        token_timeout_s=settings.token_timeout_s,
    )
