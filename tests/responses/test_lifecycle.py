"""The pure state machine of a response."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ragsocket.engine import base as engine
from ragsocket.protocol.resources import FunctionCall, OutputMessage, Response
from ragsocket.protocol.server_events import TERMINAL_TYPES
from ragsocket.responses.lifecycle import (
    TRANSITIONS,
    Entry,
    Failure,
    IllegalTransition,
    Lifecycle,
    Outcome,
    State,
    Trigger,
)

SOURCE = engine.Source("p1", "file_1", "a.md", "Text.", 0.5, "lines 1-2")
STEPS = {
    Trigger.ACCEPT: lambda life: life.accept(),
    Trigger.QUEUE: lambda life: life.queue(),
    Trigger.START: lambda life: life.start(),
    Trigger.SEARCH: lambda life: life.on(engine.Searching(("q",))),
    Trigger.SOURCES: lambda life: life.on(engine.Sources((SOURCE,), 1)),
    Trigger.REASONING: lambda life: life.on(engine.ReasoningDelta("hm ")),
    Trigger.TEXT: lambda life: life.on(engine.TextDelta("text ")),
    Trigger.CALL: lambda life: life.on(engine.CallBegun("call_1", "f")),
    Trigger.ARGUMENTS: lambda life: life.on(engine.CallArguments("{}")),
    Trigger.CITATION: lambda life: life.on(engine.Citation(SOURCE, 4, 1)),
    Trigger.STEER: lambda life: life.steer("steer_1"),
    Trigger.REPEAT: lambda life: life.repeat(life.response, 7),
    Trigger.END: lambda life: life.end(life.ending(None, now=1)),
}
PATHS = {
    State.NEW: [],
    State.CREATED: [Trigger.ACCEPT],
    State.QUEUED: [Trigger.ACCEPT, Trigger.QUEUE],
    State.IN_PROGRESS: [Trigger.ACCEPT, Trigger.START],
    State.SEARCHING: [Trigger.ACCEPT, Trigger.START, Trigger.SEARCH],
    State.THINKING: [Trigger.ACCEPT, Trigger.START, Trigger.REASONING],
    State.WRITING: [Trigger.ACCEPT, Trigger.START, Trigger.TEXT],
    State.CALLING: [Trigger.ACCEPT, Trigger.START, Trigger.CALL],
    State.ENDED: [Trigger.ACCEPT, Trigger.END],
}


def new_life() -> Lifecycle:
    """A response that was just reserved."""
    response = Response(id="resp_1", created_at=0, status="queued", model="m")
    return Lifecycle(response, clock=lambda: 0.0)


def in_state(state: State) -> Lifecycle:
    """A response that was brought to a state."""
    life = new_life()
    for trigger in PATHS[state]:
        STEPS[trigger](life)
    assert life.state is state
    return life


@pytest.mark.parametrize(("state", "trigger"), list(product(State, Trigger)))
def test_the_table_is_the_whole_truth(state: State, trigger: Trigger) -> None:
    """Every trigger in every state does what the table says, or raises and changes nothing."""
    life = in_state(state)
    before = life.last_number
    if (state, trigger) in TRANSITIONS:
        assert STEPS[trigger](life)
        assert life.state is TRANSITIONS[state, trigger]
        assert life.last_number > before
    else:
        with pytest.raises(IllegalTransition):
            STEPS[trigger](life)
        assert life.state is state
        assert life.last_number == before


def test_the_cut_decides_every_place_that_holds_the_text() -> None:
    """`done`, part, item and terminal event carry the text up to `after`, not the later deltas."""
    life = in_state(State.IN_PROGRESS)
    entries = [e for word in ("a ", "b ", "c ") for e in life.on(engine.TextDelta(word))]
    second = next(e for e in entries if e.delta == "b ")
    assert life.halt("cancelled", second.number)
    ending = life.ending(life.stop, now=1)
    events = {e.type: json.loads(e.data) for e in ending.entries}
    assert events["response.output_text.done"]["text"] == "a b "
    assert events["response.content_part.done"]["part"]["text"] == "a b "
    assert events["response.output_item.done"]["item"]["content"][0]["text"] == "a b "
    terminal = events["response.incomplete"]["response"]
    assert terminal["status"] == "cancelled"
    assert terminal["output"][0]["status"] == "incomplete"
    assert terminal["output"][0]["content"][0]["text"] == "a b "


@pytest.mark.parametrize(("after", "text"), [(-1, ""), (0, ""), (10_000, "a b "), (None, "a b ")])
def test_after_is_clamped_to_what_there_is(after: int | None, text: str) -> None:
    """An `after` before the first delta leaves no text, one beyond the log leaves all of it."""
    life = in_state(State.IN_PROGRESS)
    for word in ("a ", "b "):
        life.on(engine.TextDelta(word))
    life.halt("cancelled", after)
    message = life.ending(life.stop, now=1).response.output[0]
    assert isinstance(message, OutputMessage)
    assert message.content[0].text == text


def test_citations_beyond_the_cut_are_dropped() -> None:
    """An annotation whose mark ends after the cut is not part of the stopped answer."""
    life = in_state(State.IN_PROGRESS)
    (*_, first) = life.on(engine.TextDelta("One [1]. "))
    life.on(engine.Citation(SOURCE, 7, 1))
    life.on(engine.TextDelta("Two [1]."))
    life.on(engine.Citation(SOURCE, 16, 1))
    life.halt("cancelled", first.number)
    message = life.ending(life.stop, now=1).response.output[0]
    assert isinstance(message, OutputMessage)
    assert [a.index for a in message.content[0].annotations] == [7]


def test_an_ending_that_is_not_taken_changes_nothing() -> None:
    """A second ending can be computed when the first could not be stored."""
    life = in_state(State.WRITING)
    whole = life.ending(None, now=1)
    failed = life.ending(Failure("history_unavailable", "Not stored."), now=1)
    assert whole.entries[-1].type == "response.completed"
    assert failed.entries[-1].type == "response.failed"
    assert whole.entries[0].number == failed.entries[0].number
    life.end(failed)
    with pytest.raises(IllegalTransition):
        life.end(whole)


def test_a_models_own_count_wins_over_ours() -> None:
    """Usage is the model's when it sends one, else our count, and says which."""
    life = in_state(State.WRITING)
    life.on(engine.Usage(7, 0, estimated=True))
    life.on(engine.TextDelta("more", tokens=4))
    ours = life.ending(None, now=1).response
    assert ours.usage is not None
    assert (ours.usage.input_tokens, ours.usage.output_tokens) == (7, 5)
    assert ours.ragsocket.usage_estimated is True
    life.on(engine.Usage(9, 6, estimated=False))
    theirs = life.ending(None, now=1).response
    assert theirs.usage is not None
    assert (theirs.usage.total_tokens, theirs.ragsocket.usage_estimated) == (15, False)


ANSWER: tuple[engine.EngineEvent, ...] = (
    engine.Searching(("q",)),
    engine.Sources((SOURCE,), 1),
    engine.ReasoningDelta("Let me "),
    engine.ReasoningDelta("see."),
    engine.TextDelta("One [1]."),
    engine.Citation(SOURCE, 7, 1),
    engine.CallBegun("call_1", "f"),
    engine.CallArguments('{"a":'),
    engine.CallArguments("1}"),
    engine.CallBegun("call_2", "g"),
    engine.CallArguments("{}"),
    engine.TextDelta(" Two [1]."),
    engine.Citation(SOURCE, 16, 1),
)
"""An answer that holds every kind of item, two calls and two messages among them."""


def feed(life: Lifecycle, until: int | None = None) -> list[Entry]:
    """Feed `ANSWER`, whole or until event `until` was made, and return what was made."""
    log: list[Entry] = []
    for event in ANSWER:
        # Nothing can come between a text and the citations in it.
        if until is not None and life.last_number >= until:
            if life.state is not State.WRITING or not isinstance(event, engine.Citation):
                break
        log += life.on(event)
    return log


def test_items_follow_each_other_in_the_order_of_the_model() -> None:
    """Search, reasoning, text, calls and text again; each is closed before the next begins."""
    life = in_state(State.IN_PROGRESS)
    log = feed(life)
    response = life.ending(None, now=1).response
    assert [item.type for item in response.output] == [
        "file_search_call",
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    assert [getattr(item, "status", None) for item in response.output] == ["completed"] * 6
    # A mark's place counts within its own message.
    second = response.output[5]
    assert isinstance(second, OutputMessage)
    assert [mark.index for mark in second.content[0].annotations] == [8]
    spans = [
        (json.loads(e.data)["output_index"], e.type)
        for e in log
        if e.type.startswith("response.output_item.")
    ]
    added, done = "response.output_item.added", "response.output_item.done"
    assert spans == [
        *[(index, kind) for index in range(5) for kind in (added, done)],
        (5, added),
    ]
    assert [entry.delta for entry in log if entry.delta is not None] == ["One [1].", " Two [1]."]


def test_half_a_call_is_incomplete_and_its_arguments_are_not_called_done() -> None:
    """Whoever runs functions on `function_call_arguments.done` runs none that was cut off."""
    life = in_state(State.CALLING)
    life.on(engine.CallArguments('{"path": "/'))
    life.halt("cancelled")
    ending = life.ending(life.stop, now=1)
    (call,) = ending.response.output
    assert isinstance(call, FunctionCall)
    assert (call.status, call.arguments) == ("incomplete", '{"path": "/')
    assert [entry.type for entry in ending.entries] == [
        "response.output_item.done",
        "response.incomplete",
    ]


def test_the_result_of_a_stop_depends_on_its_cut_alone() -> None:
    """A late stop with `after` ends with the same items as one that came at that moment."""
    for number in range(feed(in_state(State.IN_PROGRESS))[-1].number + 1):
        late, soon = in_state(State.IN_PROGRESS), in_state(State.IN_PROGRESS)
        feed(late)
        feed(soon, number)
        late.halt("cancelled", number)
        soon.halt("cancelled", number)
        assert without_ids(late) == without_ids(soon)


def without_ids(life: Lifecycle) -> list[dict[str, Any]]:
    """Return the output of a stopped response but for its random ids."""
    output = life.ending(life.stop, now=1).response.output
    return [item.model_dump(exclude={"id"}) for item in output]


def folded(log: list[Entry], cut: int) -> list[dict[str, Any]]:
    """Return the items that a client has which reads the events up to `cut`, without statuses."""
    items: dict[str, dict[str, Any]] = {}
    for entry in log:
        event = json.loads(entry.data)
        if entry.number > cut:
            break
        if entry.type == "response.output_item.added":
            item = event["item"]
            items[item["id"]] = {"item": item, "text": "", "done": False}
        elif entry.type == "response.output_item.done":
            items[event["item"]["id"]]["done"] = True
        elif entry.type.endswith(".delta"):
            items[event["item_id"]]["text"] += event["delta"]
    return list(items.values())


def text_in(item: dict[str, Any]) -> str:
    """Return the text of a message or of reasoning, or the arguments of a call."""
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part["text"] for part in item.get("content", ()))


SPEAKING = (State.IN_PROGRESS, State.THINKING, State.WRITING, State.CALLING)


class AnyLife(RuleBasedStateMachine):
    """Drives a response at random, with stops at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.life = new_life()
        self.log: list[Entry] = list(self.life.accept())
        self.cut: int | None = None

    @precondition(lambda self: (self.life.state, Trigger.QUEUE) in TRANSITIONS)
    @rule()
    def queue(self) -> None:
        self.log += self.life.queue()

    @precondition(lambda self: (self.life.state, Trigger.START) in TRANSITIONS)
    @rule()
    def start(self) -> None:
        self.log += self.life.start()

    @precondition(lambda self: self.life.state is State.IN_PROGRESS)
    @rule()
    def search(self) -> None:
        if not any(e.type.startswith("response.file_search_call") for e in self.log):
            self.log += self.life.on(engine.Searching(("q",)))

    @precondition(lambda self: self.life.state is State.SEARCHING)
    @rule()
    def find(self) -> None:
        self.log += self.life.on(engine.Sources((SOURCE,), 1))

    @precondition(lambda self: self.life.state in SPEAKING)
    @rule(text=st.text(min_size=1, max_size=8))
    def write(self, text: str) -> None:
        self.log += self.life.on(engine.TextDelta(text))

    @precondition(lambda self: self.life.state in SPEAKING)
    @rule(text=st.text(min_size=1, max_size=8))
    def think(self, text: str) -> None:
        self.log += self.life.on(engine.ReasoningDelta(text))

    @precondition(lambda self: self.life.state in SPEAKING)
    @rule(name=st.sampled_from("fg"))
    def call(self, name: str) -> None:
        self.log += self.life.on(engine.CallBegun("call", name))

    @precondition(lambda self: self.life.state is State.CALLING)
    @rule(text=st.text(min_size=1, max_size=8))
    def argue(self, text: str) -> None:
        self.log += self.life.on(engine.CallArguments(text))

    @precondition(lambda self: (self.life.state, Trigger.STEER) in TRANSITIONS)
    @rule()
    def steer(self) -> None:
        self.log += self.life.steer("steer_1")

    @precondition(lambda self: self.life.state is not State.ENDED)
    @rule(after=st.none() | st.integers(-1, 40))
    def halt(self, after: int | None) -> None:
        last = self.life.last_number
        first = self.life.halt("cancelled", after)
        assert first is (self.cut is None)
        if first:
            self.cut = last if after is None else max(-1, min(after, last))

    @precondition(lambda self: self.life.state is not State.ENDED)
    @rule(failed=st.booleans())
    def end(self, failed: bool) -> None:
        outcome: Outcome = self.life.stop or (
            Failure("upstream_failed", "It broke.") if failed else None
        )
        cut = self.log[-1].number if self.cut is None else self.cut
        expected = folded(self.log, cut)
        self.log += self.life.end(self.life.ending(outcome, now=1))
        output = json.loads(self.log[-1].data)["response"]["output"]
        if not any(one["item"]["type"] in ("message", "function_call") for one in expected):
            last = output.pop()
            assert (last["type"], text_in(last)) == ("message", "")
        assert [item["id"] for item in output] == [one["item"]["id"] for one in expected]
        whole = outcome is None
        for item, one in zip(output, expected, strict=True):
            assert text_in(item) == one["text"]
            ends = one["done"] or (whole and item["type"] != "file_search_call")
            assert item["status"] == ("completed" if ends else "incomplete")
        dones = [json.loads(e.data) for e in self.log if e.type == "response.output_item.done"]
        final = {event["item"]["id"]: event["item"] for event in dones}
        assert all(final[item["id"]] == item for item in output)

    @precondition(lambda self: self.life.state is State.ENDED)
    @rule()
    def come_too_late(self) -> None:
        assert self.life.halt("cancelled") is False
        with pytest.raises(IllegalTransition):
            self.life.start()

    @invariant()
    def numbers_have_no_gaps(self) -> None:
        assert [e.number for e in self.log] == list(range(len(self.log)))
        assert self.life.last_number == len(self.log) - 1

    @invariant()
    def one_terminal_event_and_nothing_after(self) -> None:
        terminal = [e.number for e in self.log if e.type in TERMINAL_TYPES]
        assert terminal == ([len(self.log) - 1] if self.life.state is State.ENDED else [])


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
