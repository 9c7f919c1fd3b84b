"""`make bench`: ragsocket beside other servers, in one run on one machine.

Every load is put on every server in turn, in several rounds; medians are printed and written to
benchmarks/results/latest.json. What the columns mean stands in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Figures
from benchmarks.processes import ROOT, Broken, Kind, Processes

RESULTS = ROOT / "benchmarks/results/latest.json"
ALL: tuple[Kind, ...] = ("ours", "ordinary", "tutorial")


@dataclass(frozen=True)
class Scenario:
    """One load, and how often each server gets it so that a measurement takes a second or more.

    Attributes:
        name: what it is called in the table.
        at_once, turns, tokens, rate, search: see `load.Load`.
        chats: chats per person, for the two fast servers and for the slow one.
        servers: who it is put on.
    """

    name: str
    at_once: int
    chats: tuple[int, int] = (1, 1)
    turns: int = 2
    tokens: int = 300
    rate: int | None = None
    search: bool = False
    servers: tuple[Kind, ...] = ALL

    def load(self, server: Kind) -> dict[str, int | bool | None]:
        """What the client is told."""
        return {
            "at_once": self.at_once,
            "chats": self.chats[server == "tutorial"],
            "turns": self.turns,
            "tokens": self.tokens,
            "rate": self.rate,
            "search": self.search,
        }


FLAT = "flat out"
PACE = "50 tokens/s"
SCENARIOS = (
    Scenario(FLAT, 1, chats=(60, 4)),
    Scenario(FLAT, 10, chats=(12, 1)),
    Scenario(FLAT, 100, chats=(2, 1), turns=1),
    Scenario(f"{FLAT}, with search", 10, chats=(12, 1), search=True, servers=("ours",)),
    Scenario(f"{FLAT}, long", 10, turns=1, tokens=20_000, servers=("ours", "ordinary")),
    Scenario("one token each", 1, chats=(150, 20), tokens=1),
    Scenario(PACE, 1, tokens=100, rate=50),
    Scenario(PACE, 10, tokens=100, rate=50),
    Scenario(PACE, 100, tokens=100, rate=50),
    Scenario(f"{PACE}, with search", 1, tokens=100, rate=50, search=True, servers=("ours",)),
    Scenario(f"{PACE}, with search", 10, tokens=100, rate=50, search=True, servers=("ours",)),
)


@dataclass(frozen=True)
class Row:
    """The medians of one server under one load. Percentages are of one core."""

    load: str
    at_once: int
    server: Kind
    rounds: int
    tokens_per_s: float
    cpu_us_per_token: float
    cpu_ms_per_answer: float
    first_ms: float
    forward_p50_us: float | None
    forward_p99_us: float | None
    server_busy: float
    model_busy: float
    client_busy: float


def percentile(values: list[float], share: float) -> float | None:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def row(scenario: Scenario, server: Kind, rounds: list[Figures]) -> Row:
    """The medians over the rounds."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    def late(share: float) -> float | None:
        each = [percentile(figures.forward_us, share) for figures in rounds]
        return median([value for value in each if value is not None]) if any(each) else None

    def busy(name: str) -> float:
        return median([figures.cpu_s[name] / figures.seconds for figures in rounds])

    return Row(
        load=scenario.name,
        at_once=scenario.at_once,
        server=server,
        rounds=len(rounds),
        tokens_per_s=median([figures.tokens / figures.seconds for figures in rounds]),
        cpu_us_per_token=median(
            [figures.cpu_s["server"] / figures.tokens * 1e6 for figures in rounds]
        ),
        cpu_ms_per_answer=median(
            [figures.cpu_s["server"] / figures.answers * 1e3 for figures in rounds]
        ),
        first_ms=median([statistics.median(figures.first_ms) for figures in rounds]),
        forward_p50_us=late(0.50),
        forward_p99_us=late(0.99),
        server_busy=busy("server"),
        model_busy=busy("model"),
        client_busy=busy("client"),
    )


HEADINGS = (
    "load", "at once", "server", "tokens/s", "× tutorial", "CPU µs/token", "CPU ms/answer",
    "first token ms", "forward p50 µs", "p99 µs", "busy % server/model/client",
)  # fmt: skip


def cells(each: Row, rows: list[Row]) -> tuple[str, ...]:
    """One line of the table."""
    # At a pace the rate is the model's, so there is nothing to compare.
    base = next(
        (
            other.tokens_per_s
            for other in rows
            if other.server == "tutorial"
            and other.at_once == each.at_once
            and other.load == each.load.removesuffix(", with search")
            and other.load == FLAT
        ),
        None,
    )

    def number(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"

    busy = (each.server_busy, each.model_busy, each.client_busy)
    return (
        each.load,
        str(each.at_once),
        each.server,
        number(each.tokens_per_s),
        number(each.tokens_per_s / base if base else None),
        number(each.cpu_us_per_token),
        number(each.cpu_ms_per_answer),
        number(each.first_ms),
        number(each.forward_p50_us),
        number(each.forward_p99_us),
        " / ".join(f"{share * 100:.0f}" for share in busy),
    )


def table(rows: list[Row]) -> str:
    """All lines, as Markdown that can also be read as it stands."""
    lines = [HEADINGS, *(cells(each, rows) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    left = {0, 2}

    def put(line: tuple[str, ...]) -> str:
        padded = (
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 2) if column in left else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    )
    return "\n".join([put(lines[0]), f"|{rule}|", *map(put, lines[1:])])


def run(
    scenarios: tuple[Scenario, ...],
    kinds: list[Kind],
    *,
    rounds: int,
    within_s: float,
    tutorial_python: str | None = None,
) -> list[Row]:
    """Measure, round by round; after `within_s` seconds no new round is begun.

    Raises:
        Broken: a server did not start, did not answer, or lost or made up a token.
    """
    began = time.monotonic()
    measured: dict[tuple[Scenario, Kind], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="ragsocket-bench-") as folder:
        processes = Processes(Path(folder), tutorial_python)
        with processes.running:
            processes.start(kinds)
            for kind in kinds:
                # What is paid once, at the first questions, is no part of the figures.
                processes.measure(kind, at_once=2, chats=2, tokens=20)
            for number in range(rounds):
                round_began = time.monotonic()
                for scenario in scenarios:
                    # Each round begins with another server, so that none is always first.
                    for turn in range(len(kinds)):
                        kind = kinds[(turn + number) % len(kinds)]
                        if kind in scenario.servers:
                            figures = processes.measure(kind, **scenario.load(kind))
                            measured.setdefault((scenario, kind), []).append(figures)
                took = time.monotonic() - round_began
                print(f"round {number + 1} of {rounds}: {took:.0f} s", file=sys.stderr)
                if time.monotonic() - began + took > within_s:
                    break
    return [
        row(scenario, kind, measured[scenario, kind])
        for scenario in scenarios
        for kind in kinds
        if (scenario, kind) in measured
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure ragsocket beside other servers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=540, help="seconds the run may take")
    parser.add_argument("--servers", nargs="+", choices=ALL, help="these alone")
    parser.add_argument("--loads", help="only loads whose name begins so")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tutorial = os.environ.get("BENCH_TUTORIAL_PYTHON")
    kinds: list[Kind] = [
        kind
        for kind in ALL
        if kind in (options.servers or ALL) and (kind != "tutorial" or tutorial is not None)
    ]
    if "tutorial" not in kinds:
        print("without the tutorial way (BENCH_TUTORIAL_PYTHON is not set)", file=sys.stderr)
    scenarios = tuple(each for each in SCENARIOS if each.name.startswith(options.loads or ""))
    # Ended from outside, the servers are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        rows = run(
            scenarios,
            kinds,
            rounds=options.rounds,
            within_s=options.within,
            tutorial_python=tutorial,
        )
    except Broken as error:
        sys.exit(f"the run failed: {error}")
    print(table(rows))
    result = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "rows": [asdict(each) for each in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
