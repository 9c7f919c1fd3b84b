"""`ragsocket chat`: asks in the terminal, shows the answer as it comes, and stops it on Ctrl-C.

Questions are read on the main thread, so that the terminal's own editing works; the socket lives
on an event loop in a thread of its own, so that it answers pings while nobody types.
"""

from __future__ import annotations

import importlib
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from rich.console import Console
from rich.text import Text

from ragsocket.cli.printable import one_line, printable
from ragsocket.cli.session import Session, opened
from ragsocket.cli.wrapping import Wrapping
from ragsocket_client.wire import SearchResult

HELP = "Ctrl-C stops an answer, /new begins a new conversation, /quit leaves."
PROMPT = "> "
REPEAT_AFTER_S = 0.05
_COMMAND = re.compile(r"/[a-z]+")


class Screen:
    """Shows answers on stdout, and what went wrong on stderr."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._wrapping = Wrapping(lambda: self._out.width) if self._out.is_terminal else None

    def sources(self, results: list[SearchResult]) -> None:
        """Show file, place and score of each passage."""
        for number, result in enumerate(results, 1):
            place = (result["attributes"] or {}).get("place")
            where = f"{result['filename']}, {place}" if place else result["filename"]
            self.note(f"[{number}] {where} ({result['score']:.2f})")
        if results:
            self._out.print()

    def text(self, more: str) -> None:
        """Show more of the answer."""
        text = printable(more)
        if self._wrapping is not None:
            text = self._wrapping.feed(text.expandtabs(4))
        self._out.file.write(text)
        self._out.file.flush()

    def cited(self, files: list[str]) -> None:
        """Show the files that the answer names."""
        self._out.print()
        self.note(f"cited: {', '.join(files)}")

    def note(self, text: str) -> None:
        """Show a line beside the answer."""
        self._out.print(Text(one_line(text), style="dim"))

    def fault(self, text: str) -> None:
        """Show what went wrong."""
        self._err.print(Text(one_line(text), style="red"))


class Keyboard:
    """Reads questions in a terminal. An interrupt stops the answer, or leaves if there is none.

    Python notices an interrupt only when it comes back from waiting, and one that comes just
    before the wait begins does not end it. So the thread of the event loop, which is told of
    every signal at once, stops answers itself, and repeats an interrupt that the prompt missed.
    """

    def __init__(self, portal: BlockingPortal, session: Session) -> None:
        self._portal = portal
        self._session = session
        self._doing: Literal["reading", "answering", "neither"] = "neither"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Act on interrupts until the block ends."""
        with suppress(ImportError):
            # Makes `input` editable, with the questions before under the arrow keys.
            importlib.import_module("readline")
        heard, told = socket.socketpair()
        with heard, told:
            told.setblocking(False)
            before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
            # Stays until the process ends: leaving takes a moment, in which an impatient second
            # interrupt changes nothing.
            signal.signal(signal.SIGINT, self._interrupt)
            watching = self._portal.start_task_soon(self._watch, heard)
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                told.close()
                watching.result()

    def read(self) -> str:
        """Return the next line.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            EOFError: Ctrl-D.
        """
        self._doing = "reading"
        try:
            return input(PROMPT)
        finally:
            self._doing = "neither"

    def ask(self, question: str) -> bool:
        """Ask, and stop the answer at an interrupt; False if there was none."""
        self._doing = "answering"
        try:
            return self._portal.call(self._session.ask, question)
        finally:
            self._doing = "neither"

    def _interrupt(self, *_: object) -> None:
        """End the wait for a question, once; anywhere else an interrupt must not break in."""
        if self._doing == "reading":
            self._doing = "neither"
            raise KeyboardInterrupt

    async def _watch(self, signals: socket.socket) -> None:
        await anyio.wait_readable(signals)
        while numbers := signals.recv(64):
            if signal.SIGINT not in numbers:
                pass
            elif self._doing == "answering":
                self._session.stop()
            elif self._doing == "reading":
                await anyio.sleep(REPEAT_AFTER_S)
                if self._doing == "reading":
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await anyio.wait_readable(signals)


def converse(url: str, conversation: str | None = None) -> bool:
    """Ask what is typed or piped in until its end; False if a piped question failed.

    Args:
        url: of the server.
        conversation: the one to go on with; a new one if it is None.

    Raises:
        ConfigError: there is no ragsocket at this address.
        KeyboardInterrupt: while questions come from a pipe.
    """
    screen = Screen()
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(opened(url, screen, conversation)) as session:
            if sys.stdin.isatty() and sys.stdout.isatty():
                return _ask_what_is_typed(portal, session, screen)
            return _ask_what_is_piped(portal, session, screen)


def _ask_what_is_typed(portal: BlockingPortal, session: Session, screen: Screen) -> bool:
    screen.note(f"{session.model} answers. {HELP}")
    keyboard = Keyboard(portal, session)
    with keyboard.watched():
        while not session.closed:
            try:
                question = keyboard.read().strip()
            except (EOFError, KeyboardInterrupt):
                screen.text("\n")
                break
            if question in ("/quit", "/exit"):
                break
            if question == "/new":
                portal.call(session.forget)
                screen.note("(a new conversation)")
            elif _COMMAND.fullmatch(question):
                screen.note(HELP)
            elif question:
                keyboard.ask(question)
                screen.text("\n")
    if session.conversation is not None:
        name = f"--url {session.url} --conversation {session.conversation}"
        screen.note(f"To go on later: ragsocket chat {name}")
    return not session.closed


def _ask_what_is_piped(portal: BlockingPortal, session: Session, screen: Screen) -> bool:
    well = True
    for line in sys.stdin:
        question = line.strip()
        if question in ("/quit", "/exit"):
            break
        if question == "/new":
            portal.call(session.forget)
        elif question:
            well = portal.call(session.ask, question) and well
            screen.text("\n")
    return well
