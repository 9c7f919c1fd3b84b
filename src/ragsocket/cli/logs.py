"""Logging of the commands: one line per record on stderr. The library itself configures nothing."""

from __future__ import annotations

import logging

from ragsocket.cli.printable import printable

LOG = logging.getLogger("ragsocket.cli")


class _OneLine(logging.Formatter):
    """Time, level, who, what; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        # File names and answers of other servers are quoted in messages.
        return printable(super().formatMessage(record)).replace("\n", " ")


def configure() -> None:
    """Log what ragsocket does, and of its libraries only what is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("ragsocket").setLevel(logging.INFO)
    logging.captureWarnings(True)
