"""From frames to events, or to errors that name the fault."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from ragsocket.errors import RequestError
from ragsocket.protocol.chat import ChatCompletionCreate
from ragsocket.protocol.client_events import REFUSED, AnyClientEvent, ResponseCreate
from ragsocket.protocol.decode import decode, envelope

CREATE = '{"type":"response.create","input":"a"'


def item(text: str) -> str:
    """Return a create with one input item."""
    return f'{{"type":"response.create","input":[{text}]}}'


def nested(levels: int) -> str:
    """Return a filter with this many levels."""
    comparison = '{"type":"eq","key":"a","value":1}'
    return '{"type":"and","filters":[' * (levels - 1) + comparison + "]}" * (levels - 1)


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
        ('{"type":"response.create","input":[]}', "invalid_event", "input", "must end with"),
        (
            '{"type":"response.create","input":[{"role":"user","content":[{"type":"input_image"}]}]}',
            "invalid_event",
            "input[0].content[0].image_url",
            "missing",
        ),
        (CREATE + ',"foo":1}', "invalid_event", "foo", "not a field"),
        (CREATE + ',"top_p":2}', "invalid_event", "top_p", "less than or equal to 1"),
        (CREATE + ',"top_p":NaN}', "invalid_event", "top_p", "top_p"),
        (CREATE + ',"prompt":{}}', "unsupported_parameter", "prompt", "Leave it out"),
        (CREATE + ',"tools":[{"type":"x"}]}', "unsupported_parameter", "tools[0]", "'x'"),
        (CREATE + ',"tools":[{"type":"function"}]}', "invalid_event", "tools[0].name", "missing"),
        (CREATE + ',"tools":[{}]}', "invalid_event", "tools[0]", "type is missing"),
        (CREATE + ',"tools":5}', "invalid_event", "tools", "valid array"),
        (CREATE + ',"tools":[{"type":"function","name":"f"},{"type":"function","name":"f"}]}',
         "invalid_event", "tools", "same name"),
        (CREATE + ',"tools":[{"type":"function","name":"f"}],'
         '"retrieval":{"response_mode":"refine"}}',
         "invalid_event", "retrieval.response_mode", "compact"),
        (CREATE + ',"tool_choice":{"type":"function","name":"f"}}', "invalid_event",
         "tool_choice", "no function 'f'"),
        (CREATE + ',"tool_choice":{"type":"function"}}', "invalid_event",
         "tool_choice.name", "missing"),
        (CREATE + ',"tool_choice":"required","tools":[]}', "invalid_event", "tool_choice",
         "needs a tool"),
        (CREATE + ',"tool_choice":{"type":"file_search"},"tools":[]}', "invalid_event",
         "tool_choice", "not among"),
        (CREATE + ',"include":["all"]}', "unsupported_parameter", "include",
         "file_search_call.results"),
        (CREATE + ',"top_logprobs":3}', "unsupported_parameter", "top_logprobs", "Leave it out"),
        (CREATE + ',"text":{"format":{"type":"xml"}}}', "invalid_event", "text.format",
         "'json_schema'"),
        (CREATE + ',"text":{"format":{"type":"json_schema"}}}', "invalid_event",
         "text.format.name", "missing"),
        (CREATE + ',"reasoning":{"effort":"some"}}', "invalid_event", "reasoning.effort", "'high'"),
        (CREATE + ',"tools":[{"type":"file_search","ranking_options":{}}]}',
         "unsupported_parameter", "tools[0].ranking_options", "Leave it out"),
        (CREATE + ',"tools":[{"type":"file_search","filters":{}}]}', "invalid_event",
         "tools[0].filters", "type is missing"),
        (CREATE + ',"retrieval":{"filters":{"type":"and","filters":[{"type":"in","key":"a",'
         '"value":1}]}}}', "invalid_event", "retrieval.filters.filters[0]", "a list"),
        (CREATE + ',"retrieval":{"filters":{"type":"eq","key":"a","value":["b"]}}}',
         "invalid_event", "retrieval.filters", "not a list"),
        (CREATE + ',"retrieval":{"filters":{"type":"gte","key":"a","value":true}}}',
         "invalid_event", "retrieval.filters", "have no order"),
        (CREATE + ',"retrieval":{"filters":{"type":"or","filters":[{"type":"like","key":"a"}]}}}',
         "invalid_event", "retrieval.filters.filters[0]", "'nin'"),
        (CREATE + ',"retrieval":{"query":"all"}}', "invalid_event", "retrieval.query", "'last'"),
        (CREATE + ',"retrieval":{"rerank":"yes"}}', "invalid_event", "retrieval.rerank", "boolean"),
        (CREATE + ',"retrieval":{"filters":' + nested(9) + "}}", "invalid_event",
         "retrieval.filters", "8 levels"),
        (item('{"type":"item_reference","id":"m"}'), "unsupported_parameter", "input[0]",
         "previous_response_id"),
        (item('{"id":"m"}'), "unsupported_parameter", "input[0]", "item_reference"),
        (item('{"type":"computer_call"}'), "unsupported_parameter", "input[0]", "function_call"),
        (item('{"role":"user","content":[{"type":"input_file","file_id":"f"}]}'),
         "unsupported_parameter", "input[0].content[0]", "vector store"),
        (item('{"role":"user","content":[{"type":"input_image","file_id":"f"}]}'),
         "unsupported_parameter", "input[0].content[0].file_id", "image_url"),
        (item('{"role":"user","content":[{"type":"input_image","image_url":"a.png"}]}'),
         "invalid_event", "input[0].content[0].image_url", "data:image"),
        (item('{"role":"system","content":[{"type":"input_image","image_url":"http://a"}]}'),
         "invalid_event", "input[0]", "only messages of the user"),
        (item('{"role":"user","content":[]}'), "invalid_event", "input", "text or a picture"),
        (item('{"role":"assistant","content":"a"}'), "invalid_event", "input", "must end with"),
        (item('{"role":"user","content":"a","name":"b"}'), "invalid_event", "input[0].name",
         "not a field"),
        (item('{"type":"function_call_output","output":"a"}'), "invalid_event",
         "input[0].call_id", "missing"),
        (item("5"), "invalid_event", "input[0]", "type is missing"),
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


def test_an_answer_may_be_handed_back_as_it_came() -> None:
    """Output items, with members that are null and with what only servers know, are taken."""
    items = [
        {"role": "user", "content": "q", "id": None},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
            "encrypted_content": "xyz",
            "status": None,
        },
        {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "a",
                    "annotations": [
                        {"type": "file_citation", "file_id": "f", "filename": "n", "index": 1},
                        {"type": "url_citation", "url": "http://a"},
                    ],
                    "logprobs": [],
                }
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c",
            "name": "f",
            "arguments": "{}",
            "namespace": None,
        },
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ]
    event = decode(json.dumps({"type": "response.create", "input": items}))
    assert isinstance(event, ResponseCreate)
    assert [one.type for one in event.input if not isinstance(one, str)] == [
        "message",
        "reasoning",
        "file_search_call",
        "message",
        "function_call",
        "function_call_output",
    ]


def functions(*names: str) -> list[dict[str, str]]:
    """Return tools."""
    return [{"type": "function", "name": name} for name in names]


SEARCH = {"type": "file_search"}
ONE = {"type": "function", "name": "f"}
OUTPUT = [{"type": "function_call_output", "call_id": "c", "output": "1"}]


@pytest.mark.parametrize(
    ("fields", "searches", "offered", "insists"),
    [
        ({}, True, "", False),
        ({"tools": []}, False, "", False),
        ({"tools": [SEARCH]}, True, "", False),
        ({"tools": functions("f", "g")}, False, "fg", False),
        ({"tools": [*functions("f", "g"), SEARCH]}, True, "fg", False),
        ({"tools": [*functions("f"), SEARCH], "tool_choice": "none"}, False, "", False),
        ({"tools": [*functions("f"), SEARCH], "tool_choice": "required"}, True, "f", True),
        ({"tools": [*functions("f", "g"), SEARCH], "tool_choice": ONE}, False, "f", True),
        ({"tools": [*functions("f"), SEARCH], "tool_choice": SEARCH}, True, "", True),
        (
            {
                "tools": [*functions("f", "g"), SEARCH],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [ONE]},
            },
            False,
            "f",
            False,
        ),
        (
            {
                "tools": [*functions("f"), SEARCH],
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [SEARCH]},
            },
            True,
            "",
            True,
        ),
        ({"retrieval": {"mode": "none"}}, False, "", False),
        ({"input": OUTPUT}, False, "", False),
        ({"input": OUTPUT, "tools": [*functions("f"), SEARCH]}, False, "f", False),
        ({"input": [{"role": "user", "content": "q"}, *OUTPUT]}, True, "", False),
    ],
)
def test_what_an_answer_may_use(
    fields: dict[str, Any], searches: bool, offered: str, insists: bool
) -> None:
    """`tools`, `tool_choice` and the input decide together about the search and the functions."""
    event = decode(json.dumps({"type": "response.create", "input": "q", **fields}))
    assert isinstance(event, ResponseCreate)
    assert event.searches is searches
    assert "".join(tool.name for tool in event.functions) == offered
    assert event.insists is insists


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


def _models(kind: object) -> set[type[BaseModel]]:
    """Every model that a type is made of, itself and what its fields hold."""
    found: set[type[BaseModel]] = set()
    todo = [kind]
    while todo:
        one = todo.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one not in found:
                found.add(one)
                todo += [field.annotation for field in one.model_fields.values()]
        else:
            todo += get_args(one)
    return found


def _takes(model: type[BaseModel], name: str) -> set[str]:
    """The JSON types that a field takes, null aside; a constant is of no type."""
    schema = model.model_json_schema(by_alias=False)
    schema = schema["properties"][name] if "properties" in schema else schema
    parts = schema.get("anyOf", [schema])
    kinds = {"constant" if "const" in part else part.get("type", "object") for part in parts}
    return kinds - {"null"}


OTHERS: dict[str, tuple[object, ...]] = {
    "integer": (True, "1"),
    "number": (True, "1"),
    "boolean": (1, "yes"),
}
OTHER_TYPES: list[tuple[type[BaseModel], str, object]] = [
    (model, name, value)
    for model in sorted(_models(AnyClientEvent | ChatCompletionCreate), key=lambda m: m.__name__)
    for name in model.model_fields
    for kinds, values in (
        ({"integer"}, (True, "1")),
        ({"number"}, (True, "1")),
        ({"boolean"}, (1, "yes")),
    )
    for value in values
    if _takes(model, name) == kinds
]


@pytest.mark.parametrize(("model", "name", "value"), OTHER_TYPES)
def test_no_value_is_taken_for_one_of_another_type(
    model: type[BaseModel], name: str, value: object
) -> None:
    """`"1"` and `true` are no numbers, and `1` is no flag, wherever a client may send one."""
    field = model.model_fields[name]
    form: Any = Annotated[(field.annotation, name, *field.metadata)]
    kind: TypeAdapter[Any] = TypeAdapter(form)
    with pytest.raises(ValidationError):
        kind.validate_python(value)


def test_there_are_numbers_and_flags_to_look_at() -> None:
    """The test above looks at both kinds, of sockets and of HTTP."""
    seen = {(model.__name__, name) for model, name, _ in OTHER_TYPES}
    assert {
        ("ResponseCreate", "max_output_tokens"),
        ("ResponseCreate", "parallel_tool_calls"),
        ("ResponseCancel", "after"),
        ("ChatCompletionCreate", "temperature"),
        ("FileSearchTool", "max_num_results"),
    } <= seen
