"""The exceptions of ragsocket, as one outline.

    RagsocketError
      ConfigError        the operator's settings cannot work; the message names the fix
      RequestError       a client asked for something that cannot be done; safe to show
      EngineError        an answer could not be produced; a code, and whether to retry
      PullError          a model's file could not be brought here; the message names what helps
      StaleOwner         this process no longer owns the response it tries to write

Only the texts of ConfigError, PullError and RequestError are written for people outside; every
other text stays in the log, under a reference id.
"""

from __future__ import annotations


class RagsocketError(Exception):
    """Base of every exception that ragsocket raises on purpose."""


class ConfigError(RagsocketError):
    """The settings contradict each other or the machine; the message names the fix."""


class RequestError(RagsocketError):
    """A request that cannot be carried out, in words that a client may read.

    Attributes:
        code: machine-readable error code, one of `ragsocket.protocol.errors.ErrorCode`.
        message: what was wrong and what would be right.
        param: the field at fault, dotted, or None.
        status: the HTTP status that fits, used by the HTTP doors and in `error.status`.
    """

    def __init__(
        self, code: str, message: str, *, param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = status


class EngineError(RagsocketError):
    """An answer could not be produced.

    Attributes:
        code: machine-readable, for example `upstream_rate_limited`.
        message: a fixed sentence that may be shown to a client.
        retryable: True when asking again later may work.
        retry_after_s: how long to wait before that, if somebody said so.
    The exception chained as `__cause__` is for the log alone.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class PullError(RagsocketError):
    """A model's file could not be brought here; the message names every reason and what helps."""


class StaleOwner(RagsocketError):
    """The response was taken over or ended elsewhere; this process must stop writing it."""
