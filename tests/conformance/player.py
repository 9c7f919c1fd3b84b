"""Plays a case against a server, with the scripted model server at its back."""

from __future__ import annotations

import base64
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import websockets
from anyio.abc import TaskGroup

from conformance.channels import Channel, Exchange, Json, Message, Mismatch, Socket
from conformance.script import Case, Names, filled, misfit
from upstream import Request, Script, Upstream

PATIENCE_S = 10.0
"""How long a step waits for what it expects."""

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Player:
    """Plays the steps of one case.

    Args:
        client: an HTTP client whose base URL is the server's address.
        upstream: the model's server that the server asks.
        case: what is played.
    """

    def __init__(self, client: httpx.AsyncClient, upstream: Upstream, case: Case) -> None:
        self.client = client
        self.upstream = upstream
        self.case = case
        self.names: Names = dict(case.names)
        self.channels: dict[str, Channel] = {}
        self.last = ""
        self._first = len(upstream.requests)
        self._unfinished: set[str] = set()
        self._polled = "nothing"
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "open": self._open,
            "send": self._send,
            "frame": self._send,
            "bytes": self._send,
            "expect": self._expect,
            "until": self._until,
            "closed": self._closed,
            "close": self._close,
            "drop": self._drop,
            "http": self._http,
            "status": self._status,
            "body": self._body,
            "text": self._body,
            "ended": self._ended,
            "poll": self._poll,
            "model": self._model,
            "models": self._models,
        }

    async def play(self) -> None:
        """Play the case to its end, and leave nothing running behind.

        Raises:
            Mismatch: a step was not met; the message names it.
        """
        scripts = deque(self.case.model)

        def next_script(_: Request) -> Script:
            if scripts and scripts[0].get("always"):
                return _script(scripts[0])
            return _script(scripts.popleft()) if scripts else Script()

        self.upstream.default = next_script
        async with anyio.create_task_group() as self._tasks:
            failure = None
            try:
                for number, step in enumerate(self.case.steps):
                    await self._take(number, filled(step, self.names))
                for name, channel in self.channels.items():
                    check_order(name, channel)
            except Mismatch as found:
                failure = found
            finally:
                with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE_S):
                    await self._leave()
            self._tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    _tasks: TaskGroup

    async def _take(self, number: int, step: dict[str, Any]) -> None:
        verb = next(key for key in step if key in self._verbs)
        try:
            with anyio.fail_after(PATIENCE_S):
                await self._verbs[verb](step)
        except TimeoutError:
            why = f"not within {PATIENCE_S:.0f} s; the last was {self._newest(step)}"
        except (Mismatch, websockets.WebSocketException, OSError) as error:
            why = str(error)
        else:
            return
        raise Mismatch(f"{self.case.id}, step {number} {json.dumps(step)[:300]}: {why}")

    async def _leave(self) -> None:
        """End what the case left unfinished, so that the next case finds the server idle."""
        for id in sorted(self._unfinished):
            await self.client.post(f"/v1/responses/{id}/cancel")
        for channel in self.channels.values():
            await channel.drop()
        await self.upstream.until(lambda: not self.upstream.answering)

    # --- channels ---------------------------------------------------------------------------

    def _on(self, step: dict[str, Any]) -> Channel:
        return self.channels[step.get("on", self.last)]

    def _newest(self, step: dict[str, Any]) -> str:
        if "poll" in step:
            return self._polled
        channel = self.channels.get(step.get("on", self.last))
        return json.dumps(channel.seen[-1].value)[:500] if channel and channel.seen else "nothing"

    async def _open(self, step: dict[str, Any]) -> None:
        address = str(self.client.base_url).rstrip("/").removeprefix("http")
        uri = f"ws{address}{step['path']}"
        socket = await websockets.connect(
            uri,
            max_size=None,
            additional_headers=step.get("headers"),
            compression=None,
            proxy=None,
        )
        self.last = step["open"]
        self.channels[self.last] = Socket(socket=socket)

    async def _send(self, step: dict[str, Any]) -> None:
        channel = self._on(step)
        assert isinstance(channel, Socket)
        frame: str | bytes
        if "bytes" in step:
            frame = base64.b64decode(step["bytes"])
        elif "frame" in step:
            frame = step["frame"] * step.get("times", 1)
        else:
            frame = json.dumps(step["send"])
            self._note(channel, step["send"])
        # A server that closes in the middle of a frame is found out by the next step.
        with contextlib.suppress(websockets.ConnectionClosed):
            await channel.socket.send(frame)

    def _note(self, channel: Channel, event: dict[str, Any]) -> None:
        """Remember what makes it right that events come twice."""
        if event.get("type") == "response.resume":
            channel.resumed.add(str(event.get("response_id")))
        elif event.get("type") == "response.create" and "event_id" in event:
            channel.repeats |= event["event_id"] in channel.asked
            channel.asked.add(event["event_id"])

    async def _close(self, step: dict[str, Any]) -> None:
        channel = self.channels[step["close"]]
        assert isinstance(channel, Socket)
        await channel.socket.close()

    async def _drop(self, step: dict[str, Any]) -> None:
        await self.channels[step["drop"]].drop()

    async def _closed(self, step: dict[str, Any]) -> None:
        channel = self._on(step)
        assert isinstance(channel, Socket)
        self._fit(step["closed"], await channel.code())

    # --- what comes -------------------------------------------------------------------------

    async def _next(self, channel: Channel) -> Message:
        message = await channel.next()
        if isinstance(message.value, dict) and isinstance(message.value.get("response"), dict):
            id = message.value["response"]["id"]
            if message.value["type"] in TERMINAL:
                self._unfinished.discard(id)
            else:
                self._unfinished.add(id)
        return message

    async def _expect(self, step: dict[str, Any]) -> None:
        message = await self._next(self._on(step))
        self._fit(step["expect"], message.value)
        for key in ("name", "id"):
            if key in step:
                self._fit(step[key], getattr(message, key))

    async def _until(self, step: dict[str, Any]) -> None:
        channel = self._on(step)
        while True:
            message = await self._next(channel)
            for pattern in step.get("without", ()):
                if misfit(pattern, message.value, {}) is None:
                    raise Mismatch(f"before it came {json.dumps(message.value)[:500]}")
            if misfit(step["until"], message.value, self.names) is None:
                return

    def _fit(self, pattern: Json, value: Json) -> None:
        found = misfit(filled(pattern, self.names), value, self.names)
        if found is not None:
            raise Mismatch(found)

    # --- HTTP -------------------------------------------------------------------------------

    def _request(self, step: dict[str, Any]) -> httpx.Request:
        content = None
        if "json" in step:
            content = json.dumps(step["json"]).encode()
        elif "raw" in step:
            content = (step["raw"] * step.get("times", 1)).encode()
        return self.client.build_request(
            step.get("method", "GET"),
            step["path"],
            content=content,
            headers=step.get("headers"),
        )

    async def _http(self, step: dict[str, Any]) -> None:
        self.last = step["http"]
        exchange = self.channels[self.last] = Exchange()
        self._tasks.start_soon(exchange.run, self.client, self._request(step))

    async def _status(self, step: dict[str, Any]) -> None:
        exchange = self._on(step)
        assert isinstance(exchange, Exchange)
        await exchange.began.wait()
        if exchange.response is None:
            raise Mismatch("the server gave no answer")
        self._fit(step["status"], exchange.response.status_code)
        self._fit(step.get("headers", {}), dict(exchange.response.headers))

    async def _body(self, step: dict[str, Any]) -> None:
        exchange = self._on(step)
        assert isinstance(exchange, Exchange)
        await exchange.ended.wait()
        if not exchange.whole:
            raise Mismatch("the body broke off")
        said = exchange.body.decode()
        if "text" in step:
            self._fit(step["text"], said)
        else:
            self._fit(step["body"], json.loads(said))

    async def _ended(self, step: dict[str, Any]) -> None:
        exchange = self._on(step)
        assert isinstance(exchange, Exchange)
        await exchange.ended.wait()
        self._fit(step["ended"], "whole" if exchange.whole else "broken")
        if "so_far" in step:
            self._fit(step["so_far"], exchange.body.decode())

    async def _poll(self, step: dict[str, Any]) -> None:
        while True:
            answer = await self.client.get(step["poll"])
            found = misfit(step["until_body"], answer.json(), self.names)
            if found is None:
                return
            self._polled = found
            await anyio.sleep(0.02)

    # --- the model's server -----------------------------------------------------------------

    async def _asked(self, index: int) -> Request:
        await self.upstream.until(lambda: len(self.upstream.requests) > self._first + index)
        return self.upstream.requests[self._first + index]

    async def _model(self, step: dict[str, Any]) -> None:
        request = await self._asked(step["model"])
        if "asked" in step:
            self._fit(step["asked"], request.body)
        if "release" in step:
            request.release(step["release"])
        if "left" in step:
            self._fit(step["left"], (await request.closed()).written)

    async def _models(self, step: dict[str, Any]) -> None:
        self._fit(step["models"], len(self.upstream.requests) - self._first)


def _script(written: dict[str, Any]) -> Script:
    fields = {name: value for name, value in written.items() if name != "always"}
    for name in ("tokens", "reasoning"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return Script(**fields)


def check_order(name: str, channel: Channel) -> None:
    """Hold a channel to what is true of every one: numbers rise by one, and one end is the last.

    A terminal event may come again, as the very same one: that answers a late cancel or resume.

    Raises:
        Mismatch: it was not so.
    """
    if channel.repeats:
        return
    events = [one.value for one in channel.seen if isinstance(one.value, dict)]
    owners: dict[str, str] = {}
    for event in events:
        response = event.get("response")
        if isinstance(response, dict):
            owners |= {item["id"]: response["id"] for item in response["output"]}
    numbers: dict[str, int] = {}
    ends: dict[str, Json] = {}
    for event in events:
        item = event.get("item_id") or event.get("item", {}).get("id")
        id = event["response"]["id"] if "response" in event else owners.get(item)
        if id is None or id in channel.resumed or "sequence_number" not in event:
            continue
        if id in ends:
            if event != ends[id]:
                raise Mismatch(f"on {name} {event['type']} follows the end of {id}")
            continue
        number = event["sequence_number"]
        before = numbers.get(id)
        # Items that began after the cut stand in no output, so their numbers belong to nobody.
        if before is not None and number <= before:
            raise Mismatch(f"on {name} number {number} follows {before}")
        numbers[id] = number
        if event.get("type") in TERMINAL:
            ends[id] = event
