"""`ragsocket eval` on the sample documents: the extractive table that a change must not spoil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import run

from ragsocket.cli.evaluating import SAYS_NO, holds
from ragsocket.engine.gate import REFUSAL

DATA = Path(__file__).parents[2] / "data"


def test_extracts_find_the_file_and_the_fact(tmp_path: Path) -> None:
    """Words alone find the right file for nearly every question, and quote most facts."""
    figures = tmp_path / "figures.json"
    done = run(
        "eval", DATA / "questions.jsonl", "--data", DATA, "--llm-model", "none",
        "--json", figures, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text())
    summary = document["summary"]
    assert document["model"] == "ragsocket-extractive"
    assert len(document["outcomes"]) == summary["all"]["questions"] >= 200
    assert summary["all"]["failed"] == 0
    assert summary["all"]["file in top 5"] >= 0.95
    assert summary["fact"]["facts in answer"] >= 0.75
    assert summary["follow_up"]["facts in answer"] >= 0.6
    assert summary["fact"]["refused"] <= 0.03
    assert summary["conversation"]["refused"] == 0
    assert summary["unanswerable"]["refused"] > summary["fact"]["refused"]
    assert not (tmp_path / ".ragsocket").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"question": "a"}\n{"kind": "fact"}', "line 2: question"),
        ('{"question": 5}', "line 1: question"),
        ("nonsense", "line 1"),
        ("", "holds no questions"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, lines: str, words: str) -> None:
    """What is no record is refused with file, line and field, and nothing is asked."""
    (tmp_path / "questions.jsonl").write_text(lines)
    done = run("eval", "questions.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "questions.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_how_facts_and_refusals_are_counted() -> None:
    """Bars part alternatives, case and marks do not matter, and a refusal is known by its words."""
    assert holds("It costs **7 Euros** a night.", "€7|7 euros")
    assert not holds("It costs 17 crowns.", "€7|7 euros")
    assert SAYS_NO.search(REFUSAL)
    assert SAYS_NO.search("The passages do not mention a kayak.")
    assert not SAYS_NO.search("Dogs are not allowed at Cairn Hollow.")
