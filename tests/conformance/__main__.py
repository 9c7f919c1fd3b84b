"""Plays the suite against a running server.

python -m conformance http://127.0.0.1:8000 --model-port 9100
python -m conformance http://127.0.0.1:8000 --model-port 9100 --only 'cancel-*'
"""

from __future__ import annotations

import argparse
import fnmatch
import sys

import anyio
import httpx

from conformance.channels import Mismatch
from conformance.player import Player
from conformance.script import Case, read_cases
from upstream import Upstream


async def play(url: str, model_port: int, cases: list[Case]) -> int:
    """Play cases one after the other, print each result, and return how many failed."""
    failed = 0
    async with (
        Upstream(port=model_port) as upstream,
        httpx.AsyncClient(base_url=url, timeout=None) as client,
    ):
        for case in cases:
            try:
                await Player(client, upstream, case).play()
            except Mismatch as found:
                failed += 1
                print(f"FAILED  {case.id}: {case.says}\n        {found}")
            else:
                print(f"ok      {case.id}")
    print(f"{len(cases) - failed} of {len(cases)} cases passed")
    return failed


def main() -> int:
    """The command line; the exit status is 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("url", help="the server under test, for example http://127.0.0.1:8000")
    parser.add_argument("--model-port", type=int, required=True, help="where it finds its model")
    parser.add_argument("--only", default="*", help="cases to play, as a pattern of file names")
    options = parser.parse_args()
    cases = [case for case in read_cases() if fnmatch.fnmatch(case.id, options.only)]
    return 1 if anyio.run(play, options.url, options.model_port, cases) else 0


if __name__ == "__main__":
    sys.exit(main())
