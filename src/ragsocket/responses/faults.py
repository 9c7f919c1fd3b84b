"""What went wrong on our side: its text stays in the log, and a client gets a reference to it."""

from __future__ import annotations

import logging

from ragsocket.errors import RequestError
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import new_reference_id

log = logging.getLogger("ragsocket.faults")


def logged(error: Exception) -> str:
    """Write an error to the log under a fresh reference id, which a client may be told."""
    reference = new_reference_id()
    log.error("%s: %s", reference, error, exc_info=error)
    return reference


def our_fault(error: Exception) -> RequestError:
    """Write an error to the log, and return what a client is told of it."""
    return RequestError(
        ErrorCode.INTERNAL_ERROR, f"a fault of the server, {logged(error)}.", status=500
    )
