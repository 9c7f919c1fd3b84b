"""How server events are written down."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsocket.engine.chat_chunks import UPSTREAM_ERRORS
from ragsocket.protocol.errors import (
    CLOSE_CODES,
    EVENT_ERRORS,
    FAILURES,
    STEER_ERRORS,
    CloseCode,
    ErrorCode,
)
from ragsocket.protocol.server_events import (
    CallArgumentsDelta,
    DeltaWriter,
    OutputTextDelta,
    Pong,
    ReasoningTextDelta,
    encode,
)

characters = st.characters(codec="utf-8")


@given(st.text(characters, max_size=40), st.integers(0, 10**9), st.none() | st.text(characters))
def test_the_fast_way_writes_what_the_model_says(
    delta: str, number: int, stream_id: str | None
) -> None:
    """A delta written by the template is the same object as one written by its model."""
    for kind in (OutputTextDelta, ReasoningTextDelta, CallArgumentsDelta):
        blank = kind(item_id="msg_1", output_index=1, stream_id=stream_id)
        model = blank.model_copy(update={"sequence_number": number, "delta": delta})
        assert json.loads(DeltaWriter(blank).write(number, delta)) == json.loads(encode(model))


def test_a_lone_surrogate_cannot_be_written() -> None:
    """Text that is not Unicode is refused before it can reach a socket."""
    writer = DeltaWriter(OutputTextDelta(item_id="msg_1", output_index=0))
    with pytest.raises(UnicodeEncodeError):
        writer.write(0, "\ud800")


def test_absent_optional_fields_are_left_out() -> None:
    """`stream_id` and `event_id` are there only when the client gave them."""
    assert json.loads(encode(Pong())) == {"type": "ragsocket:pong"}
    assert json.loads(encode(Pong(event_id="e"))) == {"type": "ragsocket:pong", "event_id": "e"}


def test_every_close_code_says_what_to_do() -> None:
    """Each close code has its meaning, and whether to retry and to resume."""
    assert set(CLOSE_CODES) == set(CloseCode)


def test_every_error_code_is_explained() -> None:
    """The documentation's tables know each code, and say the same of retrying as the engine."""
    assert set(ErrorCode) <= EVENT_ERRORS.keys() | FAILURES.keys() | STEER_ERRORS.keys()
    engine = {code: retry for code, (_, retry) in UPSTREAM_ERRORS.items()}
    told = {code: fact.retry for code, fact in FAILURES.items() if code.startswith("upstream_")}
    assert engine == told
