"""Rubbish at volume: every frame is answered, nothing breaks, a good client notices nothing."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import anyio
import pytest

from harness import Served, serving
from upstream import Script, Upstream

SEEDS = (
    '{"type":"response.create","input":"ferry?","event_id":"e","stream_id":"s"}',
    '{"type":"response.create","input":[{"role":"user","content":[{"type":"input_text","text":"f"}]}]}',
    '{"type":"response.create","input":"ferry?","retrieval":{"mode":"sparse","similarity_top_k":2}}',
    '{"type":"response.create","input":"ferry?","conversation":"conv_x"}',
    '{"type":"response.cancel","response_id":"resp_x","after":3}',
    '{"type":"response.cancel","stream_id":"s"}',
    '{"type":"ragsocket:ping","event_id":"p"}',
)
TOKENS = (
    "null",
    "true",
    "-1",
    "1e999",
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\u0000",
    "\\ud800",
    "é",
    "\x00",
)


def mutated(rng: random.Random) -> str:
    """Return a seed with a few random wounds."""
    frame = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(frame) + 1)
        wound = rng.randrange(4)
        if wound == 0:
            frame = frame[:at] + rng.choice(TOKENS) + frame[at:]
        elif wound == 1:
            frame = frame[:at] + frame[at + rng.randint(1, 8) :]
        elif wound == 2:
            frame = frame[:at] + chr(rng.randrange(32, 0xD7FF)) + frame[at + 1 :]
        else:
            frame = frame[:at] + frame[rng.randrange(len(frame) + 1) :]
    return frame


async def rubbish(served: Served, seed: int, frames: int) -> None:
    """Send mutated frames, each followed by a ping whose pong must come."""
    rng = random.Random(seed)
    async with served.talk() as talk:
        for number in range(frames):
            await talk.send(mutated(rng))
            await talk.send(json.dumps({"type": "ragsocket:ping", "event_id": f"after {number}"}))
            await talk.until("ragsocket:pong", event_id=f"after {number}")
            talk.seen.clear()


async def test_two_thousand_wounded_frames(
    upstream: Upstream, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each mutated frame is answered or obeyed, the log has no error, a good client goes on."""
    upstream.default = Script(tokens=("fine ",))
    async with serving(state, upstream=upstream, malformed_budget=10_000) as served:
        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(rubbish, served, seed, 250)
            async with served.talk() as good:
                for _ in range(20):
                    end = (await good.answer("When does the ferry to Holm leave?"))[-1]
                    assert end["type"] == "response.completed"
        await served.idle()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
