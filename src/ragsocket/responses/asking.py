"""From what a client asked to the resource that answers it and the question an engine gets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ragsocket.engine import base as engine
from ragsocket.engine.base import Question, Retrieval, Sampling, Turn
from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import (
    new_function_call_id,
    new_function_output_id,
    new_message_id,
    new_reasoning_id,
    new_response_id,
    new_search_id,
)
from ragsocket.protocol.input_items import FunctionCallOutput, InputItem, InputMessage
from ragsocket.protocol.resources import (
    ComparisonFilter,
    CompoundFilter,
    ConversationRef,
    FunctionCall,
    JsonObjectFormat,
    JsonSchemaFormat,
    OutputItem,
    OutputMessage,
    Response,
    TextConfig,
)

_NEW_ID = {
    "message": new_message_id,
    "function_call": new_function_call_id,
    "function_call_output": new_function_output_id,
    "reasoning": new_reasoning_id,
    "file_search_call": new_search_id,
}


def handed_in(request: ResponseCreate) -> tuple[InputItem, ...]:
    """Return the items that were handed in; a string is a user's message."""
    if isinstance(request.input, str):
        return (InputMessage(id=new_message_id(), role="user", content=request.input),)
    return with_new_ids(request.input)


def with_new_ids(items: Sequence[InputItem]) -> tuple[InputItem, ...]:
    """Return items with ids of their own: one that is handed back is another than it was."""
    return tuple(item.model_copy(update={"id": _NEW_ID[item.type]()}) for item in items)


def fingerprint(request: ResponseCreate) -> str:
    """Return what two asks have in common that ask for the same, whatever names the history."""
    said = request.model_dump_json(
        exclude={"type", "event_id", "conversation"}, exclude_defaults=True
    )
    return hashlib.sha256(said.encode()).hexdigest()


def same_ask(earlier: str, request: ResponseCreate) -> None:
    """Make sure that a key is used for one ask alone.

    Args:
        earlier: fingerprint of what it was used for before.
        request: what it is used for now.

    Raises:
        RequestError: that is another.
    """
    if earlier != fingerprint(request):
        raise RequestError(
            ErrorCode.IDEMPOTENCY_CONFLICT,
            "this event_id was used for another response.create of this conversation or "
            "connection; give each ask one of its own.",
            param="event_id",
            status=409,
        )


def turns_of(items: Iterable[InputItem | OutputItem]) -> list[Turn]:
    """Return what items say, in the words of an engine.

    Reasoning and searches say nothing. Of a call that was cut off stays that the answer was.
    """
    turns: list[Turn] = []
    for item in items:
        if isinstance(item, InputMessage):
            role: engine.Role = "system" if item.role == "developer" else item.role
            images = tuple(engine.Image(one.image_url, one.detail) for one in item.images)
            cut = role == "assistant" and item.status == "incomplete"
            turns.append(Turn(role, item.plain(), cut=cut, images=images))
        elif isinstance(item, OutputMessage):
            text = "".join(part.text for part in item.content)
            turns.append(Turn("assistant", text, cut=item.status != "completed"))
        elif isinstance(item, FunctionCallOutput):
            turns.append(Turn("tool", item.plain(), call_id=item.call_id))
        elif isinstance(item, FunctionCall) and item.status == "completed":
            call = engine.Call(item.call_id, item.name, item.arguments)
            turns.append(Turn("assistant", "", calls=(call,)))
        elif isinstance(item, FunctionCall):
            turns.append(Turn("assistant", "", cut=True))
    return turns


def accepted(
    request: ResponseCreate, model: str, conversation_id: str | None, *, store: bool = True
) -> Response:
    """Return the resource of a response that was just accepted."""
    return Response(
        id=new_response_id(),
        created_at=int(time.time()),
        status="queued",
        model=model,
        background=request.background is True,
        store=store,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        conversation=ConversationRef(id=conversation_id) if conversation_id else None,
        prompt_cache_key=request.prompt_cache_key,
        safety_identifier=request.safety_identifier,
        reasoning=request.reasoning,
        service_tier=request.service_tier or "default",
        temperature=1.0 if request.temperature is None else request.temperature,
        text=request.text,
        tool_choice=request.tool_choice,
        tools=request.tools or (),
        top_p=1.0 if request.top_p is None else request.top_p,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        truncation=request.truncation,
        user=request.user,
        metadata=request.metadata or {},
    )


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a question that does not say otherwise.

    Attributes:
        search: False if this server never searches.
        similarity_top_k: passages per answer; None for the engine's choice.
        max_output_tokens: upper bound of generated tokens; None for the model's own.
    """

    search: bool = True
    similarity_top_k: int | None = None
    max_output_tokens: int | None = None

    def question(
        self,
        request: ResponseCreate,
        input: Sequence[InputItem],
        *,
        history: Sequence[Turn],
        owner: str,
        model: str,
    ) -> Question:
        """Return what the engine is asked: the history, then what was handed in now.

        System and developer messages join the instructions: they say how to answer, and are
        not part of what was said.

        Raises:
            RequestError: a function's output was handed in that no call asked for.
        """
        new = turns_of(input)
        _check_outputs(history, new)
        turns = [*history, *new]
        # A client that hands the whole conversation in says the same thing every time.
        told = dict.fromkeys(turn.text for turn in turns if turn.role == "system")
        instructions = [text for text in (request.instructions, *told) if text]
        tool = request.file_search
        asked = request.retrieval
        top_k = asked.similarity_top_k or (tool.max_num_results if tool else None)
        functions = tuple(
            engine.Function(one.name, one.description, one.parameters, one.strict)
            for one in request.functions
        )
        searches = self.search and request.searches
        return Question(
            turns=[turn for turn in turns if turn.role != "system"],
            owner=owner,
            model=model,
            instructions="\n\n".join(instructions) or None,
            retrieval=Retrieval(
                search=searches,
                insist=request.insists,
                mode=asked.mode,
                similarity_top_k=top_k or self.similarity_top_k,
                response_mode=asked.response_mode,
                vector_store_ids=tool.vector_store_ids if tool else (),
                filters=_both(tool.filters if tool else None, asked.filters),
                query=asked.query,
                rerank=asked.rerank,
            ),
            sampling=Sampling(
                temperature=request.temperature,
                top_p=request.top_p,
                max_output_tokens=request.max_output_tokens or self.max_output_tokens,
                stop=request.sampling.stop,
                seed=request.sampling.seed,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                reasoning_effort=request.reasoning.effort if request.reasoning else None,
                verbosity=request.text.verbosity,
                format=_format(request.text),
            ),
            functions=engine.Functions(
                functions,
                # Where there is a search, that is the tool which is used.
                insist=request.insists and not searches,
                parallel=request.parallel_tool_calls is not False,
            )
            if functions
            else None,
            may_trim=request.truncation == "auto",
        )


def file_filter(filter: ComparisonFilter | CompoundFilter) -> engine.Filter:
    """Return what a client's filter says, in the words of an engine."""
    if isinstance(filter, ComparisonFilter):
        return engine.Comparison(filter.key, filter.type, filter.value)
    return engine.Combination(filter.type, [file_filter(one) for one in filter.filters])


def _both(*filters: ComparisonFilter | CompoundFilter | None) -> engine.Filter | None:
    given = [file_filter(filter) for filter in filters if filter is not None]
    return engine.Combination("and", given) if given else None


def _check_outputs(history: Sequence[Turn], new: Sequence[Turn]) -> None:
    # In the history a call may have been forgotten since, and no prompt holds its output then.
    called = {call.call_id for turn in history for call in turn.calls}
    for turn in new:
        called.update(call.call_id for call in turn.calls)
        if turn.role == "tool" and turn.call_id not in called:
            raise RequestError(
                ErrorCode.FUNCTION_CALL_NOT_FOUND,
                f"there is no function call {str(turn.call_id)[:64]!r} before its output; hand "
                "the call in as well, or go on from the response that holds it.",
                param="input",
            )


def _format(text: TextConfig) -> engine.JsonFormat | None:
    if isinstance(text.format, JsonObjectFormat):
        return engine.JsonFormat()
    if isinstance(text.format, JsonSchemaFormat):
        form = text.format
        return engine.JsonFormat(form.name, form.schema_, form.description, form.strict)
    return None
