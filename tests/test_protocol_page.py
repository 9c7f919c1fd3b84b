"""The dialogues of docs/protocol.md are played against the server, and what it points to is there.

A dialogue is read into a case of the conformance suite. In what the server says, an id such as
`resp_1` stands for whatever id comes first there, and for that one alone from then on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conformance.channels import Mismatch
from conformance.player import Player
from conformance.script import Case, read_cases
from harness import Served
from upstream import Upstream, calls

PAGE = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
PLAYED = re.compile(r"<!-- played (\w+) -->\n```text\n(.*?)```", re.DOTALL)
DIALOGUES = dict(PLAYED.findall(PAGE))
AN_ID = re.compile(r"(resp|conv|msg|fs|fc)_\d+")
MODEL = re.compile(r"model (?:(\d) )?(.*)")


class Reader:
    """Reads the lines of a dialogue into model scripts and steps."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.tokens: dict[int, list[Any]] = {}
        self._left: set[int] = set()
        self._known: set[str] = set()
        self._skips = False

    @property
    def models(self) -> tuple[dict[str, Any], ...]:
        """The model scripts; one that is left has a token more, so that it has not ended."""
        return tuple(
            {"gated": True, "tokens": [*self.tokens[n], *(["more"] if n in self._left else [])]}
            for n in sorted(self.tokens)
        )

    def read(self, line: str) -> None:
        """Add one line."""
        who, _, rest = line.partition(" ")
        if who == "model":
            self._model(line)
        elif rest.startswith("opens "):
            self.steps.append({"open": who, "path": rest.removeprefix("opens ")})
        elif rest == "is lost":
            self.steps.append({"drop": who})
        elif rest == "← …":
            self._skips = True
        elif rest.startswith("→ "):
            event = self._named(json.loads(rest[2:]), keeping=False)
            self.steps.append({"send": event, "on": who})
        elif rest.startswith("← "):
            pattern = self._named(json.loads(rest[2:].replace(", …}", "}")), keeping=True)
            verb = "until" if self._skips else "expect"
            self._skips = False
            self.steps.append({verb: pattern, "on": who})
        else:
            raise ValueError(f"a dialogue has no such line: {line}")

    def _model(self, line: str) -> None:
        found = MODEL.fullmatch(line)
        assert found is not None
        number, what = int(found[1] or 1) - 1, found[2]
        said = self.tokens.setdefault(number, [])
        if what == "is asked":
            self.steps.append({"model": number, "asked": {"$any": True}})
        elif what == "is left":
            self._left.add(number)
            self.steps.append({"model": number, "left": len(said)})
        else:
            if what.startswith("calls "):
                name, arguments = what.removeprefix("calls ").split(" ", 1)
                new: list[Any] = calls(name, arguments, id="call_1")
            else:
                new = [json.loads(what)]
            said += new
            self.steps.append({"model": number, "release": len(new)})

    def _named(self, value: Any, *, keeping: bool) -> Any:
        """Replace ids by names; with `keeping` the first of each takes what comes."""
        if isinstance(value, dict):
            return {key: self._named(part, keeping=keeping) for key, part in value.items()}
        if isinstance(value, list):
            return [self._named(part, keeping=keeping) for part in value]
        if isinstance(value, str) and AN_ID.fullmatch(value):
            if keeping and value not in self._known:
                self._known.add(value)
                return {"$keep": value}
            return f"${{{value}}}"
        return value


def case_of(name: str, text: str) -> Case:
    """Return the case that a dialogue describes."""
    reader = Reader()
    for line in text.splitlines():
        reader.read(line)
    return Case(name, "A dialogue of the page.", reader.models, tuple(reader.steps), {})


@pytest.mark.parametrize("name", DIALOGUES)
async def test_a_dialogue_goes_as_it_is_written(
    name: str, served: Served, upstream: Upstream
) -> None:
    """The server says what the page says it does, in that order."""
    async with served.http() as client:
        await Player(client, upstream, case_of(name, DIALOGUES[name])).play()


async def test_a_dialogue_that_is_wrong_is_noticed(served: Served, upstream: Upstream) -> None:
    """With one event left out the dialogue does not go as it is written."""
    lines = DIALOGUES["asking"].splitlines()
    text = "\n".join(line for line in lines if "response.in_progress" not in line)
    async with served.http() as client:
        with pytest.raises(Mismatch, match=r"response\.in_progress"):
            await Player(client, upstream, case_of("wrong", text)).play()


def test_every_dialogue_is_played() -> None:
    """No dialogue goes without its mark."""
    assert len(DIALOGUES) == PAGE.count("a opens /") >= 7


def test_every_case_that_the_page_names_is_there() -> None:
    """The table of races names cases of the conformance suite."""
    table = PAGE.partition("| what crosses |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z0-9-]+)`", table.replace("`ragsocket:cancel.done`", "")))
    assert len(named) >= 12
    assert named <= {case.id for case in read_cases()}
