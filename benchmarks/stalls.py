"""How long an event loop stands still: a timer that looks at the clock every millisecond."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

EVERY_S = 0.001
EDGES_MS = (1, 2, 5, 10, 20, 50)


@dataclass
class Stalls:
    """Measures the loop that it is started on.

    Attributes:
        late_ms: by how much each look came too late.
        ours_ms: of each, what was ours: without the time in which the loop's thread could have run
            and the machine ran others, which Linux tells. Elsewhere all of it.
    """

    late_ms: list[float] = field(default_factory=list)
    ours_ms: list[float] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None
    _last: tuple[float, float] = (0.0, 0.0)
    _file: int | None = None

    def __enter__(self) -> Stalls:
        """Begin to look."""
        if sys.platform == "linux":
            path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
            self._file = os.open(path, os.O_RDONLY)
        self._last = time.perf_counter(), self._kept_waiting()
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        if self._file is not None:
            os.close(self._file)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def _look(self) -> None:
        now, waited = time.perf_counter(), self._kept_waiting()
        late = max(0.0, now - self._last[0] - EVERY_S)
        self.late_ms.append(late * 1e3)
        self.ours_ms.append(max(0.0, late - (waited - self._last[1])) * 1e3)
        self._last = now, waited
        self._wait()

    def _kept_waiting(self) -> float:
        """Return the seconds that this thread has waited for a processor so far."""
        if self._file is None:
            return 0.0
        return int(os.pread(self._file, 100, 0).split()[1]) / 1e9


def histogram(values: Sequence[float]) -> list[int]:
    """Return how many lie below each edge and above the one before, and how many beyond."""
    counts = [0] * (len(EDGES_MS) + 1)
    for value in values:
        counts[sum(value >= edge for edge in EDGES_MS)] += 1
    return counts
