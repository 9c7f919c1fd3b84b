"""The answers of the scripted server: numbered events in a log, as the real one makes them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

LOST_NUMBER = 999_999_999
"""Number of the end of an answer that was lost with its server."""

_KINDS = {"completed": "response.completed", "failed": "response.failed"}


@dataclass
class Scripted:
    """One answer, and every event of it so far.

    Attributes:
        name: what the steps call it; its id is `resp_<name>`.
        ask: the client event that asked for it.
        log: its events, in their order; the number of each is its place.
    """

    name: str
    ask: Event
    log: list[Event] = field(default_factory=list)
    _marks: list[Event] = field(default_factory=list)
    _before: list[Event] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The response's id."""
        return f"resp_{self.name}"

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._texts)

    @property
    def number(self) -> int:
        """Number of the last event."""
        return len(self.log) - 1

    def create(self) -> None:
        """Take the question."""
        asked = {"event_id": self.ask["event_id"]} if "event_id" in self.ask else {}
        self._add("response.created", response=self._resource("queued"), **asked)
        self._add("response.in_progress", response=self._resource("in_progress"))

    def queue(self) -> None:
        """Take the question, and let it wait."""
        asked = {"event_id": self.ask["event_id"]} if "event_id" in self.ask else {}
        self._add("response.created", response=self._resource("queued"), **asked)
        self._add("response.queued", response=self._resource("queued"))

    def search(self, *filenames: str) -> None:
        """Find passages, one of each file."""
        item = {"id": f"fs_{self.name}_0", "type": "file_search_call", "queries": ["q"]}
        begun = {**item, "status": "in_progress", "results": None}
        self._add("response.output_item.added", output_index=0, item=begun)
        for stage in ("in_progress", "searching", "completed"):
            at = {"item_id": item["id"], "output_index": 0}
            self._add(f"response.file_search_call.{stage}", **at)
        results = [
            {
                "file_id": f"file_{number}", "filename": name, "score": 0.5, "text": "…",
                "attributes": {},
            }
            for number, name in enumerate(filenames)
        ]  # fmt: skip
        done = {**item, "status": "completed", "results": results}
        self._add("response.output_item.done", output_index=0, item=done)
        self._before = [done]

    def say(self, *texts: str) -> None:
        """Say pieces of text."""
        if not self._texts:
            item = self._message("", "in_progress")
            at = {"output_index": len(self._before)}
            self._add("response.output_item.added", item={**item, "content": []}, **at)
            self._add("response.content_part.added", part=item["content"][0], **self._at)
        for text in texts:
            self._add("response.output_text.delta", delta=text, logprobs=[], **self._at)
            self._texts.append(text)

    def cite(self, filename: str) -> None:
        """Mark what was said so far as from a file; the wire counts code points."""
        mark = {
            "type": "file_citation", "file_id": "file_0", "filename": filename,
            "index": len(self.text),
        }  # fmt: skip
        index = len(self._marks)
        self._add(
            "response.output_text.annotation.added",
            annotation=mark, annotation_index=index, **self._at,
        )  # fmt: skip
        self._marks.append(mark)

    def end(
        self,
        status: str = "completed",
        *,
        reason: str | None = None,
        text: str | None = None,
        code: str | None = None,
        message: str = "it failed.",
    ) -> None:
        """Come to an end.

        Args:
            status: of the response.
            reason: why it ended; the status says it where there is none.
            text: what is kept; None for all that was said.
            code: of a failure.
            message: of a failure.
        """
        whole = self.text if text is None else text
        if self._texts:
            item = self._message(whole, "completed" if status == "completed" else "incomplete")
            part = item["content"][0]
            self._add("response.output_text.done", text=whole, logprobs=[], **self._at)
            self._add("response.content_part.done", part=part, **self._at)
            at = {"output_index": len(self._before)}
            self._add("response.output_item.done", item=item, **at)
        response = self._resource(status, whole)
        response["ragsocket"] |= {"reason": reason or status, "code": code, "total_ms": 9.5}
        response["usage"] = {
            "input_tokens": 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10,
        }  # fmt: skip
        if status == "failed":
            response["error"] = {"code": "server_error", "message": message}
        self._add(_KINDS.get(status, "response.incomplete"), response=response)

    def lost(self) -> Event:
        """Return the end of an answer that a dead server could not store."""
        response = self._resource("incomplete", "")
        response["ragsocket"] |= {"reason": "worker_lost", "resumable": False}
        return {
            "type": "response.incomplete", "stream_id": None, "response": response,
            "sequence_number": LOST_NUMBER,
        }  # fmt: skip

    def snapshot(self) -> Event:
        """Return the one event that stands for all so far."""
        response = self._resource("in_progress", self.text)
        response["ragsocket"]["snapshot"] = True
        return {
            "type": "response.in_progress", "stream_id": self.ask.get("stream_id"),
            "response": response, "sequence_number": self.number,
        }  # fmt: skip

    def accept_steering(self) -> None:
        """Say that another input is to be answered in its place."""
        steer = {"id": f"steer_{self.name}", "previous_response_id": self.id}
        self._add("response.steer.accepted", steer=steer)

    @property
    def _at(self) -> Event:
        place = len(self._before)
        return {"item_id": f"msg_{self.name}_{place}", "output_index": place, "content_index": 0}

    def _message(self, text: str, status: str) -> Event:
        marks = [mark for mark in self._marks if mark["index"] <= len(text)]
        part = {"type": "output_text", "text": text, "annotations": marks, "logprobs": []}
        message = {"type": "message", "role": "assistant", "status": status, "content": [part]}
        return {"id": self._at["item_id"], **message}

    def _resource(self, status: str, text: str | None = None) -> Event:
        output = copy.deepcopy(self._before)
        if text is not None and (self._texts or status != "failed"):
            whole = "completed" if status == "completed" else "incomplete"
            output.append(self._message(text, whole))
        named = self.ask.get("conversation")
        return {
            "id": self.id, "object": "response", "created_at": 1, "status": status,
            "model": "scripted", "output": output, "error": None, "incomplete_details": None,
            "previous_response_id": self.ask.get("previous_response_id"),
            "conversation": {"id": named} if named else None, "usage": None,
            "ragsocket": {
                "reason": None, "code": None, "reference": None, "resumable": True,
                "index_revision": 1, "retrieval_ms": 1.5, "ttft_ms": 2.5, "total_ms": None,
                "usage_estimated": False,
            },
        }  # fmt: skip

    def _add(self, type: str, **fields: Any) -> None:
        stream = {"stream_id": self.ask.get("stream_id")}
        self.log.append({"type": type, **stream, **fields, "sequence_number": len(self.log)})
