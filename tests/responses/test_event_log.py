"""The event log and the positions of its readers."""

from __future__ import annotations

import pytest

from ragsocket.responses.event_log import EventLog, Subscription
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
