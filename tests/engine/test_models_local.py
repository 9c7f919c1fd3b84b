"""A model on this machine: a real child process and real weights. No test looks at the text."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest
from material import write_files

from ragsocket.engine.base import (
    Citation,
    LimitReached,
    Question,
    Sampling,
    TextDelta,
    Turn,
    Usage,
)
from ragsocket.engine.compose import RagEngine
from ragsocket.engine.extractive import CLOSEST
from ragsocket.engine.index import Index
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.models.catalog import catalog
from ragsocket.engine.models.child_process import Child
from ragsocket.engine.models.choice import LocalFile, local_model
from ragsocket.engine.models.local import LocalModel, Pace
from ragsocket.engine.models.pull import pull
from ragsocket.engine.prompt import Profile
from ragsocket.engine.token_stream import Message
from ragsocket.errors import EngineError, PullError
from ragsocket.settings import Settings

NAME = "smollm2-135m-instruct"
CACHE = Path("~/.cache/ragsocket/tests").expanduser()
PATIENCE_S = 60.0
QUICK = Pace(probe_every_s=0.2, hung_after_s=1.0, first_pause_s=0.05)
SHORT = [Message("user", "Count from one to one hundred.")]
LONG = [Message("user", "The shop sells tea, cups and bread from eight to ten. " * 40)]


class Silent:
    """Is told of a pull, and keeps it to itself."""

    def says(self, text: str) -> None:
        """Take a sentence."""

    def at(self, done: int, total: int) -> None:
        """Take how far it is."""


@pytest.fixture(scope="session")
def file() -> LocalFile:
    """The smallest model of the catalog, pulled once."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is missing, from the extra `local`")
    known = catalog().find(NAME)
    assert known is not None
    try:
        pull(known, CACHE, Silent())
    except PullError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no model to test with: {error}")
    chosen = local_model(Settings(llm_model=NAME, models_dir=CACHE, context_tokens=600))
    assert chosen is not None
    return chosen


@asynccontextmanager
async def running(
    file: LocalFile, *, slots: int = 2, pace: Pace = QUICK
) -> AsyncIterator[LocalModel]:
    """The model, ready."""
    async with LocalModel(file, slots=slots, max_output_tokens=200, pace=pace) as model:
        with anyio.fail_after(PATIENCE_S):
            assert await model.ready(), model.state
        yield model


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    with anyio.fail_after(PATIENCE_S):
        while not true():
            await anyio.sleep(0.01)


async def ask(
    model: LocalModel, messages: list[Message] = SHORT, *, most: int = 8
) -> tuple[int, Usage | None, LimitReached | None]:
    """Return how many reads held text, and what the model counted."""
    reads, usage, limit = 0, None, None
    sampling = Sampling(temperature=0, max_output_tokens=most)
    with anyio.fail_after(PATIENCE_S):
        async for event in model.stream(messages, model=model.models[0], sampling=sampling):
            if isinstance(event, TextDelta):
                reads += 1
            elif isinstance(event, Usage):
                usage = event
            elif isinstance(event, LimitReached):
                limit = event
    return reads, usage, limit


def free_slots(model: LocalModel) -> int:
    """How many further answers could begin."""
    return model._slots.value


async def test_answers_stream_and_are_counted(file: LocalFile) -> None:
    """Text comes in pieces, the limit ends it, four at once share two slots, and all end."""
    async with running(file) as model:
        reads, usage, limit = await ask(model)
        assert reads > 1
        assert usage is not None
        assert usage.input_tokens > 0
        assert usage.output_tokens == 8
        assert limit == LimitReached("max_output_tokens")
        answers = []

        async def one() -> None:
            answers.append(await ask(model))

        async with anyio.create_task_group() as chats:
            for _ in range(4):
                chats.start_soon(one)
        assert len(answers) == 4
        assert all(usage is not None and usage.output_tokens == 8 for _, usage, _ in answers)
        assert free_slots(model) == 2
        process = model.process_id
    assert process is not None
    assert not psutil.pid_exists(process)


async def test_a_stopped_answer_gives_its_slot_to_the_next(file: LocalFile) -> None:
    """Stopped while it is written or while the prompt is read, it holds its slot until it ends."""
    async with running(file, slots=1) as model:
        for messages, wait_for_text in ((SHORT, True), (LONG, False)):
            sampling = Sampling(max_output_tokens=200)
            events = model.stream(messages, model=NAME, sampling=sampling)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as stopping:

                    async def stop(scope: anyio.CancelScope = scope) -> None:
                        await until(lambda: free_slots(model) == 0)
                        scope.cancel()

                    if not wait_for_text:
                        stopping.start_soon(stop)
                    async for event in events:
                        if isinstance(event, TextDelta):
                            break
            await events.aclose()
            await until(lambda: free_slots(model) == 1)
            _, usage, _ = await ask(model)
            assert usage is not None


async def test_it_says_how_sure_it_is_and_reads_the_prompt_once(file: LocalFile) -> None:
    """Its Yes over its No is a number, and the answer after it has the prompt in its cache."""
    told = "The ferry leaves at nine. " * 20
    async with running(file, slots=1) as model:
        judge = [Message("user", f"{told}Does it say when? Say Yes or No.")]
        sure = await model.assent(judge)
        assert math.isfinite(sure)
        assert sure != await model.assent([Message("user", "Say Yes.")])
        assert sure == pytest.approx(await model.assent(judge), abs=0.1)
        assert free_slots(model) == 1
        assert model._up is not None
        answer = [Message("user", f"{told}When does it leave?")]
        read = await tokens_read(model._up.child, answer)
        assert 0 < read < 40


async def tokens_read(child: Child, messages: list[Message]) -> int:
    """Ask, and return how many tokens of the prompt were not in the cache."""
    body = {
        "messages": [{"role": one.role, "content": one.content} for one in messages],
        "max_tokens": 1,
    }
    async with child._session.post(f"{child.url}/chat/completions", json=body) as answer:
        return int((await answer.json())["timings"]["prompt_n"])


async def test_a_question_to_judge_can_be_stopped(file: LocalFile) -> None:
    """Its slot is free for the next answer soon after."""
    async with running(file, slots=1) as model:
        async with anyio.create_task_group() as asking:
            asking.start_soon(model.assent, LONG)
            await until(lambda: free_slots(model) == 0)
            asking.cancel_scope.cancel()
        await until(lambda: free_slots(model) == 1)
        _, usage, _ = await ask(model)
        assert usage is not None


async def test_what_the_model_takes_for_unanswerable_is_said_to_be(
    file: LocalFile, tmp_path: Path
) -> None:
    """The nearest sentences follow, cited; an operator may set how sure it must be."""
    ferry: dict[str, str | bytes] = {
        "ferry.md": "# Ferry\n\nThe ferry to Holm leaves at 7:40 every morning.\n"
    }
    documents = write_files(tmp_path / "documents", ferry)
    path = tmp_path / "passages.sqlite3"
    ingest(documents, path, embed=None, chunk_tokens=64, chunk_overlap_tokens=8)
    index = Index(path)
    await index.open()
    asked = Question(
        [Turn("user", "When does the ferry to Holm leave?")],
        "local",
        file.name,
        sampling=Sampling(max_output_tokens=8),
    )
    async with running(file) as model:
        for least, refused in ((1000.0, True), (-100.0, False)):
            settings = Settings(state_dir=tmp_path, gate_min_assent=least)
            engine = RagEngine(index, model, settings, profile=Profile.small(640))
            seen = [event async for event in engine.answer(asked)]
            text = "".join(event.text for event in seen if isinstance(event, TextDelta))
            assert text.startswith(CLOSEST) is refused
            marked = [e for e in seen if isinstance(e, Citation) and not e.matched]
            assert bool(marked) is refused
    index.close()


async def test_a_killed_model_is_restarted(file: LocalFile) -> None:
    """The answer that runs fails, one asked meanwhile too, and then all is well again."""
    async with running(file) as model:
        first = model.process_id
        assert first is not None
        events = model.stream(SHORT, model=NAME, sampling=Sampling(max_output_tokens=200))
        await anext(events)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(EngineError):
            async for _ in events:
                pass
        await until(lambda: model.state is not None)
        assert str(model.state).startswith("restarting (1): it was ended by signal 9")
        with pytest.raises(EngineError) as failure:
            await ask(model)
        assert failure.value.code == "upstream_unavailable"
        await until(lambda: model.state is None)
        assert model.process_id != first
        assert (await ask(model))[1] is not None


async def test_a_model_that_hangs_is_restarted(file: LocalFile) -> None:
    """A stopped process does not answer, so another one takes its place."""
    async with running(file) as model:
        first = model.process_id
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: model.process_id not in (None, first))
        assert not psutil.pid_exists(first)
        assert (await ask(model))[1] is not None


async def test_the_model_ends_with_its_parent(file: LocalFile) -> None:
    """Even if that one is killed."""
    code = (
        "import anyio, sys\n"
        "from pathlib import Path\n"
        "from ragsocket.engine.models.choice import LocalFile\n"
        "from ragsocket.engine.models.local import LocalModel\n"
        "async def main():\n"
        "    async with LocalModel(LocalFile('m', Path(sys.argv[1]), None, 600)) as model:\n"
        "        await model.ready()\n"
        "        print(model.process_id, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    command = [sys.executable, "-c", code, str(file.path)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        with anyio.fail_after(PATIENCE_S):
            child = int(await parent.stdout.receive())
        assert psutil.pid_exists(child)
        parent.kill()
        await until(lambda: not psutil.pid_exists(child))


async def test_another_file_than_the_official_one_is_never_loaded(
    file: LocalFile, tmp_path: Path
) -> None:
    """Its size is right, but the native parser must not see it."""
    fake = tmp_path / file.path.name
    with fake.open("wb") as out:
        out.truncate(file.path.stat().st_size)
    async with LocalModel(LocalFile(file.name, fake, file.sha256, 600)) as model:
        assert not await model.ready()
        assert "not the official file" in str(model.state)
        with pytest.raises(EngineError):
            await ask(model)


async def test_a_truncated_file_of_ones_own_is_tried_again_and_named(
    file: LocalFile, tmp_path: Path
) -> None:
    """Nothing crashes, and the state says which file it is."""
    half = tmp_path / "half.gguf"
    half.write_bytes(file.path.read_bytes()[:1_000_000])
    async with LocalModel(LocalFile("half", half, None, 600), pace=QUICK) as model:
        assert not await model.ready()
        assert "half.gguf cannot be loaded" in str(model.state)
        await until(lambda: str(model.state).startswith("restarting (2)"))
