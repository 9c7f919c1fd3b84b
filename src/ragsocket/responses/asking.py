"""From what a client asked to the resource that answers it and the question an engine gets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ragsocket.engine.base import Question, Retrieval, Sampling, Turn
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.ids import new_response_id
from ragsocket.protocol.resources import ConversationRef, InputMessage, Response


def messages(request: ResponseCreate) -> tuple[InputMessage, ...]:
    """Return the messages that were handed in; a string is one of the user's."""
    if isinstance(request.input, str):
        return (InputMessage(role="user", content=request.input),)
    return request.input


def accepted(request: ResponseCreate, model: str, conversation_id: str | None) -> Response:
    """Return the resource of a response that was just accepted."""
    return Response(
        id=new_response_id(),
        created_at=int(time.time()),
        status="queued",
        model=model,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        conversation=ConversationRef(id=conversation_id) if conversation_id else None,
        prompt_cache_key=request.prompt_cache_key,
        safety_identifier=request.safety_identifier,
        service_tier=request.service_tier,
        temperature=request.temperature,
        tool_choice=request.tool_choice,
        tools=request.tools or (),
        top_p=request.top_p,
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
        self, request: ResponseCreate, history: Sequence[Turn], owner: str, model: str
    ) -> Question:
        """Return what the engine is asked: the history, then what was handed in now.

        System and developer messages join the instructions: they say how to answer, and are
        not part of what was said.
        """
        handed_in = messages(request)
        said = [m for m in handed_in if m.role in ("user", "assistant")]
        told = [m.plain() for m in handed_in if m.role in ("system", "developer")]
        instructions = [text for text in (request.instructions, *told) if text]
        tool = next(iter(request.tools or ()), None)
        top_k = request.retrieval.similarity_top_k or (tool.max_num_results if tool else None)
        return Question(
            turns=[
                *history,
                *(Turn("user" if m.role == "user" else "assistant", m.plain()) for m in said),
            ],
            owner=owner,
            model=model,
            instructions="\n\n".join(instructions) or None,
            retrieval=Retrieval(
                search=self.search and request.searches,
                mode=request.retrieval.mode,
                similarity_top_k=top_k or self.similarity_top_k,
                response_mode=request.retrieval.response_mode,
                vector_store_ids=tool.vector_store_ids if tool else (),
            ),
            sampling=Sampling(
                temperature=request.temperature,
                top_p=request.top_p,
                max_output_tokens=request.max_output_tokens or self.max_output_tokens,
            ),
        )
