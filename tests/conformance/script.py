"""The scripts: how they are read, how names stand in for values, and how a value fits a pattern.

README.md describes the language; `schema.json` holds every file under `cases` to it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NAME = re.compile(r"\$\{(\w+)\}")
_MISSING = object()

Names = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One case, with one value for each of its variables.

    Attributes:
        id: its name, unique in the suite.
        says: the behaviour, in a sentence.
        model: how the model's server answers, one script for each time it is asked.
        steps: what is done and expected, in order.
        names: the values of its variables.
    """

    id: str
    says: str
    model: tuple[dict[str, Any], ...]
    steps: tuple[dict[str, Any], ...]
    names: Names


def read_cases(folder: Path = FOLDER / "cases") -> list[Case]:
    """Return every case of every file, in order."""
    cases = []
    for path in sorted(folder.glob("*.json")):
        for written in json.loads(path.read_text(encoding="utf-8")):
            for chosen in itertools.product(*written.get("each", ())):
                names: Names = {}
                for values in chosen:
                    names |= values
                case = Case(
                    id=filled(written["id"], names),
                    says=filled(written["says"], names),
                    model=tuple(filled(written.get("model", []), names)),
                    steps=tuple(written["steps"]),
                    names=names,
                )
                cases.append(case)
    return cases


def filled(value: Any, names: Mapping[str, Any]) -> Any:
    """Return a value with `${name}` replaced; a name that is not known yet stays as it is.

    A text that is nothing but one name becomes that name's value, of whatever type.
    """
    if isinstance(value, list):
        return [filled(one, names) for one in value]
    if isinstance(value, dict):
        return {key: filled(one, names) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    if (whole := NAME.fullmatch(value)) and whole[1] in names:
        return filled(names[whole[1]], names)
    return NAME.sub(lambda found: str(names.get(found[1], found[0])), value)


def misfit(pattern: Any, value: Any, names: Names) -> str | None:
    """Return why a value does not fit a pattern, or None.

    Args:
        pattern: the pattern, filled.
        value: what came.
        names: where `$keep` puts what it finds; changed only if everything fits.
    """
    kept: Names = {}
    found = _misfit(pattern, value, kept, "")
    if found is None:
        names |= kept
    return found


def _misfit(pattern: Any, value: Any, kept: Names, at: str) -> str | None:
    if isinstance(pattern, dict):
        if pattern and all(key.startswith("$") for key in pattern):
            for operator, operand in pattern.items():
                if (found := _operate(operator, operand, value, kept, at)) is not None:
                    return found
            return None
        if not isinstance(value, dict):
            return _say(at, pattern, value)
        for key, part in pattern.items():
            place = f"{at}.{key}" if at else key
            if (found := _misfit(part, value.get(key, _MISSING), kept, place)) is not None:
                return found
        return None
    if isinstance(pattern, list):
        if not isinstance(value, list) or len(value) != len(pattern):
            return _say(at, pattern, value)
        for index, part in enumerate(pattern):
            if (found := _misfit(part, value[index], kept, f"{at}[{index}]")) is not None:
                return found
        return None
    same = pattern == value and isinstance(pattern, bool) == isinstance(value, bool)
    return None if same else _say(at, pattern, value)


def _operate(operator: str, operand: Any, value: Any, kept: Names, at: str) -> str | None:
    if operator == "$absent":
        fits = (value is _MISSING) == operand
    elif value is _MISSING:
        fits = False
    elif operator == "$keep":
        kept[operand] = value
        fits = True
    elif operator == "$is":
        return _misfit(operand, value, kept, at)
    elif operator == "$any":
        fits = value is not None
    elif operator == "$has":
        fits = isinstance(value, str) and operand in value
    elif operator == "$starts":
        fits = isinstance(value, str) and value.startswith(operand)
    elif operator == "$at_least":
        fits = isinstance(value, int | float) and value >= operand
    elif operator == "$one_of":
        fits = any(_misfit(part, value, kept, at) is None for part in operand)
    elif operator == "$not":
        fits = _misfit(operand, value, {}, at) is not None
    elif operator == "$length":
        fits = isinstance(value, list | str) and len(value) == operand
    elif operator == "$every":
        fits = isinstance(value, list) and all(
            _misfit(operand, one, kept, at) is None for one in value
        )
    elif operator == "$some":
        # Each in order: an element that one pattern took is behind the next one.
        rest: Iterator[Any] = iter(value if isinstance(value, list) else ())
        fits = all(any(_misfit(part, one, kept, at) is None for one in rest) for part in operand)
    else:
        raise ValueError(f"{operator} is no operator of a pattern")
    return None if fits else _say(at, {operator: operand}, value)


def _say(at: str, pattern: Any, value: Any) -> str:
    came = "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    wanted = json.dumps(pattern, ensure_ascii=False)
    return f"{at or 'it'} is {came[:600]}, not {wanted[:300]}"
