"""The benchmark counts right: every token of every answer, and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.client import Miscount, check
from benchmarks.processes import Broken, Processes
from benchmarks.run import Scenario, run, table

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
