r"""The life of one response, as a pure state machine: engine events in, numbered entries out.

    NEW --accept--> CREATED --queue--> QUEUED
                       \----start----> IN_PROGRESS <--start-- QUEUED
    IN_PROGRESS --search--> SEARCHING --sources--> IN_PROGRESS
    IN_PROGRESS, THINKING, WRITING, CALLING go from each to each of the last three, as the model
    reasons, writes text or calls a function; citations come while WRITING, arguments while CALLING
    from IN_PROGRESS on a steer is accepted, which changes nothing by itself
    any state after NEW --end--> ENDED
    NEW --repeat--> ENDED, for an ask that was answered before

Rules that hold whatever the caller does, and that the tests drive at random:

1. Numbers start at 0 and have no gaps.
2. Exactly one terminal event, and nothing after it.
3. Once stopped, no delta gets a number; the first stop wins.
4. The last `done` of each item, the terminal event and what is stored all hold what was made up
   to the cut, even where later events stand in the log. An item that began after it is left out.

No event loop, no I/O, no clock of its own. An illegal trigger raises and changes nothing.

Over 400 lines because the states, the events made in them and the ending are one argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from ragsocket.engine import base as engine
from ragsocket.protocol import server_events as ev
from ragsocket.protocol.resources import (
    Facts,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputTokensDetails,
    Reason,
    Response,
    ResponseError,
    Status,
    Usage,
)
from ragsocket.responses.output import (
    Calling,
    Emit,
    Item,
    Message,
    Output,
    Search,
    Thought,
    Written,
)


class State(Enum):
    """Where a response stands."""

    NEW = auto()
    CREATED = auto()
    QUEUED = auto()
    IN_PROGRESS = auto()
    SEARCHING = auto()
    THINKING = auto()
    WRITING = auto()
    CALLING = auto()
    ENDED = auto()


class Trigger(Enum):
    """What moves a response on."""

    ACCEPT = auto()
    QUEUE = auto()
    START = auto()
    SEARCH = auto()
    SOURCES = auto()
    REASONING = auto()
    TEXT = auto()
    CITATION = auto()
    CALL = auto()
    ARGUMENTS = auto()
    STEER = auto()
    REPEAT = auto()
    END = auto()


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.NEW, Trigger.ACCEPT): State.CREATED,
    (State.NEW, Trigger.REPEAT): State.ENDED,
    (State.CREATED, Trigger.QUEUE): State.QUEUED,
    (State.CREATED, Trigger.START): State.IN_PROGRESS,
    (State.QUEUED, Trigger.START): State.IN_PROGRESS,
    (State.IN_PROGRESS, Trigger.SEARCH): State.SEARCHING,
    (State.SEARCHING, Trigger.SOURCES): State.IN_PROGRESS,
    **{
        (state, trigger): to
        for state in (State.IN_PROGRESS, State.THINKING, State.WRITING, State.CALLING)
        for trigger, to in (
            (Trigger.REASONING, State.THINKING),
            (Trigger.TEXT, State.WRITING),
            (Trigger.CALL, State.CALLING),
        )
    },
    (State.WRITING, Trigger.CITATION): State.WRITING,
    (State.CALLING, Trigger.ARGUMENTS): State.CALLING,
    **{
        (state, Trigger.STEER): state
        for state in State
        if state not in (State.NEW, State.CREATED, State.QUEUED, State.ENDED)
    },
    **{
        (state, Trigger.END): State.ENDED
        for state in State
        if state not in (State.NEW, State.ENDED)
    },
}


STANDARD_CODES = {
    "upstream_rate_limited": "rate_limit_exceeded",
    "input_too_large": "invalid_prompt",
}
"""The standard's code of a failure where it has a fitting one, else `server_error`."""


class IllegalTransition(Exception):
    """A trigger that the table does not allow in this state; a fault of the caller."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One numbered event of a response.

    There is one per token, kept for as long as the log. They hold nothing that could refer back
    to them, so the garbage collector, whose pauses grow with what it has to look at, is told to
    leave them out.

    Attributes:
        number: its `sequence_number`.
        type: its `type`.
        delta: the text of a text delta, else None.
        data: the encoded event.
    """

    number: int
    type: str
    delta: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and where an answer ends early.

    Attributes:
        reason: goes to `response.ragsocket.reason`.
        cut: the last number that counts; text of later deltas is not part of the answer.
    """

    reason: Reason
    cut: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer could not be completed.

    Attributes:
        code: machine-readable, goes to `response.ragsocket.code`.
        message: a fixed sentence for the client.
        reference: id under which the log knows more.
        retry_after_s: how long to wait before asking again, if somebody said so.
    """

    code: str
    message: str
    reference: str | None = None
    retry_after_s: float | None = None


Outcome = Stop | Failure | None
"""How a response ends; None when the engine said all it had to say."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last events of a response, computed and not yet appended.

    Attributes:
        entries: the closing events, the terminal one last.
        response: the resource that the terminal event carries, which is also what is stored.
    """

    entries: tuple[Entry, ...]
    response: Response


class Lifecycle:
    """One response from acceptance to its terminal event.

    Attributes:
        state: where it stands.
        stop: the stop in effect, or None.
        with_results: whether the search item carries its passages.
    """

    def __init__(
        self,
        response: Response,
        *,
        clock: Callable[[], float],
        stream_id: str | None = None,
        event_id: str | None = None,
        with_results: bool = False,
        speaks: bool = True,
    ) -> None:
        """Begin a life.

        Args:
            response: the resource as accepted, status `queued`.
            clock: monotonic seconds, for the timings in `response.ragsocket`.
            stream_id: the lane, echoed on every event if given.
            event_id: the ask's, echoed on `response.created`.
            with_results: whether the search item carries its passages.
            speaks: whether it is to say anything; one that says nothing has a message all the same.
        """
        self.state = State.NEW
        self.stop: Stop | None = None
        self._response = response
        self._clock = clock
        self._born = clock()
        self._stream_id = stream_id
        self._event_id = event_id
        self.with_results = with_results
        self._speaks = speaks
        self._next = 0
        self._facts: dict[str, Any] = {}
        self._output = Output(response.id)
        # The item of `_output` that is open, if it is one that deltas go to.
        self._written: Written | None = None
        self._search_began = 0.0
        self._tokens = 0
        self._reasoning_tokens = 0
        self._usage: engine.Usage | None = None
        self._limit: engine.LimitReached | None = None

    @property
    def last_number(self) -> int:
        """Number of the last event made, -1 before the first."""
        return self._next - 1

    @property
    def response(self) -> Response:
        """The resource as it stands; its output comes with the end."""
        return self._response

    def present(self) -> Response:
        """Return the resource as it stands, with the output so far."""
        if self.state is State.ENDED:
            return self._response
        facts = Facts.model_validate(self._facts)
        return self._response.model_copy(update={"output": self._output.now(), "ragsocket": facts})

    def snapshot(self) -> Entry:
        """Return one event that stands for all so far, numbered as the last of them."""
        now = self.present()
        facts = now.ragsocket.model_copy(update={"snapshot": True})
        waits = self.state in (State.CREATED, State.QUEUED)
        return self._make(
            ev.ResponseQueued if waits else ev.ResponseInProgress,
            self.last_number,
            response=now.model_copy(update={"ragsocket": facts}),
        )

    def accept(self) -> list[Entry]:
        """Enter life: `response.created`."""
        self._move(Trigger.ACCEPT)
        return [self._emit(ev.ResponseCreated, response=self._response, event_id=self._event_id)]

    def repeat(self, response: Response, number: int) -> list[Entry]:
        """Be the end of a response that answered the same ask before, under its number."""
        self._move(Trigger.REPEAT)
        self._response = response
        self._next = number + 1
        return [terminal_entry(response, number, self._stream_id, event_id=self._event_id)]

    def queue(self) -> list[Entry]:
        """Wait for a lane or a conversation."""
        self._move(Trigger.QUEUE)
        return [self._emit(ev.ResponseQueued, response=self._response)]

    def start(self, **changes: Any) -> list[Entry]:
        """Be worked on. `changes` are fields that were found out while waiting."""
        self._move(Trigger.START)
        self._response = self._response.model_copy(update={"status": "in_progress", **changes})
        return [self._emit(ev.ResponseInProgress, response=self._response)]

    def on(self, event: engine.EngineEvent) -> list[Entry]:
        """Take one engine event; nothing comes of it once the response was stopped."""
        if self.stop is not None:
            return []
        if isinstance(event, engine.TextDelta):
            return self._on_text(event)
        if isinstance(event, engine.ReasoningDelta):
            return self._on_reasoning(event)
        if isinstance(event, engine.Citation):
            return self._on_citation(event)
        if isinstance(event, engine.CallBegun):
            return self._on_call(event)
        if isinstance(event, engine.CallArguments):
            self._move(Trigger.ARGUMENTS)
            return [self._write(event)]
        if isinstance(event, engine.Searching):
            return self._on_searching(event)
        if isinstance(event, engine.Sources):
            return self._on_sources(event)
        if isinstance(event, engine.Usage):
            self._usage = event
        else:
            self._limit = event
        return []

    def steer(self, steer_id: str) -> list[Entry]:
        """Say that a steering is accepted; whoever asks for it stops the answer next."""
        self._move(Trigger.STEER)
        steer = ev.Steer(id=steer_id, previous_response_id=self._response.id)
        return [self._emit(ev.SteerAccepted, steer=steer)]

    def halt(self, reason: Reason, after: int | None = None) -> bool:
        """Stop: from now on no delta is made.

        Args:
            reason: why.
            after: the last number that was shown, clamped to what there is; None for all.

        Returns:
            False if it had been stopped before or has ended: the first stop wins.
        """
        if self.stop is not None or self.state is State.ENDED:
            return False
        last = self.last_number
        self.stop = Stop(reason, last if after is None else max(-1, min(after, last)))
        return True

    def ending(self, outcome: Outcome, *, now: int) -> Ending:
        """Compute the last events without appending them, so that they can be stored first.

        Args:
            outcome: a failure, the stop, or None for an answer that came to its own end.
            now: Unix time in seconds, for `completed_at`.
        """
        if (self.state, Trigger.END) not in TRANSITIONS:
            raise IllegalTransition(f"END in {self.state.name}")
        cut = outcome.cut if isinstance(outcome, Stop) else self.last_number
        whole = outcome is None and self._limit is None
        entries: list[Entry] = []

        def close(cls: type[ev.ServerEvent], **fields: Any) -> int:
            number = self._next + len(entries)
            entries.append(self._make(cls, number, **fields))
            return number

        output = self._output.end(close, cut, whole=whole, speaks=self._speaks)
        response = self._final(outcome, output, now)
        number = self._next + len(entries)
        entries.append(terminal_entry(response, number, self._stream_id))
        return Ending(tuple(entries), response)

    def end(self, ending: Ending) -> tuple[Entry, ...]:
        """Make an ending real; returns its entries for the log."""
        if ending.entries[0].number != self._next:
            raise IllegalTransition("the ending was computed before the last event")
        self._move(Trigger.END)
        self._next += len(ending.entries)
        self._response = ending.response
        # The resource holds it now; the pieces that it was made of are many.
        self._output = Output(self._response.id)
        self._written = None
        return ending.entries

    def _move(self, trigger: Trigger) -> None:
        try:
            self.state = TRANSITIONS[self.state, trigger]
        except KeyError:
            raise IllegalTransition(f"{trigger.name} in {self.state.name}") from None

    def _make(self, cls: type[ev.ServerEvent], number: int, **fields: Any) -> Entry:
        event = cls(stream_id=self._stream_id, sequence_number=number, **fields)
        return Entry(number, event.type, None, ev.encode(event))

    def _emit(self, cls: type[ev.ServerEvent], **fields: Any) -> Entry:
        entry = self._make(cls, self._next, **fields)
        self._next += 1
        return entry

    def _begin(self, item: Item) -> list[Entry]:
        """Open an item; returns what was said for it, and for the one before."""
        entries: list[Entry] = []
        self._output.begin(self._into(entries), item)
        self._written = item if isinstance(item, Written) else None
        return entries

    def _into(self, entries: list[Entry]) -> Emit:
        def emit(cls: type[ev.ServerEvent], **fields: Any) -> int:
            entry = self._emit(cls, **fields)
            entries.append(entry)
            return entry.number

        return emit

    def _write(
        self, event: engine.TextDelta | engine.ReasoningDelta | engine.CallArguments
    ) -> Entry:
        """Make the delta of the item that is open."""
        item = self._written
        assert item is not None
        number = self._next
        self._next = number + 1
        self._tokens += event.tokens
        text = event.text
        data = item.add(number, text)
        return Entry(number, item.delta_type, text if item.is_text else None, data)

    def _on_text(self, event: engine.TextDelta) -> list[Entry]:
        if self.state is State.WRITING:
            return [self._write(event)]
        self._move(Trigger.TEXT)
        self._facts.setdefault("ttft_ms", self._since(self._born))
        output = self._output
        message = Message(
            self._response.id, output.next_index, self._stream_id, offset=output.text_length
        )
        return [*self._begin(message), self._write(event)]

    def _on_reasoning(self, event: engine.ReasoningDelta) -> list[Entry]:
        if self.state is State.THINKING:
            self._reasoning_tokens += event.tokens
            return [self._write(event)]
        self._move(Trigger.REASONING)
        self._reasoning_tokens += event.tokens
        thought = Thought(self._response.id, self._output.next_index, self._stream_id)
        return [*self._begin(thought), self._write(event)]

    def _on_call(self, event: engine.CallBegun) -> list[Entry]:
        self._move(Trigger.CALL)
        return self._begin(
            Calling(self._response.id, self._output.next_index, self._stream_id, event)
        )

    def _on_citation(self, event: engine.Citation) -> list[Entry]:
        self._move(Trigger.CITATION)
        assert isinstance(self._output.open, Message)
        entries: list[Entry] = []
        self._output.open.cite(self._into(entries), event)
        return entries

    def _on_searching(self, event: engine.Searching) -> list[Entry]:
        self._move(Trigger.SEARCH)
        self._search_began = self._clock()
        index = self._output.next_index
        return self._begin(
            Search(self._response.id, index, event.queries, with_results=self.with_results)
        )

    def _on_sources(self, event: engine.Sources) -> list[Entry]:
        self._move(Trigger.SOURCES)
        assert isinstance(self._output.open, Search)
        self._facts["retrieval_ms"] = self._since(self._search_began)
        self._facts["index_revision"] = event.index_revision
        self._facts |= {"query": event.query, "reranked": event.reranked}
        entries: list[Entry] = []
        self._output.open.find(self._into(entries), event.sources)
        return entries

    def _since(self, instant: float) -> float:
        return round((self._clock() - instant) * 1000, 3)

    def _final(self, outcome: Outcome, output: tuple[OutputItem, ...], now: int) -> Response:
        status: Status = "completed"
        reason: Reason = "completed"
        error = details = None
        if isinstance(outcome, Stop) and outcome.reason == "steered":
            status, reason = "incomplete", "steered"
            details = IncompleteDetails(reason="steered")
        elif isinstance(outcome, Stop):
            status, reason = "cancelled", outcome.reason
        elif isinstance(outcome, Failure):
            status, reason = "failed", "failed"
            code = STANDARD_CODES.get(outcome.code, "server_error")
            error = ResponseError.model_validate({"code": code, "message": outcome.message})
            self._facts |= {
                "code": outcome.code,
                "reference": outcome.reference,
                "retry_after_s": outcome.retry_after_s,
            }
        elif self._limit is not None:
            status, reason = "incomplete", self._limit.reason
            details = IncompleteDetails(reason=self._limit.reason)
        usage = self._usage or engine.Usage(0, 0, estimated=True)
        output_tokens, reasoning = usage.output_tokens, usage.reasoning_tokens
        if usage.estimated:
            # A model that counts for itself does so at its own end; an answer that was stopped
            # before has our count of the tokens that came.
            output_tokens += self._tokens
            reasoning += self._reasoning_tokens
        facts = {
            **self._facts,
            "reason": reason,
            "total_ms": self._since(self._born),
            "usage_estimated": usage.estimated,
        }
        return self._response.model_copy(
            update={
                "status": status,
                "completed_at": now if status == "completed" else None,
                "error": error,
                "incomplete_details": details,
                "output": output,
                "usage": Usage(
                    input_tokens=usage.input_tokens,
                    input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
                    output_tokens=output_tokens,
                    output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
                    total_tokens=usage.input_tokens + output_tokens,
                ),
                "ragsocket": Facts.model_validate(facts),
            }
        )


def terminal_entry(
    response: Response,
    number: int,
    stream_id: str | None = None,
    *,
    event_id: str | None = None,
) -> Entry:
    """Return the event that says this end: stopped answers are `incomplete`, not failed."""
    kinds: dict[str, Any] = {"completed": ev.ResponseCompleted, "failed": ev.ResponseFailed}
    kind = kinds.get(response.status, ev.ResponseIncomplete)
    event = kind(stream_id=stream_id, sequence_number=number, response=response, event_id=event_id)
    return Entry(number, event.type, None, ev.encode(event))
