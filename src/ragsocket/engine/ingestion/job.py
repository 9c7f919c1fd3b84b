"""What an ingestion is given and what it tells. Pure; also the messages between the processes.

The parent writes one `Job` as a line of JSON to the child's stdin; the child answers with one
`Message` per line on stdout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from ragsocket.engine import minilm
from ragsocket.engine.reading.document import Limits
from ragsocket.settings import Settings

DEFAULT_OWNER = "local"
DEFAULT_VECTOR_STORE = "vs_default"
UPLOADS_OF_DEFAULT = "vs_default_uploads"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """An OpenAI-compatible embeddings server.

    Attributes:
        url: base URL, up to and without `/embeddings`.
        model: name of the model to ask for.
        api_key: bearer token, or None.
        batch: texts per request.
        connect_timeout_s: to reach the server.
        timeout_s: for one whole request.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    batch: int = 64
    connect_timeout_s: float = 10.0
    timeout_s: float = 120.0

    @classmethod
    def from_settings(cls, settings: Settings) -> EmbedSettings | None:
        """Return the server that the operator named, or None for words alone.

        The model server's key is used only where both URLs name the same server.
        """
        if not settings.embed_url or settings.embed_model in (None, "none"):
            return None
        key = None
        if settings.llm_url and settings.llm_api_key:
            ours, theirs = urlsplit(settings.embed_url), urlsplit(settings.llm_url)
            if (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc):
                key = settings.llm_api_key.get_secret_value()
        return cls(
            settings.embed_url,
            str(settings.embed_model),
            key,
            connect_timeout_s=settings.connect_timeout_s,
        )


@dataclass(frozen=True, slots=True)
class BuiltInEmbed:
    """The embedding model that comes with the extra `local`.

    Attributes:
        built_in: its name.
    """

    built_in: str


def choose_embedding(settings: Settings) -> EmbedSettings | BuiltInEmbed | None:
    """Return the server that the operator named, else the built-in model if it is installed.

    None stands for words alone: the operator wants that, or there is neither.
    """
    if settings.embed_url or settings.embed_model == "none":
        return EmbedSettings.from_settings(settings)
    return None if minilm.missing() else BuiltInEmbed(minilm.MODEL_NAME)


def reading_limits(settings: Settings) -> Limits:
    """Return what reading one file may cost, as the operator wants it."""
    return Limits(
        file_bytes=settings.read_file_bytes,
        memory_bytes=settings.read_memory_bytes,
        first_s=settings.read_within_s,
    )


def uploads_part(vector_store_id: str) -> str:
    """Return where the passages of a store's uploaded files are kept.

    The default store keeps them apart from those of the folder: what is read there leaves them
    alone, and an upload does not make the index of the folder anew.
    """
    return UPLOADS_OF_DEFAULT if vector_store_id == DEFAULT_VECTOR_STORE else vector_store_id


def parts_of(vector_store_id: str) -> tuple[str, ...]:
    """Return everything that is searched in a store."""
    return tuple(dict.fromkeys((vector_store_id, uploads_part(vector_store_id))))


def store_of(part: str) -> str:
    """Return the store that a part of one belongs to."""
    return DEFAULT_VECTOR_STORE if part == UPLOADS_OF_DEFAULT else part


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file that a store shall hold.

    Attributes:
        file_id: `file_…`.
        name: what people call it.
        path: where its bytes are; how it is read follows from the suffix.
    """

    file_id: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an ingestion is.

    Attributes:
        stage: `waiting` for another ingestion, `reading` files, `embedding` passages,
            `indexing` all passages.
        done: files or passages that are behind.
        total: files or passages of this stage; 0 while unknown.
        file: the file being read, relative to the folder or as it was uploaded, or None.
        revision: what this ingestion has published so far; 0 before that.
    """

    stage: Literal["waiting", "reading", "embedding", "indexing"]
    done: int = 0
    total: int = 0
    file: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingestion did.

    Attributes:
        added: files that are new.
        changed: files whose content (or whose way of splitting) changed.
        unchanged: files left as they were.
        removed: files that are gone.
        failed: file and reason for each one that could not be taken in, in every run.
        passages: passages in the store now.
        revision: the index revision now; the same as before if nothing changed.
        seconds: wall-clock time.
        notes: other things an operator should know, as sentences.
        unembedded: passages without a vector that should have one.
        read: files that were opened and read, because they were new or looked changed.
    """

    added: int
    changed: int
    unchanged: int
    removed: int
    failed: tuple[tuple[str, str], ...]
    passages: int
    revision: int
    seconds: float
    notes: tuple[str, ...] = ()
    unembedded: int = 0
    read: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One ingestion, as sent to the child process; paths are absolute.

    Attributes:
        documents: the folder, or the uploaded files that the store shall hold.
        server: embeds the passages.
        built_in: embeds them in its place; without either, words alone.
        limits: what reading a file may cost.
        state_dir: our own files, which are no documents wherever they stand.
    """

    documents: str | tuple[Upload, ...]
    index_path: str
    chunk_tokens: int
    chunk_overlap_tokens: int
    vector_store_id: str = DEFAULT_VECTOR_STORE
    owner: str = DEFAULT_OWNER
    server: EmbedSettings | None = None
    built_in: BuiltInEmbed | None = None
    limits: Limits = field(default_factory=Limits)
    state_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One line from the child; exactly one of the fields is set.

    Attributes:
        config_error: text of a `ConfigError`, which ends the ingestion.
    """

    progress: Progress | None = None
    report: Report | None = None
    config_error: str | None = None


def to_line(value: object) -> bytes:
    """Return a Job or a Message as one line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def from_line(kind: type[T], line: bytes) -> T:
    """Read what `to_line` wrote.

    Raises:
        msgspec.DecodeError: the line is something else.
    """
    return msgspec.json.decode(line, type=kind)
