"""`ragsocket chat` against the real server, from a pipe and in a pseudo-terminal."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import websockets
from commands import COMMAND, environment, run, run_async, serving, terminal

from harness import PATIENCE_S, Served
from upstream import Script, Upstream

FERRY = "When does the ferry to Holm leave?"
MODELS = json.dumps({"data": [{"id": "scripted"}]})
KNOWN = ("--conversation", "conv_1")


def url_of(served: Served) -> str:
    """The address that chat is given."""
    return f"ws://{served.address}/ws"


async def test_questions_from_a_pipe(served: Served, upstream: Upstream, tmp_path: Path) -> None:
    """One question per line, one conversation, no decorations, status 0 at the end of input."""
    upstream.queue(Script(tokens=("It leaves ", "at 7:40 ", "[1].")), Script(tokens=("Three.",)))
    questions = f"{FERRY}\n\nAnd what does a bicycle cost?\n"
    done = await run_async("chat", "--url", url_of(served), cwd=tmp_path, stdin=questions)
    assert done.returncode == 0, done.stderr
    assert "It leaves at 7:40 [1].\n" in done.stdout
    assert "Three.\n" in done.stdout
    source, text = done.stdout.index("[1] ferry.md, lines 1-3 (0."), done.stdout.index("It leaves")
    assert source < text < done.stdout.index("cited: ferry.md")
    assert "> " not in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    said = [message["content"] for message in (await upstream.request(1)).messages]
    assert "It leaves at 7:40 [1]." in said


async def test_a_failed_question_from_a_pipe(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """The failure is told on stderr, the next question is asked, and the status is 1."""
    upstream.queue(Script(status=401), Script(tokens=("Three.",)))
    questions = f"{FERRY}\nAnd a bicycle?\n"
    done = await run_async("chat", "--url", url_of(served), cwd=tmp_path, stdin=questions)
    assert done.returncode == 1
    assert "The answer failed: " in done.stderr
    assert "Three.\n" in done.stdout


async def test_an_interrupt_stops_the_answer_and_then_leaves(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """Ctrl-C reaches the model at once, the next prompt knows the cut, and Ctrl-C there leaves."""
    tokens = ("alpha ", "beta ", "gamma ", "delta ")
    upstream.queue(Script(tokens=tokens, gated=True), Script(tokens=("Again.",)))
    with terminal(tmp_path, "chat", "--url", url_of(served)) as chat:
        await chat.shows("> ")
        chat.type(f"{FERRY}\n")
        request = await upstream.request(0)
        request.release(2)
        await chat.shows("alpha beta")
        chat.type("\x03")
        assert (await request.closed()).written == 2
        await chat.shows("(stopped)")
        await chat.shows("\n> ")
        chat.type("And a bicycle?\n")
        await chat.shows("Again.")
        await chat.shows("\n> ")
        chat.type("\x03")
        assert await chat.status() == 0
    assert "gamma" not in chat.screen
    assert "Traceback" not in chat.screen
    assert {"role": "assistant"}.items() <= (await upstream.request(1)).messages[-2].items()
    assert (await upstream.request(1)).messages[-2]["content"].startswith("alpha beta")


async def test_an_interrupt_before_the_first_token(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """An answer can be stopped while the model is still silent, and a question can follow."""
    upstream.queue(Script(stall="headers"), Script(tokens=("Yes.",)))
    with terminal(tmp_path, "chat", "--url", url_of(served)) as chat:
        await chat.shows("> ")
        chat.type(f"{FERRY}\n")
        request = await upstream.request(0)
        await chat.shows("ferry.md")
        chat.type("\x03")
        assert (await request.closed()).written == 0
        await chat.shows("(stopped)")
        await chat.shows("\n> ")
        chat.type("Is it so?\n")
        await chat.shows("Yes.")
        await chat.shows("\n> ")
        chat.type("/quit\n")
        assert await chat.status() == 0


async def test_an_interrupt_of_a_pipe_stops_the_model_and_ends(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """Without anybody at the keys an interrupt stops the answer and the command, status 130."""
    upstream.queue(Script(gated=True))
    process = await anyio.open_process(
        [*COMMAND, "chat", "--url", url_of(served)], cwd=tmp_path, env=environment()
    )
    try:
        assert process.stdin is not None
        await process.stdin.send(f"{FERRY}\nAnd a bicycle?\n".encode())
        request = await upstream.request(0)
        process.send_signal(signal.SIGINT)
        await request.closed()
        with anyio.fail_after(PATIENCE_S):
            assert await process.wait() == 130
        assert len(upstream.requests) == 1
    finally:
        await process.aclose()


async def test_a_new_conversation_and_the_end_of_input(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """`/new` forgets what was said, and Ctrl-D leaves with status 0."""
    upstream.queue(Script(tokens=("At 7:40.",)), Script(tokens=("Which one?",)))
    with terminal(tmp_path, "chat", "--url", url_of(served)) as chat:
        await chat.shows("> ")
        chat.type(f"{FERRY}\n")
        await chat.shows("At 7:40.")
        await chat.shows("\n> ")
        chat.type("/new\n")
        await chat.shows("(a new conversation)")
        await chat.shows("\n> ")
        chat.type("Does the ferry take a bicycle?\n")
        await chat.shows("Which one?")
        await chat.shows("\n> ")
        chat.type("\x04")
        assert await chat.status() == 0
    said = [message["content"] for message in (await upstream.request(1)).messages]
    assert "At 7:40." not in said


async def test_nobody_else_steers_the_terminal(
    served: Served, documents: Path, upstream: Upstream, tmp_path: Path
) -> None:
    """Control characters of the model are not shown; text, tabs and newlines are."""
    tokens = ("\x1b]0;owned\x07", "\x1b[31mred\x9b2J ", "a\tb\r\n", "\x08\x7fend.")
    upstream.queue(Script(tokens=tokens))
    with terminal(tmp_path, "chat", "--url", url_of(served), NO_COLOR="1") as chat:
        await chat.shows("> ")
        chat.type(f"{FERRY}\n")
        await chat.shows("]0;owned[31mred2J a")
        await chat.shows("b\nend")
        await chat.shows("\n> ")
        chat.type("\x03")
        assert await chat.status() == 0
    for command in (b"\x1b]", b"\x07", b"\x1b[31m", b"\xc2\x9b", b"\x08\x7f"):
        assert command not in chat.raw


@asynccontextmanager
async def pretender(
    play: Callable[[websockets.ServerConnection], Awaitable[None]], *, status: int = 200, body: str
) -> AsyncIterator[str]:
    """Serve a socket that is played by hand, with `body` as what HTTP answers; yield its URL."""

    async def ask(
        socket: websockets.ServerConnection, request: websockets.Request
    ) -> websockets.Response | None:
        return None if request.path == "/v1/responses" else socket.respond(status, body)

    async with websockets.serve(play, "127.0.0.1", 0, process_request=ask) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


async def test_file_names_do_not_steer_the_terminal_either(tmp_path: Path) -> None:
    """Names of files lose control characters and line breaks, and half a character ends nothing."""
    name = "evil\x1b]0;owned\x07\n[9] forged.md"
    result = {"filename": name, "score": 1.0, "attributes": {"place": "page \x9b1"}}
    item = {"id": "fs_1_0", "type": "file_search_call", "results": [result]}
    part = {"text": "half \ud83d.", "annotations": [{"filename": name}]}
    end = {
        "id": "resp_1",
        "status": "completed",
        "output": [{"type": "message", "content": [part]}],
        "ragsocket": {"reason": "completed"},
    }

    async def answer(socket: websockets.ServerConnection) -> None:
        asked = json.loads(await socket.recv())
        begun: dict[str, object] = {"id": "resp_1", "previous_response_id": None, "ragsocket": {}}
        said: list[dict[str, object]] = [
            {"type": "response.created", "event_id": asked["event_id"], "response": begun},
            {"type": "response.output_item.done", "item": item},
            {"type": "response.output_text.delta", "item_id": "msg_1_1", "delta": "half \ud83d"},
            {"type": "response.completed", "response": end},
        ]
        for number, event in enumerate(said):
            await socket.send(json.dumps({"sequence_number": number, **event}))
        await socket.wait_closed()

    async with pretender(answer, body=MODELS) as url:
        done = await run_async("chat", "--url", url, *KNOWN, cwd=tmp_path, stdin="hello\n")
    assert done.returncode == 0, done.stderr
    assert "[1] evil]0;owned [9] forged.md, page 1 (1.00)\n" in done.stdout
    assert "half ?.\n" in done.stdout
    assert "cited: evil]0;owned [9] forged.md\n" in done.stdout


async def test_a_lost_server_is_told_and_found_again(cwd: Path, upstream: Upstream) -> None:
    """Death in mid-answer is told, the conversation goes on with the server's next life."""
    upstream.queue(Script(tokens=("At 7:40.",)), Script(gated=True), Script(tokens=("Three.",)))
    model = ("--llm-url", upstream.url, "--llm-model", "scripted")
    other = cwd / "other"
    other.mkdir()
    async with serving(cwd, *model) as server:
        port = int(server.address.rpartition(":")[2])
        with terminal(cwd, "chat", "--url", f"ws://{server.address}/ws") as chat:
            await chat.shows("> ")
            chat.type(f"{FERRY}\n")
            await chat.shows("At 7:40.")
            await chat.shows("\n> ")
            chat.type("And what does a bicycle cost?\n")
            request = await upstream.request(1)
            request.release(1)
            await chat.shows("w0")
            server.signal(signal.SIGKILL)
            assert await server.status() == -signal.SIGKILL
            await chat.shows("(the connection was lost: trying again")
            async with serving(cwd, *model, port=port) as again:
                await chat.shows("(connected again)")
                await chat.shows("The answer was cut off: the server")
                await chat.shows("\n> ")
                chat.type("And what does a bicycle cost?\n")
                await chat.shows("Three.")
                await chat.shows("\n> ")
                said = [message["content"] for message in (await upstream.request(2)).messages]
                assert "At 7:40." in said
                again.signal(signal.SIGTERM)
                assert await again.status() == 0
            async with serving(other, *model, port=port):
                chat.type("And a dog?\n")
                await chat.shows("no longer has this conversation")
                await chat.shows("w19")
                await chat.shows("\n> ")
                chat.type("\x03")
                assert await chat.status() == 0


async def test_a_lost_server_need_not_be_waited_for(cwd: Path, upstream: Upstream) -> None:
    """While nothing answers, one Ctrl-C gives the answer up, and the next one leaves."""
    upstream.queue(Script(gated=True))
    model = ("--llm-url", upstream.url, "--llm-model", "scripted")
    async with serving(cwd, *model) as server:
        with terminal(cwd, "chat", "--url", f"ws://{server.address}") as chat:
            await chat.shows("> ")
            chat.type(f"{FERRY}\n")
            (await upstream.request(0)).release(1)
            await chat.shows("w0")
            server.signal(signal.SIGKILL)
            await chat.shows("(the connection was lost: trying again")
            chat.type("\x03")
            await chat.shows("(stopped, not confirmed)")
            await chat.shows("\n> ")
            chat.type("\x03")
            assert await chat.status() == 0


async def test_a_conversation_is_taken_up(
    served: Served, upstream: Upstream, tmp_path: Path
) -> None:
    """Leaving names the command that goes on, and that command's first question is a follow-up."""
    upstream.queue(Script(tokens=("At 7:40.",)), Script(tokens=("Three.",)))
    with terminal(tmp_path, "chat", "--url", url_of(served)) as chat:
        await chat.shows("scripted answers.")
        chat.type(f"{FERRY}\n")
        await chat.shows("At 7:40.")
        await chat.shows("\n> ")
        chat.type("\x04")
        assert await chat.status() == 0
    command = re.search(r"To go on later: ragsocket (chat .*)", chat.screen)
    assert command is not None
    done = await run_async(*command[1].split(), cwd=tmp_path, stdin="And a bicycle?\n")
    assert "Three.\n" in done.stdout
    said = [message["content"] for message in (await upstream.request(1)).messages]
    assert "At 7:40." in said


def test_a_server_that_is_not_there_is_one_line_with_the_fix(tmp_path: Path) -> None:
    """Without a server the status is 2 and stderr names `ragsocket serve` and `--url`."""
    done = run("chat", "--url", "ws://127.0.0.1:9/ws", cwd=tmp_path, stdin="hello\n")
    assert done.returncode == 2
    assert "ragsocket serve" in done.stderr
    assert "--url" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_what_is_no_ragsocket_is_told_apart(served: Served, tmp_path: Path) -> None:
    """A page's address is taken as its server's, and a wrong path is named as that."""
    page = await run_async(
        "chat", "--url", f"http://{served.address}", cwd=tmp_path, stdin="/new\n"
    )
    assert page.returncode == 0
    wrong = await run_async("chat", "--url", f"ws://{served.address}/no", cwd=tmp_path)
    assert wrong.returncode == 2
    assert f"{served.address}/no/v1/responses" in wrong.stderr
    assert "--url" in wrong.stderr
    nonsense = await run_async("chat", "--url", "over there", cwd=tmp_path)
    assert nonsense.returncode == 2
    assert "'over there' is no address of a server" in nonsense.stderr


async def test_a_socket_of_something_else(tmp_path: Path) -> None:
    """Whoever opens a socket but knows no models is no ragsocket: status 2, and the fix."""

    async def idle(socket: websockets.ServerConnection) -> None:
        await socket.wait_closed()

    async with pretender(idle, body='["hello"]') as url:
        done = await run_async("chat", "--url", url, cwd=tmp_path, stdin="hello\n")
    assert done.returncode == 2
    assert f"what answers at {url} is no ragsocket." in done.stderr


async def test_a_refusal_at_the_door(tmp_path: Path) -> None:
    """A server that does not go by this host name ends the command in its own words, status 2."""

    async def idle(socket: websockets.ServerConnection) -> None:
        await socket.wait_closed()

    why = "This server does not go by that name: add it to RAGSOCKET_ALLOWED_HOSTS."
    body = json.dumps({"error": {"message": why, "code": "host_not_allowed", "param": None}})
    async with pretender(idle, status=403, body=body) as url:
        done = await run_async("chat", "--url", url, cwd=tmp_path, stdin="hello\n")
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [(4403, "", "(4403)"), (4499, "too many\x1b[2J cooks", "closed the socket (4499)")],
)
async def test_a_close_for_good(tmp_path: Path, code: int, reason: str, words: str) -> None:
    """A socket closed for good in mid-answer is told once, and the status is 1."""

    async def close(socket: websockets.ServerConnection) -> None:
        await socket.recv()
        await socket.close(code, reason)

    async with pretender(close, body=MODELS) as url:
        done = await run_async("chat", "--url", url, *KNOWN, cwd=tmp_path, stdin="hello\n")
    assert done.returncode == 1
    assert words in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("The connection was lost: ")
    assert done.stderr.count("\n") == 1
