"""The event log and the positions of its readers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ragsocket.responses.event_log import LAG, Bounds, EventLog, Subscription
from ragsocket.responses.lifecycle import Entry


def entry(number: int, type: str = "response.output_text.delta") -> Entry:
    """An entry of a log."""
    return Entry(number, type, None, b"{}")


def test_every_reader_gets_every_entry_from_where_it_began() -> None:
    """Two readers with different starts take the same entries, each at its own pace."""
    log = EventLog()
    log.append([entry(0), entry(1)])
    early, late = log.subscribe(lambda: None), log.subscribe(lambda: None, start=1)
    log.append([entry(2)])
    assert [e.number for e in early.take(2)] == [0, 1]
    assert [e.number for e in late.take()] == [1, 2]
    assert [e.number for e in early.take()] == [2]
    assert early.take() == []


def test_readers_are_woken_by_each_append() -> None:
    """Appending calls every open subscription, and no closed one."""
    log = EventLog()
    woken: list[str] = []
    first = log.subscribe(lambda: woken.append("first"))
    log.subscribe(lambda: woken.append("second"))
    log.append([entry(0)])
    first.close()
    log.append([entry(1)])
    assert woken == ["first", "second", "second"]


@pytest.mark.parametrize("last", ["response.completed", "response.failed", "error"])
def test_nothing_follows_the_end(last: str) -> None:
    """After a terminal event or a lone error the log takes nothing more."""
    log = EventLog()
    reader = log.subscribe(lambda: None)
    log.append([entry(0, last)])
    assert log.sealed
    assert not reader.exhausted
    reader.take()
    assert reader.exhausted
    with pytest.raises(ValueError, match="does not follow"):
        log.append([entry(1)])


def test_a_gap_is_refused() -> None:
    """An entry whose number is not the next one is a fault, and is not taken."""
    log = EventLog()
    with pytest.raises(ValueError, match="entry 1 does not follow -1"):
        log.append([entry(1)])
    assert len(log) == 0


def test_the_end_of_a_subscription_is_told_once() -> None:
    """Closing tells the owner once, with what had been handed on."""
    log = EventLog()
    told: list[int] = []

    def on_close(subscription: Subscription) -> None:
        told.append(subscription.delivered)

    reader = log.subscribe(lambda: None, on_close=on_close)
    log.append([entry(0)])
    reader.delivered = reader.take()[0].number
    reader.close()
    reader.close()
    assert told == [0]
    assert log.followers == 0


def test_what_everybody_has_is_dropped_beyond_the_window() -> None:
    """A log that is followed closely, or by nobody, holds its window and no more."""
    for reader in (True, False):
        log = EventLog(Bounds(events=16))
        taking = log.subscribe(lambda: None) if reader else None
        for number in range(1_000):
            log.append([entry(number)])
            if taking is not None:
                assert [e.number for e in taking.take()] == [number]
        kept = log.read(log.first, 1_000)
        assert [e.number for e in kept] == list(range(log.first, 1_000))
        assert 12 <= len(kept) <= 16
        assert len(log) == 1_000
        assert log.read(log.first - 1, 1) == ()


def test_what_came_at_once_is_there_to_be_taken_however_large() -> None:
    """Closing events that all hold a long text cut nobody off; then the newest one is kept."""
    log = EventLog(Bounds(bytes=100))
    cut: list[str] = []
    reader = log.subscribe(lambda: None, on_cut=lambda: cut.append("cut"))
    log.append([entry(0)])
    reader.take()
    large = [Entry(number, "response.output_text.done", None, b"x" * 1_000) for number in (1, 2)]
    log.append([*large, Entry(3, "response.completed", None, b"x" * 1_000)])
    assert [e.number for e in reader.take()] == [1, 2, 3]
    assert cut == []
    reader.close()
    assert log.last is not None
    assert (log.first, log.last.number, log.bytes) == (3, 3, 1_000)


class Bounded(RuleBasedStateMachine):
    """A log with small bounds, and readers that come, take and leave at random."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = Bounds(events=16, bytes=160)
        self.log = EventLog(self.bounds)
        self.readers: dict[int, Subscription] = {}
        self.cut: set[int] = set()
        self.got: dict[int, list[int]] = {}
        self.born = 0

    @rule(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            data = b"x" * size
            self.log.append([Entry(len(self.log), "response.output_text.delta", None, data)])

    @rule(back=st.integers(0, 40))
    def come(self, back: int) -> None:
        key, start = self.born, max(self.log.first, len(self.log) - back)
        self.born += 1
        self.got[key] = [start - 1]
        self.readers[key] = self.log.subscribe(
            lambda: None, start=start, on_cut=lambda: self.cut.add(key)
        )

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 9), limit=st.integers(1, 20))
    def take(self, which: int, limit: int) -> None:
        key = sorted(self.readers)[which % len(self.readers)]
        self.got[key] += [e.number for e in self.readers[key].take(limit)]

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        self.readers.pop(sorted(self.readers)[which % len(self.readers)]).close()

    @invariant()
    def each_reader_gets_every_entry_once(self) -> None:
        for numbers in self.got.values():
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    @invariant()
    def who_cannot_go_on_was_told(self) -> None:
        behind = {k for k, reader in self.readers.items() if reader.position < self.log.first}
        assert behind == self.cut & self.readers.keys()

    @invariant()
    def it_is_bounded(self) -> None:
        kept = self.log.read(self.log.first, 10_000)
        assert self.log.bytes == sum(len(e.data) for e in kept)
        assert len(kept) <= self.bounds.events * (LAG + 1)
        assert self.log.bytes <= self.bounds.bytes * (LAG + 1) + 40
        newest = sum(len(e.data) for e in kept[-3:])
        assert len(self.log) < 3 or (len(kept) >= 3 and newest <= 120)


TestBounded = Bounded.TestCase
TestBounded.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
