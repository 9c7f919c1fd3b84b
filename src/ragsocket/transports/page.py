"""`/`: the page, a chat over the documents, and the files it is made of under `/assets/`.

They lie in `ragsocket/web`, are read once, and are sent just as they are: what a browser runs is
what people read there. Every load asks whether they changed, so that an upgrade never leaves old
files beside new ones.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        # The sanitiser's, which is the one place where text becomes elements.
        "trusted-types dompurify",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What a browser may load, by suffix; other files (licences, lists) are for people alone."""

INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, ready to be sent.

    Attributes:
        body: its bytes.
        compressed: the same in gzip.
        media_type: of the body.
        tag: its ETag, weak because one stands for both forms.
    """

    body: bytes
    compressed: bytes
    media_type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file that a browser may load, by its path below `ragsocket/web`."""
    found: dict[str, Asset] = {}

    def look_into(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                look_into(entry, f"{path}{entry.name}/")
            elif kind := MEDIA_TYPES.get(f".{entry.name.rpartition('.')[2]}"):
                body = entry.read_bytes()
                tag = f'W/"{sha256(body).hexdigest()[:16]}"'
                found[path + entry.name] = Asset(body, gzip.compress(body, mtime=0), kind, tag)

    look_into(files("ragsocket") / "web", "")
    return found


def router() -> APIRouter:
    """Return the doors."""
    doors = APIRouter()
    served = assets()

    @doors.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return _sent(request, served[INDEX])

    @doors.api_route("/assets/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(request: Request, name: str) -> Response:
        if name == INDEX or name not in served:
            raise RequestError(
                ErrorCode.NOT_FOUND, "the page has no file of that name.", status=404
            )
        return _sent(request, served[name])

    return doors


def _sent(request: Request, asset: Asset) -> Response:
    """Return an asset in the form that the browser takes, or word that it has it already."""
    headers = HEADERS | {"ETag": asset.tag}
    known = request.headers.get("if-none-match", "")
    if asset.tag.removeprefix("W/") in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        body = asset.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)


def _takes_gzip(accepted: str) -> bool:
    codings = (coding.partition(";") for coding in accepted.lower().split(","))
    return any(name.strip() == "gzip" and rest.strip() != "q=0" for name, _, rest in codings)
