"""Ask a ragsocket server, read the answer as it is written, and stop it at once.

async with connect("ws://127.0.0.1:8000") as client:
    chat = client.conversation()
    async for text in chat.ask("When are dogs allowed?").texts():
        print(text, end="")
"""

from ragsocket_client.answer import Answer
from ragsocket_client.client import Client, Conversation, connect
from ragsocket_client.connection import Closed, Connecting, Offline, Ready, Resuming, State
from ragsocket_client.errors import (
    AuthExpired,
    ConnectionLost,
    Interrupted,
    RagsocketError,
    RateLimited,
    Refused,
    ServerFailed,
    UpstreamFailed,
)

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AuthExpired",
    "Client",
    "Closed",
    "Connecting",
    "ConnectionLost",
    "Conversation",
    "Interrupted",
    "Offline",
    "RagsocketError",
    "RateLimited",
    "Ready",
    "Refused",
    "Resuming",
    "ServerFailed",
    "State",
    "UpstreamFailed",
    "connect",
]
