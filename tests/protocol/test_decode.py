"""From frames to events, or to errors that name the fault."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import REFUSED, ResponseCreate
from ragsocket.protocol.decode import decode, envelope

CREATE = '{"type":"response.create","input":"a"'


@pytest.mark.parametrize(
    ("frame", "code", "param", "words"),
    [
        ("{", "invalid_json", None, "not JSON"),
        ("", "invalid_json", None, "not JSON"),
        ("[]", "invalid_event", None, "JSON object"),
        ('"a"', "invalid_event", None, "JSON object"),
        ("{}", "unknown_event_type", "type", "response.create, response.cancel"),
        ('{"type":"x"}', "unknown_event_type", "type", "response.create, response.cancel"),
        ('{"type":["x"]}', "unknown_event_type", "type", "response.create"),
        ('{"type":"response.create"}', "invalid_event", "input", "input is missing"),
        ('{"type":"response.create","input":5}', "invalid_event", "input", "valid string"),
        ('{"type":"response.create","input":" "}', "invalid_event", "input", "is empty"),
        ('{"type":"response.create","input":[]}', "invalid_event", "input", "last input message"),
        (
            '{"type":"response.create","input":[{"role":"user","content":[{"type":"input_image"}]}]}',
            "invalid_event",
            "input[0].content[0].type",
            "input_text",
        ),
        (CREATE + ',"foo":1}', "invalid_event", "foo", "not a field"),
        (CREATE + ',"top_p":2}', "invalid_event", "top_p", "less than or equal to 1"),
        (CREATE + ',"top_p":NaN}', "invalid_event", "top_p", "top_p"),
        (CREATE + ',"store":false}', "unsupported_parameter", "store", "Leave it out"),
        (CREATE + ',"tools":[{"type":"x"}]}', "unsupported_parameter", "tools[0]", "'x'"),
        (CREATE + ',"retrieval":{"mode":"x"}}', "invalid_event", "retrieval.mode", "'hybrid'"),
        (CREATE + ',"metadata":{"a":1}}', "invalid_event", "metadata.a", "valid string"),
        (
            '{"type":"response.cancel","response_id":"a","stream_id":"b"}',
            "invalid_event",
            None,
            "name one of",
        ),
        ("[" * 10_000, "invalid_json", None, "recursion"),
        ('{"a":' * 10_000, "invalid_json", None, "recursion"),
        (CREATE + ',"top_p":' + "9" * 5_000 + "}", "invalid_json", None, "number out of range"),
        (CREATE + ',"user":"\\ud800"}', "invalid_json", None, "hex escape"),
    ],
)  # fmt: skip
def test_a_fault_is_named(frame: str, code: str, param: str | None, words: str) -> None:
    """Every kind of bad frame gets its code, the field at fault, and what would be right."""
    with pytest.raises(RequestError) as caught:
        decode(frame)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert words in caught.value.message


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(name: str) -> None:
    """Naming a field that this server cannot honour is an error that names it."""
    with pytest.raises(RequestError) as caught:
        decode(CREATE + f',"{name}":"anything"}}')
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    "field",
    ['"store":true', '"generate":true', '"background":false', '"text":{"format":{"type":"text"}}',
     '"reasoning":null', '"user":"u"', '"stream":true', '"stream_options":{"x":1}'],
)  # fmt: skip
def test_what_happens_anyway_may_be_asked_for(field: str) -> None:
    """A field that asks for the default, and a hint, are accepted."""
    assert isinstance(decode(CREATE + f",{field}}}"), ResponseCreate)


def test_the_sender_of_a_bad_event_is_found() -> None:
    """The ids of an event that is not valid are still read, and rubbish has none."""
    known = envelope('{"type":"response.create","event_id":"e1","stream_id":"s1","input":5}')
    assert (known.event_id, known.stream_id) == ("e1", "s1")
    assert envelope("{").event_id is None
    assert envelope('{"event_id":5}').event_id is None


leaves = st.none() | st.booleans() | st.floats() | st.text()
values = st.recursive(leaves, lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(st.text() | values.map(json.dumps))
def test_no_frame_raises_anything_else(frame: str) -> None:
    """Whatever a frame holds, decoding gives an event or a RequestError."""
    try:
        decode(frame)
    except RequestError as error:
        assert error.message


@pytest.mark.parametrize("value", ["5", "true", "1.5", '"x"', "{}", "[5]", "[[]]"])
@pytest.mark.parametrize("field", sorted(ResponseCreate.model_fields))
def test_a_value_of_any_kind_in_any_field_is_taken_or_refused_in_words(
    field: str, value: str
) -> None:
    """Nothing but a `RequestError` comes of it, which the connection outlives."""
    frame = '{"type": "response.create", "input": "x", "%s": %s}' % (field, value)  # noqa: UP031
    with contextlib.suppress(RequestError):
        decode(frame)
