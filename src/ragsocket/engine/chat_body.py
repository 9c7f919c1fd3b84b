"""What a chat completion is asked with, in the words of the OpenAI-compatible API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragsocket.engine.base import Functions, JsonFormat, Sampling

if TYPE_CHECKING:
    from ragsocket.engine.token_stream import Message


def chat_body(
    messages: Sequence[Message], sampling: Sampling, functions: Functions | None
) -> dict[str, object]:
    """Return the members of a request's body that say what is asked.

    The limit of tokens is left to whoever sends it, since servers differ in its name.
    """
    body: dict[str, object] = {"messages": [message_body(message) for message in messages]}
    passed_on = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": sampling.stop or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "reasoning_effort": sampling.reasoning_effort,
        "verbosity": sampling.verbosity,
    }
    body |= {name: value for name, value in passed_on.items() if value is not None}
    if sampling.format is not None:
        body["response_format"] = _response_format(sampling.format)
    if functions is not None:
        body["tools"] = [
            {
                "type": "function",
                "function": _given(
                    name=one.name,
                    description=one.description,
                    parameters=one.parameters,
                    strict=one.strict,
                ),
            }
            for one in functions.offered
        ]
        if functions.insist:
            # By name is not known everywhere, and means the same where one is offered alone.
            body["tool_choice"] = "required"
        if not functions.parallel:
            body["parallel_tool_calls"] = False
    return body


def message_body(message: Message) -> dict[str, object]:
    """Return a message as it is sent."""
    body: dict[str, object] = {"role": message.role, "content": message.content}
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        body["content"] = [
            *(
                {"type": "image_url", "image_url": {"url": one.url, "detail": one.detail}}
                for one in message.images
            ),
            *text,
        ]
    if message.calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    if message.call_id is not None:
        body["tool_call_id"] = message.call_id
    return body


def _response_format(form: JsonFormat) -> dict[str, object]:
    if form.schema is None:
        return {"type": "json_object"}
    schema = _given(
        name=form.name, schema=form.schema, description=form.description, strict=form.strict
    )
    return {"type": "json_schema", "json_schema": schema}


def _given(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
