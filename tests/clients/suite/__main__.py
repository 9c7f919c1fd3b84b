"""Plays the suite against a client, driven by a program of its language.

python -m suite node clients/js/tests/driver.mjs
python -m suite --only 'cancel-*' node clients/js/tests/driver.mjs
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import sys
from pathlib import Path

from conformance.channels import Mismatch
from conformance.script import Case, read_cases
from suite.drivers import Process
from suite.player import Player
from suite.server import Server


async def play(command: list[str], cases: list[Case]) -> int:
    """Play cases one after the other, print each result, and return how many failed."""
    failed = 0
    async with Server() as server, Process.running(*command) as driver:
        for number, case in enumerate(cases):
            try:
                await Player(server, driver, case, number).play()
            except Mismatch as found:
                failed += 1
                print(f"FAILED  {case.id}: {case.says}\n        {found}")
            else:
                print(f"ok      {case.id}")
    print(f"{len(cases) - failed} of {len(cases)} cases passed")
    return failed


def main() -> int:
    """The command line; the exit status is 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="suite", description=__doc__)
    parser.add_argument("--only", default="*", help="cases to play, as a pattern of names")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the program, as README.md says")
    options = parser.parse_args()
    cases = [
        case
        for case in read_cases(Path(__file__).parent / "cases")
        if fnmatch.fnmatch(case.id, options.only)
    ]
    return 1 if asyncio.run(play(options.command, cases)) else 0


if __name__ == "__main__":
    sys.exit(main())
