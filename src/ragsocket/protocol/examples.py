"""One example of each event, as it would go over the wire; the specification shows them.

They are built from the models, so an example that does not fit its shape does not exist.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import (
    Ping,
    ResponseCancel,
    ResponseCreate,
    ResponseResume,
    ResponseSteer,
)
from ragsocket.protocol.errors import ErrorCode
from ragsocket.protocol.ids import item_id
from ragsocket.protocol.resources import (
    CitationFacts,
    ConversationRef,
    Facts,
    FileCitation,
    FileSearchCall,
    OutputMessage,
    OutputText,
    Response,
    ResponseError,
    SearchResult,
    Usage,
    Wire,
)
from ragsocket.protocol.server_events import (
    AnnotationAdded,
    CallArgumentsDelta,
    CallArgumentsDone,
    CancelDone,
    ContentPartAdded,
    ContentPartDone,
    Error,
    FileSearchCompleted,
    FileSearchInProgress,
    FileSearchSearching,
    Hello,
    Limits,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    OutputTextDone,
    Pong,
    ReasoningTextDelta,
    ReasoningTextDone,
    RefusedSteer,
    ResponseCompleted,
    ResponseCreated,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    ResponseQueued,
    Steer,
    SteerAccepted,
    SteerError,
    SteerFailed,
)

QUESTION = "When does the ferry to Holm leave?"
TEXT = "At 7:40 [1]."
RESPONSE = "resp_0f8c3a51b7e24d96a1c05e7f92d8b346"
CONVERSATION = "conv_5d1e90c47ab34f28b6f30c9e81a7d254"
MESSAGE = item_id("msg", RESPONSE, 1)
SEARCH = item_id("fs", RESPONSE, 0)
REASONING = item_id("rs", RESPONSE, 1)
CALL = item_id("fc", RESPONSE, 1)
STEER = "steer_4b8e02d7c6f14a95b31d7e90a2c85f16"


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Return the example of each event, by the event's type, as JSON values."""
    events = (*_said_by_clients(), *_said_by_the_server())
    return {
        event.type: event.model_dump(  # type: ignore[attr-defined]
            mode="json", exclude_unset=isinstance(event, CLIENT)
        )
        for event in events
    }


CLIENT = (ResponseCreate, ResponseCancel, ResponseSteer, ResponseResume, Ping)


def _said_by_clients() -> tuple[Wire, ...]:
    return (
        ResponseCreate(type="response.create", input=QUESTION, event_id="ask-1"),
        ResponseCancel(type="response.cancel", create_event_id="ask-1", after=9),
        ResponseSteer(
            type="response.steer",
            event_id="steer-1",
            previous_response_id=RESPONSE,
            input="In English miles, please.",
        ),
        ResponseResume(type="response.resume", response_id=RESPONSE, starting_after=9),
        Ping(type="ragsocket:ping", event_id="ping-1"),
    )


def _said_by_the_server() -> tuple[Wire, ...]:
    begun = Response(
        id=RESPONSE,
        created_at=1795600000,
        status="queued",
        model="scripted",
        conversation=ConversationRef(id=CONVERSATION),
    )
    running = begun.model_copy(update={"status": "in_progress"})
    searching = FileSearchCall(id=SEARCH, status="in_progress", queries=(QUESTION,))
    passage = SearchResult(
        file_id="file_ferry",
        filename="ferry.md",
        score=0.83,
        text="The ferry to Holm leaves at 7:40 every morning.",
        attributes={"place": "Ferry"},
    )
    found = searching.model_copy(update={"status": "completed", "results": (passage,)})
    mark = FileCitation(
        file_id="file_ferry",
        filename="ferry.md",
        index=11,
        ragsocket=CitationFacts(passage=1, matched=False),
    )
    blank, part = OutputText(text=""), OutputText(text=TEXT, annotations=(mark,))
    whole = OutputMessage(id=MESSAGE, status="completed", content=(part,))
    cut = OutputMessage(id=MESSAGE, status="incomplete", content=(OutputText(text="At 7:40"),))
    usage = Usage(input_tokens=96, output_tokens=6, total_tokens=102)
    ended = {"completed_at": 1795600001, "usage": usage}
    facts = {
        "retrieval_ms": 3.2,
        "ttft_ms": 140.0,
        "total_ms": 260.0,
        "index_revision": 1,
        "query": "turns",
    }
    here = {"item_id": MESSAGE, "output_index": 1, "content_index": 0}
    there = {"item_id": REASONING, "output_index": 1, "content_index": 0}
    searched = {"output_index": 0, "item_id": SEARCH}
    return (
        ResponseCreated(sequence_number=0, response=begun, event_id="ask-1"),
        ResponseQueued(sequence_number=1, response=begun),
        ResponseInProgress(sequence_number=2, response=running),
        OutputItemAdded(sequence_number=3, output_index=0, item=searching),
        FileSearchInProgress(sequence_number=4, **searched),
        FileSearchSearching(sequence_number=5, **searched),
        FileSearchCompleted(sequence_number=6, **searched),
        OutputItemDone(sequence_number=7, output_index=0, item=found),
        ContentPartAdded(sequence_number=9, part=blank, **here),
        OutputTextDelta(sequence_number=10, delta="At 7:40 [1].", **here),
        AnnotationAdded(sequence_number=11, annotation_index=0, annotation=mark, **here),
        OutputTextDone(sequence_number=12, text=TEXT, **here),
        ContentPartDone(sequence_number=13, part=part, **here),
        ReasoningTextDelta(sequence_number=10, delta="The timetable ", **there),
        ReasoningTextDone(sequence_number=12, text="The timetable says so.", **there),
        CallArgumentsDelta(sequence_number=9, item_id=CALL, output_index=1, delta='{"day":'),
        CallArgumentsDone(sequence_number=11, item_id=CALL, output_index=1, arguments='{"day":1}'),
        ResponseCompleted(
            sequence_number=15,
            response=running.model_copy(
                update={
                    "status": "completed",
                    "output": (found, whole),
                    "ragsocket": Facts(reason="completed", usage_estimated=False, **facts),
                    **ended,
                }
            ),
        ),
        ResponseIncomplete(
            sequence_number=15,
            response=running.model_copy(
                update={
                    "status": "cancelled",
                    "output": (found, cut),
                    "ragsocket": Facts(reason="cancelled", usage_estimated=True, **facts),
                    **ended,
                }
            ),
        ),
        ResponseFailed(
            sequence_number=15,
            response=running.model_copy(
                update={
                    "status": "failed",
                    "error": ResponseError(
                        code="server_error", message="The model's answer broke off."
                    ),
                    "output": (found, cut),
                    "ragsocket": Facts(
                        reason="failed", code="upstream_interrupted", usage_estimated=True, **facts
                    ),
                    **ended,
                }
            ),
        ),
        SteerAccepted(sequence_number=14, steer=Steer(id=STEER, previous_response_id=RESPONSE)),
        SteerFailed(
            event_id="steer-2",
            error=SteerError(
                code="response_already_completed",
                message="this response is complete; ask anew, with its id as previous_response_id.",
            ),
            steer=RefusedSteer(previous_response_id=RESPONSE, input="In English miles, please."),
        ),
        Error.of(
            RequestError(
                ErrorCode.MODEL_NOT_FOUND,
                "there is no model 'nobody' here; there is scripted.",
                param="model",
                status=404,
            ),
            event_id="ask-2",
        ),
        Hello(
            conversation=CONVERSATION,
            limits=Limits(
                max_frame_bytes=1048576,
                max_lanes=32,
                max_unfinished_responses=64,
                detach_grace_s=30,
            ),
        ),
        CancelDone(event_id="cancel-1"),
        Pong(event_id="ping-1"),
    )
