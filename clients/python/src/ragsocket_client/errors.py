"""What can go wrong, each with what to do about it."""

from __future__ import annotations

from typing import TypedDict, Unpack

from ragsocket_client.wire import RETRYABLE, Error, Response


class About(TypedDict, total=False):
    """What an error is about; see `RagsocketError`."""

    code: str
    param: str | None
    response_id: str | None
    text: str


class RagsocketError(Exception):
    """Base of every error of this package.

    Attributes:
        message: what happened, for people.
        code: the server's code, or one of this package.
        param: the field at fault, if it is one.
        response_id: the answer that it is about, if it is one that has a name yet.
        text: what there is of the answer.
    """

    def __init__(self, message: str, **about: Unpack[About]) -> None:
        super().__init__(message)
        self.message = message
        self.code = about.get("code", "")
        self.param = about.get("param")
        self.response_id = about.get("response_id")
        self.text = about.get("text", "")

    @property
    def retryable(self) -> bool:
        """True if the same may work a little later."""
        return self.code in RETRYABLE


class Refused(RagsocketError):
    """The server did not take what was asked; the message says what would be right."""


class RateLimited(RagsocketError):
    """Too much at once.

    Attributes:
        retry_after: seconds after which to try again, if the server says.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, **about: Unpack[About]
    ) -> None:
        super().__init__(message, **about)
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """True: later."""
        return True


class AuthExpired(RagsocketError):
    """The token is missing, wrong or no longer valid; a new connection needs another one."""


class UpstreamFailed(RagsocketError):
    """The model, or the server of the embeddings, failed; `text` is what it had said."""


class ServerFailed(RagsocketError):
    """The server failed; its log knows the reference that the message ends with."""


class Interrupted(RagsocketError):
    """The answer was cut off, and not by you; `text` is what there is, and what history keeps.

    Attributes:
        reason: `worker_lost`, `shutdown` or `client_lost`.
    """

    def __init__(self, message: str, *, reason: str, **about: Unpack[About]) -> None:
        about["code"] = f"response_{reason}"
        super().__init__(message, **about)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """True: ask again, or go on from what there is."""
        return True


class ConnectionLost(RagsocketError):
    """There is no connection and none will be tried.

    Attributes:
        close_code: what the socket was closed with; None if it never opened.
    """

    def __init__(self, message: str, *, close_code: int | None = None) -> None:
        super().__init__(message, code="connection_lost")
        self.close_code = close_code


_INTERRUPTED = {
    "worker_lost": "the server was lost in the middle of the answer",
    "shutdown": "the server shut down in the middle of the answer",
    "client_lost": "nobody followed the answer for too long",
}


def kind_of(status: int) -> type[RagsocketError]:
    """Return what a status of HTTP, or of an `error` event, stands for."""
    if status in (401, 403):
        return AuthExpired
    return RateLimited if status == 429 else ServerFailed if status >= 500 else Refused


def from_event(event: Error, *, response_id: str | None = None, text: str = "") -> RagsocketError:
    """Return the error that an `error` event tells of."""
    detail = event["error"]
    return kind_of(event["status"])(
        detail["message"],
        code=detail["code"],
        param=detail["param"],
        response_id=response_id,
        text=text,
    )


def from_end(response: Response, text: str) -> RagsocketError | None:
    """Return why an answer ended before it was whole; None if it is whole or was stopped."""
    facts = response["ragsocket"]
    reason = facts["reason"] or ""
    about: About = {"response_id": response["id"], "text": text}
    if reason in _INTERRUPTED:
        return Interrupted(f"{_INTERRUPTED[reason]}.", reason=reason, **about)
    if response["status"] != "failed":
        return None
    error = response["error"]
    message = error["message"] if error else "the answer failed."
    code = facts["code"] or "internal_error"
    about["code"] = code
    if code == "upstream_rate_limited":
        return RateLimited(message, retry_after=facts.get("retry_after_s"), **about)
    if facts["reference"]:
        message = f"{message} ({facts['reference']})"
    if code.startswith(("upstream_", "embedding_")):
        return UpstreamFailed(message, **about)
    if code in RETRYABLE:
        return ServerFailed(message, **about)
    return Refused(message, **about)
