"""Files and vector stores on the wire: what is asked with a JSON body, and the resources.

The shapes are those of the Files and Vector Stores API, as the `openai` package carries them;
what is ours stands in the extra field `ragsocket`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ragsocket.protocol.errors import not_supported
from ragsocket.protocol.resources import AttributeKey, AttributeValue, FileFilter, Metadata, Wire

PURPOSES = ("assistants", "user_data")
GIVEN_ATTRIBUTES = ("file_id", "file_name")
MOST_FILES = 500

Id = Annotated[str, Field(min_length=1, max_length=128)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
MemberStatus = Literal["in_progress", "completed", "failed", "cancelled"]


def _not_given(attributes: dict[str, Any]) -> dict[str, Any]:
    for key in GIVEN_ATTRIBUTES:
        if key in attributes:
            raise ValueError(f"{key} is an attribute that every file has; leave it out")
    return attributes


FileAttributes = Annotated[
    dict[AttributeKey, AttributeValue], Field(max_length=16), AfterValidator(_not_given)
]


class Request(Wire):
    """Base of what is asked; fields that would change what happens are refused by name."""

    REFUSED: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, reason in cls.REFUSED.items():
            value = data.get(name)
            if value is not None and value is not False and value != {"type": "auto"}:
                raise not_supported(name, reason)
        return {
            key: value
            for key, value in data.items()
            if key not in cls.REFUSED and value is not None
        }


_CHUNKING = {"chunking_strategy": "all files are split as the operator chose"}
_EXPIRY = {"expires_after": "nothing is deleted by itself"}


class VectorStoreCreate(Request):
    """Make a vector store."""

    REFUSED: ClassVar = {**_CHUNKING, **_EXPIRY}

    name: Name = Field("Vector store", description="For people.")
    description: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="For people."
    )
    file_ids: Annotated[tuple[Id, ...], Field(max_length=MOST_FILES)] = Field(
        (), description="Uploaded files to begin with."
    )
    metadata: Metadata = Field({}, description="Up to 16 pairs, kept with it.")


class VectorStoreUpdate(Request):
    """Change a vector store; what is left out stays."""

    REFUSED: ClassVar = _EXPIRY

    name: Name | None = Field(None, description="For people.")
    metadata: Metadata | None = Field(None, description="In place of all pairs there are.")


class VectorStoreFileCreate(Request):
    """Bring an uploaded file into a vector store."""

    REFUSED: ClassVar = _CHUNKING

    file_id: Id = Field(description="The uploaded file.")
    attributes: FileAttributes | None = Field(
        None, description="Up to 16 pairs for filters to look at; none keeps those it has."
    )


class VectorStoreFileBatchCreate(Request):
    """Bring several uploaded files into a vector store."""

    REFUSED: ClassVar = _CHUNKING

    file_ids: Annotated[tuple[Id, ...], Field(max_length=MOST_FILES)] = Field(
        (), description="The uploaded files, or else `files`."
    )
    attributes: FileAttributes | None = Field(
        None, description="Pairs for every file in `file_ids`."
    )
    files: Annotated[tuple[VectorStoreFileCreate, ...], Field(max_length=MOST_FILES)] = Field(
        (), description="The uploaded files, each with attributes of its own."
    )

    @model_validator(mode="after")
    def _one_list(self) -> VectorStoreFileBatchCreate:
        if bool(self.file_ids) == bool(self.files):
            raise ValueError("name the files in file_ids or in files, one of the two")
        return self


class VectorStoreFileUpdate(Request):
    """Replace the attributes of a file in a vector store."""

    attributes: FileAttributes = Field({}, description="In place of all pairs there are.")


class RankingOptions(Request):
    """How passages are ranked."""

    ranker: str | None = Field(
        None, description="`none`: without the reranker; any other is the reranker if there is one."
    )
    score_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Passages of a lower score are left out."
    )


class VectorStoreSearch(Request):
    """Search a vector store."""

    REFUSED: ClassVar = {"rewrite_query": "queries are searched for as they are"}

    query: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=10)
        ]
    ) = Field(description="What to search for; of several, each passage's best score counts.")
    filters: FileFilter | None = Field(None, description="Which files may be found.")
    max_num_results: Annotated[int, Field(ge=1, le=50)] = Field(
        10, description="How many passages at most."
    )
    ranking_options: RankingOptions = Field(
        RankingOptions(), description="How passages are ranked."
    )


class FileFacts(Wire):
    """What this server adds to a file.

    Attributes:
        in_folder: True for a file of the folder of documents, which changes there alone.
    """

    in_folder: bool


class FileObject(Wire):
    """A file: uploaded, or in the folder of documents."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["assistants", "user_data"]
    status: Literal["processed", "error"]
    status_details: str | None = None
    expires_at: None = None
    ragsocket: FileFacts


class FileCounts(Wire):
    """How many files of a vector store have which status."""

    cancelled: int
    completed: int
    failed: int
    in_progress: int
    total: int


class VectorStoreFacts(Wire):
    """What this server adds to a vector store.

    Attributes:
        is_folder: True for the store of the folder of documents, which answers are made from
            that name no store.
        index_revision: revision that a search runs on; 0 before the first.
        sample_questions: questions that one could ask of it; the folder says which, in its file
            `questions.jsonl`.
    """

    is_folder: bool
    index_revision: int
    sample_questions: tuple[str, ...] = ()


class VectorStoreObject(Wire):
    """Files that are searched together."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str | None = None
    metadata: dict[str, str]
    file_counts: FileCounts
    status: Literal["in_progress", "completed"]
    usage_bytes: int
    last_active_at: int
    expires_after: None = None
    expires_at: None = None
    ragsocket: VectorStoreFacts


class LastError(Wire):
    """Why a file could not be taken in."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class Chunks(Wire):
    """Size and overlap of passages, in tokens of about four bytes."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class ChunkingStrategy(Wire):
    """How a file is split."""

    type: Literal["static"] = "static"
    static: Chunks


class VectorStoreFileFacts(Wire):
    """What this server adds to a file in a vector store.

    Attributes:
        filename: as the file itself has it.
        in_folder: True for a file of the folder of documents, which changes there alone.
    """

    filename: str
    in_folder: bool


class VectorStoreFileObject(Wire):
    """A file in a vector store; `completed` once its passages can be found."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    vector_store_id: str
    created_at: int
    status: MemberStatus
    last_error: LastError | None
    usage_bytes: int
    attributes: dict[str, AttributeValue]
    chunking_strategy: ChunkingStrategy
    ragsocket: VectorStoreFileFacts


class VectorStoreFileBatchObject(Wire):
    """Files that came into a vector store together, and how far they are."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    vector_store_id: str
    created_at: int
    status: Literal["in_progress", "completed", "cancelled"]
    file_counts: FileCounts


class Deleted(Wire):
    """What was deleted."""

    id: str
    object: Literal["file", "vector_store.deleted", "vector_store.file.deleted"]
    deleted: Literal[True] = True


class TextContent(Wire):
    """A passage."""

    type: Literal["text"] = "text"
    text: str


class VectorStoreSearchResult(Wire):
    """A passage that was found, and its file."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, AttributeValue]
    content: tuple[TextContent, ...]


class VectorStoreSearchResults(Wire):
    """Everything that was found, best first."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: tuple[str, ...]
    data: tuple[VectorStoreSearchResult, ...]
    has_more: Literal[False] = False
    next_page: None = None


class VectorStoreFileContent(Wire):
    """All passages of a file, in order."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: tuple[TextContent, ...]
    has_more: Literal[False] = False
    next_page: None = None
