"""Every setting, in one place: environment `RAGSOCKET_…`, `ragsocket.toml`, or the command line.

Order of precedence: what is passed to `Settings(...)` (the command line), the environment,
`ragsocket.toml` in the working directory, the default here.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ragsocket.errors import ConfigError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """True if a bind address or host name can only be reached from this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(BaseSettings):
    """The operator's choices. Units stand in the names: `_s` seconds, `_bytes` bytes."""

    model_config = SettingsConfigDict(
        env_prefix="RAGSOCKET_",
        toml_file="ragsocket.toml",
        extra="forbid",
        frozen=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data: Path | None = Field(None, description="Folder of documents to answer from.")
    watch: bool = Field(
        False, description="Read the folder again whenever something in it changes."
    )
    state_dir: Path = Field(
        Path(".ragsocket"), description="Where the index and the conversations are kept."
    )
    workers: Annotated[Literal[1], BeforeValidator(int)] = Field(
        1, description="Worker processes; one is all there is today."
    )

    llm_url: str | None = Field(
        None,
        description="Base URL of an OpenAI-compatible server, for example http://127.0.0.1:11434/v1.",
    )
    llm_model: str | None = Field(
        None,
        description=(
            "Model to ask of that server; without a server a model to run here: a name that "
            "`ragsocket models list` shows, or a .gguf file. `none` answers with extracts from "
            "the documents."
        ),
    )
    llm_api_key: SecretStr | None = Field(None, description="Key for that server.")
    llm_fallback: Literal["fail", "extracts"] | None = Field(
        None,
        description=(
            "What an answer becomes that the model gives no word of: `fail` an error, `extracts` "
            "extracts from the documents; none means extracts for a model here, and an error for "
            "a server."
        ),
    )
    llm_images: bool = Field(False, description="Whether the model takes pictures (`input_image`).")
    llm_slots: int = Field(4, ge=1, le=64, description="Answers that a model here writes at once.")
    llm_threads: int | None = Field(
        None, ge=1, description="Threads of a model here; none takes one per processor."
    )
    models_dir: Path = Field(
        Path("~/.cache/ragsocket/models"), description="Where models that run here are kept."
    )
    embed_url: str | None = Field(
        None,
        description="Base URL of an OpenAI-compatible embeddings server; without one, the built-in "
        "model embeds where the extra `local` is installed.",
    )
    embed_model: str | None = Field(
        None,
        description="Embedding model to ask of that server; `none` searches by words (BM25) alone.",
    )
    instructions: str | None = Field(
        None, description="Extra instructions for the model, in every prompt."
    )

    context_tokens: int = Field(
        4096, ge=256, description="Prompt budget in tokens: instructions, passages and history."
    )
    max_output_tokens: int = Field(
        1024, ge=1, description="Upper bound of generated tokens when a request names none."
    )
    similarity_top_k: int = Field(5, ge=1, le=50, description="Passages per answer.")
    search: Literal["auto", "never"] = Field(
        "auto", description="`never` answers from the conversation alone."
    )
    query: Literal["turns", "last", "model"] = Field(
        "turns",
        description="What is searched for: the last three user turns, the `last` one alone, or "
        "for a follow-up what the `model` makes of the conversation (a call of it, first).",
    )
    query_timeout_s: float = Field(
        5, gt=0, description="For the model to write a search query; then the last turns serve."
    )
    rerank_url: str | None = Field(
        None,
        description="Base URL of a server that orders passages, `POST {url}/rerank` as Jina, "
        "llama.cpp and vLLM have it, for example http://127.0.0.1:8081/v1.",
    )
    rerank_model: str | None = Field(None, description="Model to ask of that server.")
    rerank_api_key: SecretStr | None = Field(None, description="Key for that server.")
    rerank_top_n: int = Field(20, ge=1, le=200, description="Passages that the reranker is shown.")
    rerank_timeout_s: float = Field(
        2, gt=0, description="For the reranker to answer; then the search's own order stands."
    )
    gate_min_score: float = Field(
        0.18,
        ge=0,
        le=1,
        description="Below this best score, and below the coverage, the documents cannot answer.",
    )
    gate_min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the question's words (by weight) that the best passage must hold.",
    )
    gate_min_assent: float | None = Field(
        None,
        description="How sure a small model must be that the documents answer: its Yes over No "
        "(difference of logarithms) plus four times the best score. None: as its catalog says; "
        "-100 does not ask it.",
    )
    chunk_tokens: int = Field(256, ge=32, le=2048, description="Size of a passage.")
    chunk_overlap_tokens: int = Field(32, ge=0, le=512, description="Overlap of two passages.")

    read_within_s: float = Field(
        8,
        gt=0,
        le=600,
        description="How long a document may take to its first page, slide or sheet; each of those "
        "adds 0.2 s. One that takes longer is refused by name.",
    )
    read_memory_bytes: int = Field(
        512 * 1024 * 1024,
        ge=128 * 1024 * 1024,
        description="Memory that reading one document may take.",
    )
    read_file_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="Largest document that is read."
    )

    connect_timeout_s: float = Field(10, gt=0, description="To reach the model's server.")
    first_token_timeout_s: float = Field(120, gt=0, description="To the model's first token.")
    token_timeout_s: float = Field(60, gt=0, description="Between two tokens of the model.")

    database_url: str | None = Field(
        None,
        description="Where conversations are kept: `sqlite:///FILE`, or `postgresql://…` (extra "
        "`postgres`); none means SQLite in the state directory. See `docs/deploy.md`.",
    )
    database_pool_size: int = Field(
        5, ge=1, description="Connections to Postgres, beside two that tell that this server lives."
    )
    database_wait_s: float = Field(
        30, ge=0, description="How long a start waits for a Postgres that cannot be reached."
    )
    detach_grace_s: float = Field(
        30,
        ge=0,
        description="How long an answer goes on while nobody listens (sockets, EventSource).",
    )
    drain_s: float = Field(
        25,
        ge=0,
        description="How long running answers may go on after SIGTERM before they are cut.",
    )
    commit_timeout_s: float = Field(
        10,
        gt=0,
        description="To store an answer at its end, and for all else that the database is asked.",
    )
    max_frame_bytes: int = Field(
        1024 * 1024, ge=1024, description="Largest client frame and request body."
    )
    max_upload_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="Largest file that may be uploaded."
    )
    max_uploads_bytes: int = Field(
        1024 * 1024 * 1024, ge=1, description="All uploaded files of one owner together."
    )
    max_vector_stores: int = Field(
        100, ge=1, description="Vector stores of one owner, beside that of the folder."
    )
    max_files_in_progress: int = Field(
        1000, ge=1, description="Uploaded files of one owner that may wait to be taken in."
    )
    replay_events: int = Field(
        4096,
        ge=16,
        description="Newest events of an answer that are kept for followers that come back; older "
        "ones are dropped once every follower was handed them. One that is behind by four times as "
        "many is cut off (4460).",
    )
    replay_bytes: int = Field(
        1024 * 1024, ge=1024, description="The same, in bytes of encoded events."
    )
    replay_s: float = Field(
        60, ge=0, description="How long the events of an answer are kept after its end."
    )
    replay_answers: int = Field(
        2000, ge=0, description="Answers that have ended whose events are kept, at most."
    )
    replay_total_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bytes of their encoded events, all together."
    )
    max_lanes: int = Field(32, ge=1, description="Lanes per connection.")
    max_unfinished: int = Field(64, ge=1, description="Unfinished responses per connection.")
    malformed_budget: int = Field(
        20, ge=1, description="Malformed frames per minute before a connection is closed (4400)."
    )

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of web pages that may connect, comma-separated; also the CORS list.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Host names that this server answers to beside its own address."
    )
    allow_anonymous: bool = Field(
        False, description="Allow anybody who can reach a non-loopback address."
    )

    @field_validator("allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
                raise ValueError(f"{origin!r} is not an origin; write it as https://example.org")
        return tuple(origin.lower() for origin in value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, then environment, then `ragsocket.toml`."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def check(self) -> None:
        """Refuse combinations that cannot work or are not safe.

        Raises:
            ConfigError: names the setting and the fix.
        """
        if not is_loopback(self.host) and not self.allow_anonymous:
            raise ConfigError(
                f"refusing to listen on {self.host}: anybody who reaches it could read the "
                "documents. Listen on 127.0.0.1, or set RAGSOCKET_ALLOW_ANONYMOUS=1 to allow it."
            )
        if self.llm_url and not self.llm_model:
            raise ConfigError(
                "an LLM URL needs a model name: set RAGSOCKET_LLM_MODEL or --llm-model."
            )
        if self.embed_url and not self.embed_model:
            raise ConfigError("an embeddings URL needs a model name: set RAGSOCKET_EMBED_MODEL.")
        if self.embed_model not in (None, "none") and not self.embed_url:
            raise ConfigError(
                f"the embedding model {self.embed_model!r} needs a server: set "
                "RAGSOCKET_EMBED_URL, or leave RAGSOCKET_EMBED_MODEL out for the built-in model."
            )
        if self.rerank_model and not self.rerank_url:
            raise ConfigError("a reranker's model needs its server: set RAGSOCKET_RERANK_URL.")
        if self.chunk_overlap_tokens >= self.chunk_tokens:
            raise ConfigError("chunk_overlap_tokens must be smaller than chunk_tokens.")

    @property
    def models_path(self) -> Path:
        """Where models that run here are kept, with `~` resolved."""
        return self.models_dir.expanduser()

    @property
    def history_url(self) -> str:
        """URL of the conversations' database."""
        if self.database_url:
            return self.database_url
        return f"sqlite:///{self.state_dir / 'history.sqlite3'}"

    @property
    def index_path(self) -> Path:
        """The SQLite file of passages and vectors; BM25 indexes stand beside it."""
        return self.state_dir / "index" / "passages.sqlite3"

    @property
    def catalog_path(self) -> Path:
        """The SQLite file that knows uploaded files and vector stores."""
        return self.state_dir / "index" / "catalog.sqlite3"

    @property
    def uploads_path(self) -> Path:
        """Where the bytes of uploaded files are kept."""
        return self.state_dir / "files"
