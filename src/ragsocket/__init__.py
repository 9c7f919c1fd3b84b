"""ragsocket: ask your own documents over a WebSocket, and stop the answer whenever you like."""

__version__ = "0.1.0"
