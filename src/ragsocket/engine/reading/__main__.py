"""The child process of `Readers`: requests in on stdin, replies out on stdout.

It can write no file and no core, and ends itself when it has used up much of its memory.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from typing import BinaryIO

import msgspec

from ragsocket.engine.reading.document import MIB, Limits, Reply, Request, Task, Unreadable
from ragsocket.engine.reading.reader import MAX_REASON, read
from ragsocket.engine.reading.splitting import Splitter

try:
    import resource
except ImportError:  # Windows; the parent's clock is the one limit there.
    resource = None  # type: ignore[assignment]

TELL_EVERY_S = 0.25
MAX_FILES = 2_000


def main() -> None:
    """Answer requests until stdin ends; what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # Parsers warn of every flaw of a file, which nobody asked about.
    logging.disable(logging.CRITICAL)
    lines = os.fdopen(os.dup(0), "rb")
    task = msgspec.json.decode(lines.readline(), type=Task)
    _hold_to(task.limits)
    splitter = Splitter(task.chunk_tokens, task.chunk_overlap_tokens)
    _tell(out, Reply(units=0))
    for number, line in enumerate(lines, 1):
        request = msgspec.json.decode(line, type=Request)
        reply = _answer(request, task.limits, splitter, out)
        if number >= MAX_FILES or _is_used_up(task.limits):
            reply = replace(reply, is_last=True)
        _tell(out, reply)
        if reply.is_last:
            return


def _hold_to(limits: Limits) -> None:
    if resource is None:
        return
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(what)
        held = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (held, held))
        except (ValueError, OSError):
            pass  # macOS has no limit on address space


def _answer(request: Request, limits: Limits, splitter: Splitter, out: BinaryIO) -> Reply:
    units = 0
    tell_at = time.monotonic() + TELL_EVERY_S
    _allow_cpu(limits.first_s)

    def unit_done() -> None:
        nonlocal units, tell_at
        units += 1
        if units > limits.units:
            raise Unreadable(f"has more than {limits.units} pages, sheets or cells")
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_EVERY_S
            _allow_cpu(limits.first_s + limits.unit_s)
            _tell(out, Reply(units=units))

    try:
        return Reply(pieces=read(request, limits, splitter, unit_done))
    except Unreadable as refusal:
        return Reply(refused=str(refusal)[:MAX_REASON])
    except MemoryError:
        most = limits.memory_bytes // MIB
        return Reply(refused=f"needs more than {most} MiB of memory to be read", is_last=True)


def _allow_cpu(seconds: float) -> None:
    """Allow so many more seconds of processor time, for when the parent cannot end this."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _is_used_up(limits: Limits) -> bool:
    """Return whether half of the address space is gone, which fragments will not give back."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[0])
    except OSError:
        return False  # not Linux; the number of files bounds it
    return pages * os.sysconf("SC_PAGE_SIZE") > limits.memory_bytes // 2


def _tell(out: BinaryIO, reply: Reply) -> None:
    out.write(msgspec.json.encode(reply) + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
