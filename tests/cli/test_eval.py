"""`ragsocket eval` on the sample documents: the extractive table that a change must not spoil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import run

from ragsocket.cli.scoring import (
    SAYS_NO,
    Record,
    holds,
    outcome,
    ranked,
    summarise,
    summarise_search,
)
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
    assert summary["all"]["recall@5"] >= 0.95
    assert summary["all"]["MRR@10"] >= 0.85
    assert summary["fact"]["citations right"] >= 0.6
    assert summary["fact"]["facts in answer"] >= 0.75
    assert summary["follow_up"]["facts in answer"] >= 0.6
    assert summary["fact"]["refused"] <= 0.03
    assert summary["conversation"]["refused"] == 0
    assert summary["unanswerable"]["refused"] > summary["fact"]["refused"]
    assert not (tmp_path / ".ragsocket").exists()


def test_the_ways_to_search_are_compared(tmp_path: Path) -> None:
    """One table over ways and queries; what this server cannot do is left out, with the reason."""
    figures = tmp_path / "figures.json"
    done = run(
        "eval", DATA / "questions.jsonl", "--retrieval", "--per-kind", "8", "-k", "3",
        "--data", DATA, "--llm-model", "none", "--embed-model", "none",
        "--json", figures, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text())
    rows = {(row["way"], row["query"]): row["figures"] for row in document["rows"]}
    assert set(rows) == {
        (way, query)
        for way in ("words (BM25)", "both (hybrid)")
        for query in ("last turn", "last three turns")
    }
    assert set(document["left_out"]) == {"vectors", "both, reranked"}
    assert "RAGSOCKET_RERANK_URL" in done.stdout
    for figures_of in rows.values():
        assert 0 < figures_of["recall@1"] <= figures_of["recall@3"] <= figures_of["recall@10"] <= 1
        assert figures_of["recall@1"] <= figures_of["MRR@10"] <= 1
    # Without vectors both are the words alone.
    for query in ("last turn", "last three turns"):
        words, both = rows["words (BM25)", query], rows["both (hybrid)", query]
        assert words["MRR@10"] == both["MRR@10"]
    alone = tmp_path / "nowhere.jsonl"
    alone.write_text('{"question": "When?"}')
    done = run("eval", alone, "--retrieval", "--llm-model", "none", cwd=tmp_path)
    assert done.returncode == 2
    assert "file, files or passages" in done.stderr


def passage(file: str, text: str = "") -> dict[str, str]:
    """A passage as the socket gives it."""
    return {"filename": file, "text": text}


def test_how_ranks_are_counted() -> None:
    """Recall is over places, ranks over passages; the first ten count, and no place gives none."""
    record = Record(question="q", files=("a", "b"), file="c")
    found = [passage("x"), passage("a"), passage("a"), passage("c"), *[passage("x")] * 6]
    ranking = ranked(record, [*found, passage("b")], 2.0, ks=(1, 2, 5, 11))
    assert ranking.recalls == {1: 0, 2: 1 / 3, 5: 2 / 3, 11: 1}
    assert (ranking.reciprocal, ranking.search_ms) == (1 / 2, 2.0)
    words = Record(question="q", passages=("Seal oil",), file="x")
    oil = [passage("x", "salt"), passage("y", "the  **seal** oil")]
    by_words = ranked(words, oil, None, ks=[1])
    assert (by_words.recalls, by_words.reciprocal) == ({1: 0}, 1 / 2)
    late = ranked(record, [*[passage("x")] * 10, passage("a")], 4.0, ks=[1])
    assert late.reciprocal == 0
    nowhere = ranked(Record(question="q"), found, None, ks=[1])
    assert (nowhere.recalls, nowhere.reciprocal) == ({}, None)
    assert summarise_search([ranking, late, nowhere], [1, 2]) == {
        "recall@1": 0,
        "recall@2": 1 / 3,
        "MRR@10": 1 / 4,
        "search ms": 3.0,
    }


def test_how_citations_are_counted() -> None:
    """Each names a passage, by its number, else by its file; without places nothing is told."""
    results = [passage("a.md", "Seal oil burns."), passage("a.md", "Salt."), passage("b.md")]
    marks = [{"filename": "a.md", "ragsocket": {"passage": n}} for n in (1, 2)]
    text = {"text": "Seal oil.", "annotations": [*marks, {"filename": "b.md"}]}
    answer = {
        "status": "completed",
        "output": [
            {"type": "file_search_call", "results": results},
            {"type": "message", "content": [text]},
        ],
        "ragsocket": {"ttft_ms": 100.0, "total_ms": 1100.0},
        "usage": {"output_tokens": 11},
    }

    def right(**places: tuple[str, ...]) -> float | None:
        record = Record(question="q", facts=("seal oil",), **places)
        return outcome(record, answer, ranked(record, results, None, ks=[5])).citations_right

    assert right(passages=("seal oil",)) == 1 / 3
    assert right(files=("a.md",)) == 2 / 3
    assert right(files=("b.md",)) == 1 / 3
    assert right() is None
    record = Record(question="q", files=("a.md",), facts=("seal oil",))
    table = summarise([outcome(record, answer, ranked(record, results, 2.0, ks=[5]))], 5)
    assert table["all"] == table["fact"] == {
        "questions": 1, "recall@5": 1, "MRR@10": 1, "search ms": 2.0, "facts in answer": 1,
        "citations right": 2 / 3, "refused": 0, "failed": 0, "first text ms": 100.0,
        "tokens/s": 10.0,
    }  # fmt: skip


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
