"""Plays a case: the steps of the server, and what the client is to do and to tell."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from conformance.channels import Mismatch
from conformance.script import Case, Names, filled, misfit
from suite.answers import Scripted
from suite.drivers import Driver
from suite.server import Server, Socket

Step = dict[str, Any]

PATIENCE_S = 10.0
"""How long a step waits for what it expects."""

DOINGS = ("ask", "cancel", "steer", "edit", "regenerate", "resume")
"""What the client can be made to do, beside connecting."""


class Player:
    """Plays the steps of one case.

    Args:
        server: the scripted server.
        driver: of the client under test.
        case: what is played.
        number: of the case, different for each that this driver plays.
    """

    def __init__(self, server: Server, driver: Driver, case: Case, number: int) -> None:
        self.server = server
        self.driver = driver
        self.case = case
        self.number = number
        self.names: Names = dict(case.names)
        self.answers: dict[str, Scripted] = {}
        self.sent: list[dict[str, Any]] = []
        self._sockets: dict[str, Socket] = {}
        self._last = ""
        self._asks: deque[dict[str, Any]] = deque()
        self._told: dict[str, str] = {}
        self._ended: dict[str, dict[str, Any]] = {}
        self._states: deque[dict[str, Any]] = deque()
        self._echoes = 0
        self._failed: dict[str, Any] | None = None
        self._done = False
        self._heard = asyncio.Event()
        self._verbs: dict[str, Callable[[Step], Awaitable[None]]] = {
            "connect": self._connect,
            **dict.fromkeys(DOINGS, self._do),
            "accept": self._accept,
            "refuse": self._refuse,
            "receive": self._receive,
            "settle": self._settle,
            "closing": self._closing,
            "closed": self._closed,
            "prepare": self._prepare,
            "create": self._create,
            "queue": self._create,
            "search": self._write,
            "say": self._write,
            "cite": self._write,
            "end": self._write,
            "accept_steering": self._write,
            "replay": self._replay,
            "snapshot": self._snapshot,
            "lost": self._lost,
            "send": self._send,
            "drop": self._drop,
            "shut": self._shut,
            "http": self._http,
            "told": self._is_told,
            "ended": self._has_ended,
            "state": self._state,
            "asked": self._asked,
        }

    async def play(self) -> None:
        """Play the case to its end.

        Raises:
            Mismatch: a step was not met, or the client did something that no step expects.
        """
        self.server.reset()
        self.driver.report = self._hear
        try:
            for at, step in enumerate(self.case.steps):
                await self._take(at, step)
            await self._leave()
        finally:
            self.server.reset()

    async def _take(self, at: int, step: Step) -> None:
        verb = next(key for key in step if key in self._verbs)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._verbs[verb](filled(step, self.names))
        except TimeoutError:
            why = f"not within {PATIENCE_S:.0f} s; {self._stand()}"
        except (Mismatch, ConnectionError) as found:
            why = f"{found}; {self._stand()}"
        else:
            return
        raise Mismatch(f"{self.case.id}, step {at} {json.dumps(step)[:300]}: {why}")

    def was_made(self, event: dict[str, Any]) -> bool:
        """True for an event of a scripted answer; others a case may have made up."""
        made = [*(one.log for one in self.answers.values())]
        return any(event is one for log in made for one in log)

    def _hear(self, line: dict[str, Any]) -> None:
        if line.get("case") != self.number:
            return
        if "told" in line:
            self._told[line["of"]] = line["told"]
        elif "ended" in line:
            self._ended[line["of"]] = line["ended"]
        elif "state" in line:
            self._states.append(line["state"])
        elif "failed" in line:
            self._failed = line["failed"]
        self._echoes += "echo" in line
        self._done |= "done" in line
        self._heard.set()

    async def _until(self, met: Callable[[], bool]) -> None:
        while not met():
            self._heard.clear()
            await self._heard.wait()

    def _stand(self) -> str:
        """What there is, for the message of a step that was not met."""
        frames = {name: list(socket.frames) for name, socket in self._sockets.items()}
        stand = {
            "told": self._told, "ended": self._ended, "failed": self._failed,
            "states": list(self._states), "frames": frames, "knocks": len(self.server.knocks),
        }  # fmt: skip
        return json.dumps(stand)[:2000]

    async def _leave(self) -> None:
        """End the client; nothing of what it said may be left that no step has looked at."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                if not self._done and self._failed is None:
                    await self._settle({})
                    self._check_rest()
                    await self._closing({})
                    await self._closed({})
                self._check_rest(leaving=True)
        except TimeoutError:
            self._check_rest(leaving=True)
            raise Mismatch(f"{self.case.id}: the client does not close; {self._stand()}") from None

    def _check_rest(self, *, leaving: bool = False) -> None:
        """Look for what no step has received; a client that is closed may stop what goes on."""
        for name, socket in self._sockets.items():
            rest = [one for one in socket.frames if one["type"] != "response.cancel" or not leaving]
            if rest:
                said = json.dumps(rest)[:600]
                raise Mismatch(f"{self.case.id}: on {name} nobody expected {said}")
        if self.server.knocks:
            raise Mismatch(f"{self.case.id}: nobody expected the client to connect again")

    # --- the client -------------------------------------------------------------------------

    async def _connect(self, step: Step) -> None:
        about = {"do": "connect", "case": self.number, "url": self.server.url}
        await self.driver.do(about | step["connect"])

    async def _do(self, step: Step) -> None:
        kind = next(key for key in step if key in DOINGS)
        rest = {key: value for key, value in step.items() if key != kind}
        named = {"as": step[kind]} if kind in ("ask", "resume") else {"answer": step[kind]}
        await self.driver.do({"do": kind, "case": self.number, **named, **rest})

    async def _closing(self, _: Step) -> None:
        await self.driver.do({"do": "close", "case": self.number})

    async def _closed(self, _: Step) -> None:
        await self._until(lambda: self._done)

    async def _settle(self, _: Step) -> None:
        """Wait until it has done what it was told to do so far."""
        before = self._echoes
        await self.driver.do({"do": "echo", "case": self.number})
        await self._until(lambda: self._echoes > before)

    async def _is_told(self, step: Step) -> None:
        name = step.get("of", "a")
        await self._until(lambda: self._told.get(name) == step["told"] or name in self._ended)
        self._fit(step["told"], self._told.get(name))

    async def _has_ended(self, step: Step) -> None:
        name = step["ended"]
        await self._until(lambda: name in self._ended)
        pattern = {key: value for key, value in step.items() if key != "ended"}
        self._fit({"error": None} | pattern, self._ended[name])

    async def _state(self, step: Step) -> None:
        while True:
            await self._until(lambda: bool(self._states))
            if misfit(step["state"], self._states.popleft(), self.names) is None:
                return

    # --- the server -------------------------------------------------------------------------

    @property
    def _socket(self) -> Socket:
        return self._sockets[self._last]

    async def _accept(self, step: Step) -> None:
        knock = await self.server.knock()
        if "token" in step:
            self._fit(step["token"], knock.token)
        knock.verdict.set_result(0)
        self._last = step["accept"]
        self._sockets[self._last] = await knock.opened

    async def _refuse(self, step: Step) -> None:
        knock = await self.server.knock()
        knock.verdict.set_result(step["refuse"])

    async def _receive(self, step: Step) -> None:
        frame = await self._sockets[step.get("on", self._last)].next()
        if frame.get("type") in ("response.create", "response.steer"):
            # Said again, or asked because it could not be steered, it is one ask.
            said = frame.get("event_id"), frame.get("input")
            self._forget_asks(lambda ask: ask["event_id"] == said[0] or _steers(ask, said[1]))
            self._asks.append(frame)
        self._fit(step["receive"], frame)

    def _forget_asks(self, which: Callable[[dict[str, Any]], bool]) -> None:
        self._asks = deque(ask for ask in self._asks if not which(ask))

    def _answer(self, step: Step) -> tuple[str, Scripted]:
        verb = next(key for key in step if key in self._verbs)
        return verb, self.answers[step[verb]]

    async def _create(self, step: Step) -> None:
        verb = "queue" if "queue" in step else "create"
        ask = dict(self._asks.popleft())
        if ask["type"] == "response.steer":
            steered = ask["previous_response_id"]
            target = next(one for one in self.answers.values() if one.id == steered)
            ask |= {key: target.ask.get(key) for key in ("conversation", "stream_id")}
        elif "previous" in step:
            ask["previous_response_id"] = step["previous"]
        answer = Scripted(step[verb], ask)
        self.answers[answer.name] = answer
        getattr(answer, verb)()
        await self._put(answer, 0, step)

    async def _prepare(self, step: Step) -> None:
        """Let there be an answer that somebody else asked for, and that has begun to come."""
        answer = self.answers[step["prepare"]] = Scripted(step["prepare"], {})
        answer.create()
        answer.say("One ")

    async def _write(self, step: Step) -> None:
        verb, answer = self._answer(step)
        begins = len(answer.log)
        if verb in ("say", "search", "cite"):
            what = step["text"] if verb == "say" else step["files"]
            getattr(answer, verb)(*([what] if isinstance(what, str) else what))
        elif verb == "end":
            known = ("status", "reason", "text", "code", "message")
            answer.end(**{key: step[key] for key in known if key in step})
        else:
            answer.accept_steering()
        await self._put(answer, begins, step)

    async def _put(self, answer: Scripted, begins: int, step: Step) -> None:
        """Send what came into the log, unless nobody is there for it."""
        if not step.get("unheard"):
            for event in answer.log[begins:]:
                await self._say(event)

    async def _replay(self, step: Step) -> None:
        _, answer = self._answer(step)
        for event in answer.log[step.get("after", -1) + 1 :]:
            await self._say(event)

    async def _snapshot(self, step: Step) -> None:
        _, answer = self._answer(step)
        await self._say(answer.snapshot())

    async def _lost(self, step: Step) -> None:
        _, answer = self._answer(step)
        await self._say(answer.lost())

    async def _send(self, step: Step) -> None:
        event = step["send"]
        if event.get("type") == "error":
            about = {"type": "invalid_request_error", "param": None, "event_id": None}
            detail = about | {key: event[key] for key in event if key in ("code", "message")}
            given = {"status": 400, "param": None, "message": "no."} | event
            detail |= {key: given[key] for key in ("param", "event_id", "message") if key in given}
            event = {**given, "sequence_number": 0, "error": detail}
            self._forget_asks(lambda ask: ask["event_id"] == event["error"]["event_id"])
        await self._say(event)

    async def _say(self, event: dict[str, Any]) -> None:
        self.sent.append(event)
        await self._socket.send(event)

    async def _drop(self, step: Step) -> None:
        self._sockets[step["drop"]].drop(step.get("by", "rst"))

    async def _shut(self, step: Step) -> None:
        await self._sockets[step["shut"]].close(step["code"])

    async def _http(self, step: Step) -> None:
        self.server.answers.extend(step["http"])

    async def _asked(self, step: Step) -> None:
        self._fit(step["asked"], self.server.asked)

    def _fit(self, pattern: Any, value: Any) -> None:
        found = misfit(filled(pattern, self.names), value, self.names)
        if found is not None:
            raise Mismatch(found)


def _steers(ask: dict[str, Any], input: Any) -> bool:
    return ask["type"] == "response.steer" and bool(ask["input"] == input)
