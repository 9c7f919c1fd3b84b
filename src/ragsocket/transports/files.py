"""`/v1/files`: upload, list, look up, read and delete files."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

import anyio
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse

from ragsocket.engine.documents import Documents, StoredFile
from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.files import PURPOSES, Deleted, FileFacts, FileObject
from ragsocket.protocol.listing import Page, Part
from ragsocket.settings import Settings
from ragsocket.transports.listing import Cursor, Order, page

FORM_BYTES = 64 * 1024
"""What a form may hold beside its file."""

READ_ON_S = 5.0
"""A client that is still sending sees the answer only if somebody reads on."""

CHUNK_BYTES = 256 * 1024

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "Text in UTF-8, PDF, Office, a web page, a notebook.",
                        },
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                }
            }
        },
    }
}

FileId = Annotated[str, Path(description="The file, `file_…`.")]


def router(owner: str) -> APIRouter:
    """Return the doors; documents and settings are taken from the application's state."""
    doors = APIRouter(prefix="/v1/files", tags=["files"])
    # It warns of every byte that a client gets wrong, which the client is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    @doors.post("", openapi_extra=UPLOAD)
    async def upload(request: Request) -> FileObject:
        """Keep a file. What kind it is, its content decides.

        It is searched once it is in a vector store.
        """
        settings: Settings = request.app.state.settings
        form = MultiPartParser(
            request.headers,
            _bounded(request, settings.max_upload_bytes),
            max_files=1,
            max_fields=8,
            max_part_size=FORM_BYTES,
        )
        try:
            if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                raise MultiPartException("its content type is another")
            fields = await form.parse()
        except (MultiPartException, UnicodeError) as error:
            # The form names its encoding, and some of those fail in their own way.
            why = error.message if isinstance(error, MultiPartException) else "it is garbled"
            raise RequestError(
                ErrorCode.INVALID_EVENT,
                "the body must be multipart/form-data with a file and a purpose: "
                f"{why[:1].lower()}{why[1:100].rstrip('.')}.",
            ) from None
        try:
            file, purpose = _checked(dict(fields), settings.max_upload_bytes)
            kept = await documents_of(request).add_file(
                owner, file.filename or "", file.file, purpose
            )
        finally:
            await fields.close()
        return _resource(kept)

    @doors.get("")
    async def list_files(
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=10_000, description="How many at most.")] = 10_000,
        order: Order = "desc",
        after: Cursor = None,
        purpose: Annotated[str | None, Query(description="Only those of this purpose.")] = None,
    ) -> Page[FileObject]:
        """List files, those of the folder of documents too."""
        files = [_resource(file) for file in await documents_of(request).files(owner)]
        if purpose is not None:
            files = [file for file in files if file.purpose == purpose]
        return page(files, Part(after, limit, descending=order == "desc"))

    @doors.get("/{file_id}")
    async def look_up(request: Request, file_id: FileId) -> FileObject:
        """Look a file up."""
        return _resource(await documents_of(request).file(owner, file_id))

    @doors.get("/{file_id}/content", response_class=Response)
    async def content(request: Request, file_id: FileId) -> Response:
        """Read the bytes of a file, to be saved and never to be shown in the place of a page."""
        file, bytes = await documents_of(request).content(owner, file_id)
        return StreamingResponse(
            _chunks(bytes),
            media_type="application/octet-stream",
            headers={
                "Content-Disposition": f"attachment; filename*=utf-8''{quote(file.name, safe='')}",
                "Content-Security-Policy": "sandbox; default-src 'none'",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            },
        )

    @doors.delete("/{file_id}")
    async def delete(request: Request, file_id: FileId) -> Deleted:
        """Delete an uploaded file, and take it out of every vector store."""
        await documents_of(request).delete_file(owner, file_id)
        return Deleted(id=file_id, object="file")

    return doors


def documents_of(request: Request) -> Documents:
    """Return the files and vector stores of the application."""
    documents: Documents = request.app.state.documents()
    return documents


async def _bounded(request: Request, most_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a body that is read no further than a file's limit and a form's.

    Raises:
        RequestError: it is longer.
    """
    read = 0
    stream = request.stream()
    async for chunk in stream:
        read += len(chunk)
        if read > most_bytes + FORM_BYTES:
            with anyio.move_on_after(READ_ON_S):
                async for _ in stream:
                    pass
            raise _too_large(most_bytes)
        yield chunk


def _too_large(most_bytes: int) -> RequestError:
    return RequestError(
        ErrorCode.BODY_TOO_LARGE,
        f"the file is larger than {most_bytes} bytes, which is the limit.",
        param="file",
        status=413,
    )


def _checked(fields: dict[str, UploadFile | str], most_bytes: int) -> tuple[UploadFile, str]:
    """Return file and purpose of a form.

    Raises:
        RequestError: one is missing or wrong, or there is more.
    """
    file, purpose = fields.pop("file", None), fields.pop("purpose", None)
    if not isinstance(file, UploadFile):
        raise RequestError(
            ErrorCode.INVALID_EVENT, "file is missing: send one, with its name.", param="file"
        )
    if purpose not in PURPOSES:
        raise RequestError(
            ErrorCode.INVALID_EVENT,
            f"purpose must be {' or '.join(PURPOSES)}: files are searched here, nothing else.",
            param="purpose",
        )
    for name in fields:
        param = name[:64]
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            f"{param} is not a field of this form; it has file and purpose.",
            param=param,
        )
    if file.size is not None and file.size > most_bytes:
        raise _too_large(most_bytes)
    return file, str(purpose)


async def _chunks(content: BinaryIO) -> AsyncIterator[bytes]:
    with content:
        while chunk := await to_thread.run_sync(content.read, CHUNK_BYTES):
            yield chunk


def _resource(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.size,
        created_at=file.created_at,
        filename=file.name,
        purpose="user_data" if file.purpose == "user_data" else "assistants",
        status="processed" if file.error is None else "error",
        status_details=file.error,
        ragsocket=FileFacts(in_folder=file.in_folder),
    )
