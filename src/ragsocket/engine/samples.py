"""Questions that a folder of documents suggests: those of its `questions.jsonl` marked `sample`.

It is the file that `ragsocket eval` reads, one JSON object a line with a `question`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = "questions.jsonl"
MOST = 6
MOST_BYTES = 1024 * 1024


class _Record(msgspec.Struct):
    question: str
    sample: bool = False


_DECODER = msgspec.json.Decoder(_Record)


def sample_questions(folder: Path | None) -> tuple[str, ...]:
    """Return at most six; lines that are no such record, or a file too large, suggest nothing.

    Blocks.
    """
    if folder is None:
        return ()
    try:
        with (folder / FILE).open("rb") as file:
            lines = file.read(MOST_BYTES).splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            record = _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if record.sample and record.question.strip():
            found.append(record.question.strip())
    return tuple(found[:MOST])
