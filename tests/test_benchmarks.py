"""The benchmark counts right: every token of every answer, and no other."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from benchmarks import retrieval
from benchmarks.client import Miscount, check
from benchmarks.model import wish
from benchmarks.processes import Broken, Processes
from benchmarks.run import Scenario, run, table
from benchmarks.stalls import Stalls, histogram
from benchmarks.stop import in_node, measure, row

from upstream import words


def test_one_small_answer_of_each_kind() -> None:
    """Every server answers, whole, in a real run."""
    flat = Scenario("flat out", 1, turns=1, tokens=7, servers=("ours", "ordinary"))
    loads = (
        flat,
        replace(flat, name="pace", rate=500),
        replace(flat, name="search", search=True, servers=("ours",)),
    )
    rows = run(loads, ["ours", "ordinary"], rounds=1, within_s=0)
    assert [(each.load, each.server) for each in rows] == [
        ("flat out", "ours"),
        ("flat out", "ordinary"),
        ("pace", "ours"),
        ("pace", "ordinary"),
        ("search", "ours"),
    ]
    assert all(each.cpu_us_per_token > 0 and each.first_ms > 0 for each in rows)
    assert [each.forward_p50_us is not None for each in rows] == [False, False, True, True, False]
    assert table(rows).count("\n") == 6


def test_searches_and_the_loop_beside_them_are_measured() -> None:
    """Every kind of search over every size, and every phase, in a small run with whole answers."""
    found, standing = retrieval.run((60, 120), searches=3, at_once=2, tokens=10, files=2)
    assert [one.passages for one in found] == [60] * 4 + [120] * 4
    assert all(0 < one.p50 <= one.p95 and one.build_s > 0 for one in found)
    assert len(standing) == 3
    assert standing[0].searches == 0 < standing[1].searches
    for one in standing:
        assert sum(one.late) == sum(one.ours) == one.looks > 0
        assert one.worst_ours_ms <= one.worst_ms
    assert retrieval.tables(found, standing).count("\n") == 9 + 1 + 8


async def test_a_loop_that_stands_still_is_seen_to() -> None:
    """What holds the loop's thread up is counted, and is ours as far as it was computed."""
    with Stalls() as stalls:
        await anyio.sleep(0.01)
        began = time.thread_time()
        while time.thread_time() - began < 0.03:
            pass
        await anyio.sleep(0.01)
    assert max(stalls.late_ms) >= max(stalls.ours_ms) >= 28
    assert histogram([0.5, 1, 1.5, 49, 50, 70]) == [1, 2, 0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w0 w1 w2 ", "3 tokens instead of 4; the first wrong one is 3"),
        ("w0 w1 w1 w2 w3 ", "5 tokens instead of 4; the first wrong one is 2"),
        ("w0 w2 w1 w3 ", "the first wrong one is 1"),
        ("w0 w1 w2 w3 w4 ", "5 tokens instead of 4; the first wrong one is 4"),
        ("w0 w1 w2 w3", "3 tokens instead of 4"),
        ("", "0 tokens instead of 4"),
    ],
)
def test_a_wrong_answer_fails_the_run(text: str, said: str) -> None:
    """Missing, doubled, swapped, surplus and half tokens."""
    with pytest.raises(Miscount, match=said):
        check(text, 4, None)


def test_a_right_answer_passes() -> None:
    """Flat out by the words, at a pace by the stamped numbers."""
    check("".join(words(300)), 300, None)
    check("0@123 1@124 2@125 ", 3, 50)
    with pytest.raises(Miscount):
        check("0@123 1@124 1@125 ", 3, 50)


async def test_stops_are_measured_in_each_client(tmp_path: Path) -> None:
    """Each stop is beside two pings of its own socket, and is longer than nothing."""
    processes = Processes(tmp_path)
    with processes.running:
        processes.start(["ours"])
        _, url = processes.servers["ours"]
        asked = wish(1_000, 200)
        for told in (
            await measure(url, asked, 2),
            await to_thread.run_sync(in_node, url, asked, 2),
        ):
            assert len(told.ping_us) == len(told.streaming_ping_us) == len(told.stop_us) == 2
            assert min(*told.ping_us, *told.stop_us) > 0
            assert row("x", "y", told).count("|") == 8


def test_a_failed_measurement_ends_the_run_and_its_processes(tmp_path: Path) -> None:
    """A server that does not answer is an error, and nothing is left running."""
    processes = Processes(tmp_path)
    with processes.running:
        processes.start(["ordinary"])
        server, _ = processes.servers["ordinary"]
        assert processes.model is not None
        with pytest.raises(Broken, match="Refused"):
            # No such answer can be asked of the model, which hangs up.
            processes.measure("ordinary", at_once=1, turns=1, tokens=-1)
    assert server.poll() is not None
    assert processes.model.poll() is not None
