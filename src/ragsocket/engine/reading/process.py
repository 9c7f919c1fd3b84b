"""The parent's side of reading: processes that read files, each replaced when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

import msgspec

from ragsocket.engine.reading.document import MIB, Limits, Piece, Reply, Request, Task, Unreadable

T = TypeVar("T")

START_WITHIN_S = 60.0
"""How long a new process may take to begin; it imports before it reads."""

CLOSE_WITHIN_S = 2.0
"""How long a process may take to end when it is done."""

MOST_READERS = 4


class Readers:
    """Reads files in processes of their own, and ends those with the block.

    Attributes:
        read_files: how many files were read, or tried.
    """

    def __init__(self, task: Task, count: int | None = None) -> None:
        """Say how files are read.

        Args:
            task: limits, and sizes of passages.
            count: how many processes at most; None for half of the processors.
        """
        self._task = task
        self._count = count or max(1, min(MOST_READERS, (os.cpu_count() or 1) // 2))
        self._idle: SimpleQueue[_Reader] = SimpleQueue()
        self._readers = [_Reader(task) for _ in range(self._count)]
        self.read_files = 0

    def __enter__(self) -> Readers:
        for reader in self._readers:
            self._idle.put(reader)
        self._threads = ThreadPoolExecutor(self._count, "reader")
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for reader in self._readers:
            reader.kill()
        self._threads.shutdown(wait=True)
        for reader in self._readers:
            reader.close()

    def read_all(
        self, requests: Iterable[tuple[T, Request]]
    ) -> Iterator[tuple[T, Sequence[Piece] | Unreadable]]:
        """Yield what became of each file, in order.

        Only a few are ahead of the caller, so that memory does not grow with their number.

        Args:
            requests: the files, each with what it is to come back with.
        """
        ahead: deque[tuple[T, Future[Sequence[Piece] | Unreadable]]] = deque()
        for tag, request in requests:
            self.read_files += 1
            ahead.append((tag, self._threads.submit(self._read, request)))
            while len(ahead) > 2 * self._count or (ahead and ahead[0][1].done()):
                first, future = ahead.popleft()
                yield first, future.result()
        for last, future in ahead:
            yield last, future.result()

    def _read(self, request: Request) -> Sequence[Piece] | Unreadable:
        reader = self._idle.get()
        try:
            return reader.read(request)
        except Unreadable as refusal:
            return refusal
        finally:
            self._idle.put(reader)


class _Reader:
    """One process at a time; for one thread at a time, but for `end`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Lock()
        self._ended = False

    def read(self, request: Request) -> Sequence[Piece]:
        """Return the passages of a file.

        Raises:
            Unreadable: there are none, or the process did not survive them.
            RuntimeError: no process can be started.
        """
        process = self._running()
        limits = self._task.limits
        clock = _Clock(process, limits.first_s)
        _say(process, request)
        while (reply := _hear(process, limits)) is not None and reply.units is not None:
            clock.allowed_s = limits.first_s + limits.unit_s * reply.units
        clock.stop()
        if reply is None or reply.is_last or clock.has_struck:
            self._discard()
        if reply is None:
            raise Unreadable(_cause(process.returncode, clock, limits))
        if reply.pieces is None:
            raise Unreadable(reply.refused or "cannot be read")
        return reply.pieces

    def _running(self) -> subprocess.Popen[bytes]:
        with self._ending:
            if self._ended:
                raise RuntimeError("the readers have ended")
            if self._process is None:
                self._process = _start(self._task)
            return self._process

    def _discard(self) -> None:
        with self._ending:
            process, self._process = self._process, None
        if process is not None:
            _close(process)

    def kill(self) -> None:
        """End the process, whatever it does; whoever waits for its reply sees the end of it."""
        with self._ending:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Clean up after `kill`, when no thread reads any more."""
        self._discard()


class _Clock:
    """Kills a process that takes longer than it is allowed."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.has_struck = False
        self.allowed_s = seconds
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (left := self._began + self.allowed_s - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        with self._lock:
            if not self._stopped.is_set():
                self.has_struck = True
                self._process.kill()

    def stop(self) -> None:
        """Allow everything from now on."""
        with self._lock:
            self._stopped.set()


def _start(task: Task) -> subprocess.Popen[bytes]:
    # -P: the working directory may be the folder of documents, and must not be imported from.
    command = [sys.executable, "-P", "-m", "ragsocket.engine.reading"]
    posix = os.name == "posix"
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Nothing that a file should not learn; Windows starts no program without it.
        env={"PYTHONPATH": os.pathsep.join(sys.path)} if posix else None,
        start_new_session=posix,
    )
    clock = _Clock(process, START_WITHIN_S)
    _say(process, task)
    ready = _hear(process, task.limits)
    clock.stop()
    if ready is None:
        _close(process)
        raise RuntimeError(f"the process that reads files cannot start ({process.returncode})")
    return process


def _say(process: subprocess.Popen[bytes], message: Task | Request) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(message) + b"\n")
        process.stdin.flush()
    except OSError:
        pass  # it died, which reading from it tells


def _hear(process: subprocess.Popen[bytes], limits: Limits) -> Reply | None:
    """Return the next reply; None if it died, or says what no reader says."""
    assert process.stdout is not None
    # Passages overlap, and have places.
    line = process.stdout.readline(2 * limits.text_bytes + 16 * MIB)
    try:
        return msgspec.json.decode(line, type=Reply) if line.endswith(b"\n") else None
    except msgspec.DecodeError:
        return None


def _close(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(CLOSE_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()  # type: ignore[union-attr]


def _cause(status: int, clock: _Clock, limits: Limits) -> str:
    """Say why a process did not survive a file."""
    if clock.has_struck:
        return f"takes longer than {clock.allowed_s:.3g} s to read"
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"takes longer than {limits.first_s:.3g} s to read"
    if status < 0:
        return f"ended the process that read it (signal {-status})"
    return f"ended the process that read it (status {status})"
