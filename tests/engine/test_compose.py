"""The whole engine, over a real index and a real model server.

Over 400 lines because every test asks the same composed engine, which is put together once here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from llama_index.core.llms import MockLLM
from material import embeddings_server, write_files

from ragsocket.engine.base import (
    Citation,
    Engine,
    EngineEvent,
    LimitReached,
    Question,
    ResponseMode,
    Retrieval,
    Sampling,
    Searching,
    Sources,
    TextDelta,
    Turn,
    Usage,
)
from ragsocket.engine.compose import RagEngine
from ragsocket.engine.extractive import LABEL, NO_DOCUMENTS, ONLY_QUOTES, QUOTES
from ragsocket.engine.gate import REFUSAL
from ragsocket.engine.ingestion import EmbedSettings
from ragsocket.engine.ingestion.pipeline import ingest
from ragsocket.engine.late import LateEngine
from ragsocket.engine.load import load_engine
from ragsocket.engine.prompt import CUT_NOTE, Profile
from ragsocket.engine.token_stream import OpenAICompatible
from ragsocket.errors import EngineError, RequestError
from ragsocket.settings import Settings
from upstream import Request, Script, Upstream
from words import WordEmbedding

FILES: dict[str, str | bytes] = {
    "ferry.md": "# Ferry\n\nThe ferry to Holm leaves at 7:40 every morning. Dogs travel free.\n",
    "harbour.txt": "The harbour office opens at nine. Lost luggage is kept in shed four.\n",
    "soup.txt": "The soup of the day is made of lentils and carrots.\n",
}
ASKED = "When does the ferry to Holm leave?"
MULTI: list[ResponseMode] = ["refine", "tree_summarize"]


@pytest.fixture
def no_gc() -> Iterator[None]:
    """A stop must never depend on the garbage collector."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder of documents."""
    return write_files(tmp_path / "documents", FILES)


@asynccontextmanager
async def engine(
    state: Path,
    upstream: Upstream | None = None,
    *,
    data: Path | None = None,
    models: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[RagEngine]:
    """A composed engine, with the folder taken in."""
    if upstream is not None:
        options |= {"llm_url": upstream.url, "llm_model": "scripted"}
    if "embed_url" not in options:
        # Whatever the machine offers, a test runs on what it names.
        options["embed_model"] = "none"
    settings = Settings(state_dir=state, data=data, **options)
    composed = await load_engine(settings, **models or {})
    try:
        if data is not None:
            embed = (models or {}).get("embed_model") or EmbedSettings.from_settings(settings)
            # Not in a process of its own, which takes seconds to start.
            await to_thread.run_sync(
                partial(
                    ingest,
                    data,
                    settings.index_path,
                    embed=embed,
                    chunk_tokens=settings.chunk_tokens,
                    chunk_overlap_tokens=settings.chunk_overlap_tokens,
                )
            )
            await composed.refresh()
        yield composed
    finally:
        await composed.aclose()


def question(*turns: Turn | str, **kwargs: Any) -> Question:
    """A question; a bare string is what the user said."""
    said = [Turn("user", turn) if isinstance(turn, str) else turn for turn in turns]
    sampling = kwargs.pop("sampling", Sampling())
    return Question(said, "local", "scripted", retrieval=Retrieval(**kwargs), sampling=sampling)


async def collect(stream: AsyncIterator[EngineEvent], seen: list[EngineEvent]) -> None:
    """Read to the end, and keep what came even if the end is bad."""
    async for event in stream:
        seen.append(event)


async def events(composed: Engine, asked: Question) -> list[EngineEvent]:
    """All events of an answer."""
    async with aclosing(composed.answer(asked)) as stream:
        return [event async for event in stream]


def text_of(seen: list[EngineEvent]) -> str:
    """The text of an answer."""
    return "".join(event.text for event in seen if isinstance(event, TextDelta))


def kinds(seen: list[EngineEvent]) -> list[str]:
    """The order of the kinds of events, repeats left out."""
    names = [type(event).__name__ for event in seen]
    return [name for n, name in enumerate(names) if not n or names[n - 1] != name]


async def release_first(upstream: Upstream) -> None:
    """Let the first token of the first answer go."""
    (await upstream.request(0)).release(1)


async def test_an_answer_searches_streams_and_cites(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """Sources come before the text, and a citation right after the delta that closes its mark."""
    upstream.queue(Script(tokens=["At ", "7:40 [", "1", "]", "."], gated=True))
    seen: list[EngineEvent] = []
    async with engine(tmp_path, upstream, data=documents) as composed:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release_first, upstream)
            async with aclosing(composed.answer(question(ASKED))) as stream:
                async for event in stream:
                    seen.append(event)
                    # One token at a time, so that no two of them come in one read.
                    if isinstance(event, TextDelta):
                        upstream.requests[0].release(1)
    assert kinds(seen)[:3] == ["Searching", "Sources", "Usage"]
    assert seen[0] == Searching([ASKED])
    sources = seen[1]
    assert isinstance(sources, Sources)
    assert sources.sources[0].file_name == "ferry.md"
    assert sources.index_revision == 1
    first, last = (event for event in seen if isinstance(event, Usage))
    assert first.estimated
    assert first.input_tokens > 100
    assert last == Usage(last.input_tokens, 5, estimated=False)
    assert text_of(seen) == "At 7:40 [1]."
    cited = next(n for n, event in enumerate(seen) if isinstance(event, Citation))
    assert seen[cited] == Citation(sources.sources[0], 11, 1)
    assert seen[cited - 1] == TextDelta("]")
    body = upstream.requests[0].messages
    assert [message["role"] for message in body] == ["system", "user"]
    assert "7:40" not in body[0]["content"]
    assert "7:40" in body[1]["content"]


async def test_history_reaches_the_model_and_widens_the_search(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """A follow-up finds its topic, and a cut answer is told as such."""
    cut = Turn("assistant", "At 7:", cut=True)
    async with engine(tmp_path, upstream, data=documents, instructions="Be kind.") as composed:
        seen = await events(composed, question(ASKED, cut, "And may my dog come along?"))
    assert seen[0] == Searching([f"And may my dog come along?\n{ASKED}"])
    roles = [(m["role"], m["content"]) for m in upstream.requests[0].messages]
    assert roles[0][1].endswith("Be kind.")
    assert roles[1:3] == [("user", ASKED), ("assistant", "At 7:")]
    assert roles[3][1].startswith(CUT_NOTE)


@pytest.mark.parametrize(
    ("asked", "search"),
    [
        (question(ASKED, Turn("assistant", "At 7:40."), "Say that shorter"), "about itself"),
        (question("Hello"), "about itself"),
        (question("Who won the football cup in Brazil?", search=False), "off"),
        (question("Who won the football cup in Brazil?", mode="none"), "off"),
    ],
)
async def test_without_a_search_the_model_answers_from_the_conversation(
    upstream: Upstream, documents: Path, tmp_path: Path, asked: Question, search: str
) -> None:
    """Such turns are neither searched for nor refused."""
    async with engine(tmp_path, upstream, data=documents) as composed:
        seen = await events(composed, asked)
    assert kinds(seen) == ["Usage", "TextDelta", "Usage"]
    assert "<passages>" not in upstream.requests[0].messages[-1]["content"]


async def test_an_empty_store_is_not_searched(upstream: Upstream, tmp_path: Path) -> None:
    """Before the first document the model answers alone, and nobody else's store helps."""
    async with engine(tmp_path, upstream) as composed:
        seen = await events(composed, question(ASKED))
        assert composed.readiness() == {}
    assert kinds(seen) == ["Usage", "TextDelta", "Usage"]


async def test_other_owners_find_nothing(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """What one owner ingested is an empty store for another."""
    async with engine(tmp_path, upstream, data=documents) as composed:
        seen = await events(composed, replace(question(ASKED), owner="somebody"))
    assert "Sources" not in kinds(seen)
    assert "7:40" not in str(upstream.requests[0].messages)


async def test_a_store_that_is_not_there_is_named(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """An answer without documents would look like one from them."""
    async with engine(tmp_path, upstream, data=documents) as composed:
        with pytest.raises(RequestError, match="vs_nowhere"):
            await events(composed, question(ASKED, vector_store_ids=["vs_default", "vs_nowhere"]))
    assert upstream.requests == []


async def test_what_the_documents_cannot_answer_never_reaches_the_model(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """The refusal is fixed; the sources found are still shown."""
    async with engine(tmp_path, upstream, data=documents) as composed:
        asked = "Which team won the football championship of Holm?"
        seen = await events(composed, question(asked))
    assert kinds(seen) == ["Searching", "Sources", "TextDelta"]
    assert text_of(seen) == REFUSAL
    assert upstream.requests == []


async def test_no_text_gives_sources_alone(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """The search is all that is wanted."""
    async with engine(tmp_path, upstream, data=documents) as composed:
        seen = await events(composed, question(ASKED, response_mode="no_text", similarity_top_k=1))
    assert kinds(seen) == ["Searching", "Sources"]
    assert isinstance(seen[1], Sources)
    assert len(seen[1].sources) == 1
    assert upstream.requests == []


async def test_sampling_and_limits_pass_through(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """What the request asks of the model reaches it, and why it stopped comes back."""
    upstream.queue(Script(finish_reason="length"))
    async with engine(tmp_path, upstream, data=documents) as composed:
        asked = question(ASKED, sampling=Sampling(temperature=0.5, max_output_tokens=7))
        seen = await events(composed, asked)
    assert seen[-1] == LimitReached("max_output_tokens")
    body = upstream.requests[0].body
    assert body["temperature"] == 0.5
    assert 7 in (body.get("max_tokens"), body.get("max_completion_tokens"))


async def test_a_question_beyond_the_context_is_refused(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """The error names the budget and is safe to show."""
    async with engine(tmp_path, upstream, data=documents, context_tokens=300) as composed:
        with pytest.raises(RequestError, match="300"):
            await events(composed, question("ferry " * 500))


async def test_a_model_that_fails_fails_the_answer(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """What came before stays said."""
    upstream.queue(Script(cut=2))
    seen: list[EngineEvent] = []
    async with engine(tmp_path, upstream, data=documents) as composed:
        async with aclosing(composed.answer(question(ASKED))) as stream:
            with pytest.raises(EngineError):
                await collect(stream, seen)
    assert text_of(seen) == "w0 w1 "


@pytest.mark.parametrize("mode", ["compact", *MULTI])
async def test_a_cancel_reaches_the_model_at_once(
    upstream: Upstream, documents: Path, tmp_path: Path, no_gc: None, mode: ResponseMode
) -> None:
    """Not one token is made after it, in any mode."""
    upstream.default = Script(gated=True)
    async with engine(tmp_path, upstream, data=documents) as composed:
        got: list[EngineEvent] = []
        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                asked = question(ASKED, response_mode=mode, similarity_top_k=1)
                async with aclosing(composed.answer(asked)) as stream:
                    async for event in stream:
                        got.append(event)

            tasks.start_soon(consume)
            request = await upstream.request(0)
            request.release(3)
            await upstream.until(lambda: request.written == 3)
            tasks.cancel_scope.cancel()
        assert (await request.closed()).written == 3


@pytest.mark.parametrize("mode", ["compact", *MULTI])
async def test_closing_the_answer_closes_the_model(
    upstream: Upstream, documents: Path, tmp_path: Path, no_gc: None, mode: ResponseMode
) -> None:
    """A reader that goes away between two events leaves nothing running."""
    upstream.default = Script(gated=True)
    async with engine(tmp_path, upstream, data=documents) as composed, AsyncExitStack() as stack:
        asked = question(ASKED, response_mode=mode, similarity_top_k=1)
        stream = await stack.enter_async_context(aclosing(composed.answer(asked)))
        stack.enter_context(anyio.fail_after(10))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release_first, upstream)
            while not isinstance(await anext(stream), TextDelta):
                pass
        await stream.aclose()
        await upstream.requests[0].closed()


@pytest.mark.parametrize("mode", MULTI)
async def test_a_cancel_reaches_the_calls_before_the_last(
    upstream: Upstream, documents: Path, tmp_path: Path, no_gc: None, mode: ResponseMode
) -> None:
    """Steps whose text nobody sees are stopped as well, however many run side by side."""
    upstream.default = Script(gated=True)
    write_files(documents, {f"{n}.md": f"The ferry to Holm. {'word ' * 200}{n}" for n in range(5)})
    async with engine(
        tmp_path, upstream, data=documents, context_tokens=1200, max_output_tokens=64
    ) as composed:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(events, composed, question(ASKED, response_mode=mode))
            await upstream.request(0 if mode == "refine" else 1)
            tasks.cancel_scope.cancel()
        for request in upstream.requests:
            assert (await request.closed()).written == 0


async def test_refine_asks_once_per_passage_and_shows_the_last_answer(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """Every call has our rules, the history and one passage with its number."""
    upstream.queue(Script(tokens=["First [1]. "]), Script(tokens=["Final ", "[1]."]))
    before = (Turn("user", "Hi {context_str}"), Turn("assistant", "Hello."))
    async with engine(
        tmp_path, upstream, data=documents, instructions="Say {query_str}.", max_output_tokens=99
    ) as composed:
        asked = question(*before, "When do ferry and harbour office open?", response_mode="refine")
        asked = replace(asked, retrieval=replace(asked.retrieval, similarity_top_k=2))
        seen = await events(composed, asked)
    assert text_of(seen) == "Final [1]."
    assert kinds(seen)[:4] == ["Searching", "Sources", "Usage", "TextDelta"]
    assert any(isinstance(event, Citation) for event in seen)
    assert isinstance(seen[-1], Usage)
    assert seen[-1].output_tokens == 3
    first, second = (request.messages for request in upstream.requests)
    for messages in (first, second):
        assert [message["role"] for message in messages] == ["system", "user"]
        assert "Say {query_str}." in messages[0]["content"]
        assert "Hi {context_str}" in messages[1]["content"]
        assert messages[1]["content"].count("<passage id=") == 1
    assert "First [1]." in second[1]["content"]


async def test_tree_summarize_streams_one_answer_from_all_passages(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """Passages that fit into one prompt need one call."""
    upstream.queue(Script(tokens=["All ", "[2]."], finish_reason="length"))
    async with engine(tmp_path, upstream, data=documents) as composed:
        asked = question("Describe the ferry and the harbour", response_mode="tree_summarize")
        seen = await events(composed, asked)
    assert text_of(seen) == "All [2]."
    assert seen[-1] == LimitReached("max_output_tokens")
    assert any(isinstance(event, Citation) for event in seen)
    assert upstream.requests[0].messages[1]["content"].count("<passage id=") == 2


async def test_one_failing_summary_ends_the_others(
    upstream: Upstream, documents: Path, tmp_path: Path, no_gc: None
) -> None:
    """No call goes on for an answer that has failed."""
    write_files(documents, {f"{n}.md": f"The ferry to Holm. {'word ' * 200}{n}" for n in range(5)})

    def script(request: Request) -> Script:
        return Script(gated=True) if len(upstream.requests) == 1 else Script(status=400)

    upstream.default = script
    async with engine(
        tmp_path, upstream, data=documents, context_tokens=1200, max_output_tokens=64
    ) as composed:
        with pytest.raises(EngineError):
            await events(composed, question(ASKED, response_mode="tree_summarize"))
        await upstream.requests[0].closed()


@pytest.mark.parametrize("mode", MULTI)
async def test_passages_that_cannot_fit_are_refused_in_words(
    upstream: Upstream, documents: Path, tmp_path: Path, mode: ResponseMode
) -> None:
    """The mode needs more room than the operator gave; compact does with less."""
    async with engine(tmp_path, upstream, data=documents, context_tokens=512) as composed:
        asked = f"{ASKED} {'ferry Holm ' * 20}"
        if mode == "refine":
            with pytest.raises(RequestError, match="compact"):
                await events(composed, question(asked, response_mode=mode))
        assert text_of(await events(composed, question(asked))).startswith("w0")


async def test_without_a_model_the_documents_are_quoted(documents: Path, tmp_path: Path) -> None:
    """The answer is labelled, cited, and the same in every mode that has text."""
    async with engine(tmp_path, data=documents) as composed:
        assert composed.models == ("ragsocket-extractive",)
        seen = await events(composed, question(ASKED))
        refined = await events(composed, question(ASKED, response_mode="refine"))
        refused = await events(composed, question("Who won the football cup in Brazil?"))
        followed = await events(
            composed, question(ASKED, Turn("assistant", text_of(seen)), "Does it take dogs?")
        )
        thanks = await events(composed, question("Thanks!"))
        off = await events(composed, question(ASKED, search=False))
    assert text_of(seen).startswith(
        f"{LABEL}\n\n- The ferry to Holm leaves at 7:40 every morning. [1]"
    )
    assert text_of(refined) == text_of(seen)
    cited = [event for event in seen if isinstance(event, Citation)]
    assert cited[0].source.file_name == "ferry.md"
    assert text_of(seen)[: cited[0].index].endswith("[1]")
    assert text_of(refused) == REFUSAL
    assert "Dogs travel free. [1]" in text_of(followed)
    assert text_of(thanks) == text_of(off) == ONLY_QUOTES


async def test_without_a_model_and_documents_it_says_so(tmp_path: Path) -> None:
    """Nothing is made up."""
    async with engine(tmp_path) as composed:
        assert text_of(await events(composed, question(ASKED))) == NO_DOCUMENTS


async def test_new_documents_are_answered_from_without_a_restart(
    documents: Path, tmp_path: Path
) -> None:
    """An ingestion publishes a revision, and the next answer names it."""
    async with engine(tmp_path, data=documents) as composed:
        write_files(documents, {"lido.md": "The lido opens at ten."})
        report = await composed.ingest(documents)
        seen = await events(composed, question("When does the lido open?"))
        assert composed.index.revision == report.revision == 2
    assert isinstance(seen[1], Sources)
    assert seen[1].index_revision == 2
    assert "The lido opens at ten." in text_of(seen)


async def test_readiness_names_what_is_missing(documents: Path, tmp_path: Path) -> None:
    """A folder that was named and not read yet; an empty folder is ready once it was looked at."""
    composed = await load_engine(Settings(state_dir=tmp_path, data=documents, embed_model="none"))
    assert "documents" in composed.readiness()
    await composed.ingest(documents)
    assert composed.readiness() == {}
    await composed.aclose()
    empty = tmp_path / "empty"
    empty.mkdir()
    composed = await load_engine(
        Settings(state_dir=tmp_path / "other", data=empty, embed_model="none")
    )
    await composed.ingest(empty)
    assert composed.readiness() == {}
    await composed.aclose()


@asynccontextmanager
async def small(state: Path, upstream: Upstream, documents: Path) -> AsyncIterator[RagEngine]:
    """An engine that takes the scripted model for a small one."""
    async with engine(state, data=documents) as composed:
        tokens = OpenAICompatible(upstream.url, ["scripted"])
        profile = Profile.small(640)
        answering = RagEngine(composed.index, tokens, Settings(state_dir=state), profile=profile)
        yield answering
        await tokens.aclose()


async def test_the_documents_own_words_stand_below_a_small_models_answer(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """They are cited, and the model never reads them again as something that it said."""
    upstream.queue(Script(tokens=["At ", "7:40."]), Script(tokens=["No."]))
    async with small(tmp_path, upstream, documents) as composed:
        seen = await events(composed, question(ASKED))
        said = text_of(seen)
        answer, quotes = said.split(QUOTES)
        assert answer == "At 7:40."
        assert quotes.startswith("\n\n- The ferry to Holm leaves at 7:40 every morning. [1]")
        assert any(isinstance(event, Citation) for event in seen)
        turns = [Turn("user", ASKED), Turn("assistant", said), Turn("user", "And dogs?")]
        await events(composed, question(*turns))
    first, second = (request.messages for request in upstream.requests)
    assert "leaves at 7:40" in first[-1]["content"]
    assert "<passage" not in first[-1]["content"]
    assert [message["content"] for message in second if message["role"] == "assistant"] == [
        "At 7:40."
    ]


async def test_a_small_models_prompt_begins_as_it_did_last_time(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """So it reads only what is new: no sentence twice, whatever else was asked in between."""
    asks = (ASKED, "And dogs?", "Thanks!", "Where is lost luggage kept?", "When does that open?")
    turns: list[Turn] = []
    async with small(tmp_path, upstream, documents) as composed:
        for ask in asks:
            upstream.queue(Script(tokens=["Yes", "."]))
            turns.append(Turn("user", ask))
            seen = await events(composed, question(*turns))
            turns.append(Turn("assistant", text_of(seen)))
    prompts = [request.messages for request in upstream.requests]
    assert len(prompts) == len(asks)
    for before, after in pairwise(prompts):
        answered = {"role": "assistant", "content": "Yes."}
        assert after[: len(before) + 1] == [*before, answered]
    last = "".join(message["content"] for message in prompts[-1])
    assert last.count("leaves at 7:40") == 1
    assert last.count("Lost luggage is kept in shed four.") == 1


async def test_a_small_models_prompt_that_grows_too_long_begins_again(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """With the exchange before, and with the sentences that the new question needs."""
    long_ago = [Turn("user", ASKED), Turn("assistant", "It leaves early. " * 300)]
    lately = [Turn("user", "Thanks!"), Turn("assistant", "You are welcome.")]
    upstream.queue(Script(tokens=["Yes."]))
    async with small(tmp_path, upstream, documents) as composed:
        await events(composed, question(*long_ago, *lately, Turn("user", ASKED)))
    _, *said = upstream.requests[0].messages
    assert [message["content"] for message in said[:2]] == ["Thanks!", "You are welcome."]
    assert "leaves at 7:40" in said[2]["content"]
    assert len(said) == 3


async def test_a_small_models_answer_that_was_cut_off_by_a_limit_ends_there(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """Nothing is put behind a sentence that is not whole."""
    upstream.queue(Script(tokens=["At "], finish_reason="length"))
    async with small(tmp_path, upstream, documents) as composed:
        seen = await events(composed, question(ASKED))
    assert text_of(seen) == "At "
    assert seen[-1] == LimitReached("max_output_tokens")


async def test_embedding_that_fails_leaves_the_words(
    upstream: Upstream, documents: Path, tmp_path: Path
) -> None:
    """Hybrid search goes on by words; dense search, which was asked for by name, does not."""
    with embeddings_server() as server:
        async with engine(
            tmp_path, upstream, data=documents, embed_url=server.url, embed_model="words"
        ) as composed:
            server.status = 500
            seen = await events(composed, question(ASKED))
            with pytest.raises(EngineError):
                await events(composed, question(ASKED, mode="dense"))
    assert text_of(seen).startswith("w0")
    assert isinstance(seen[1], Sources)
    assert seen[1].sources[0].file_name == "ferry.md"


async def test_llama_index_objects_take_the_place_of_servers(
    documents: Path, tmp_path: Path
) -> None:
    """An LLM and an embedding of LlamaIndex are all that an application has to bring."""
    models = {"llm": MockLLM(max_tokens=5), "embed_model": WordEmbedding()}
    async with engine(tmp_path, data=documents, models=models) as composed:
        asked = replace(question(ASKED, mode="dense"), model=composed.models[0])
        seen = await events(composed, asked)
    assert kinds(seen)[:2] == ["Searching", "Sources"]
    assert text_of(seen)


async def test_questions_are_answered_while_vectors_are_made(
    documents: Path, tmp_path: Path
) -> None:
    """The texts alone make a fresh server ready; the vectors that come later are taken up."""
    with embeddings_server() as server:
        server.gate.clear()
        settings = Settings(
            state_dir=tmp_path, data=documents, embed_url=server.url, embed_model="words"
        )
        late = LateEngine(settings)

        async def ask() -> tuple[int, str]:
            seen = [event async for event in late.answer(question(ASKED))]
            assert isinstance(seen[1], Sources)
            return seen[1].index_revision, text_of(seen)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late.load)
            revision, answer = await ask()
            assert late.readiness() == {}
            assert revision == 1
            assert "7:40" in answer
            server.gate.set()
            with anyio.fail_after(30):
                while revision == 1:
                    await anyio.sleep(0.05)
                    revision, answer = await ask()
            tasks.cancel_scope.cancel()
    assert revision == 2
    assert "7:40" in answer
    assert ASKED in server.texts


async def test_the_loop_stays_free_while_the_engine_is_loaded(tmp_path: Path) -> None:
    """In a fresh process, ticks go on while LlamaIndex is imported."""
    code = (
        "import anyio, sys, time\n"
        "from pathlib import Path\n"
        "from ragsocket.engine.load import load_engine\n"
        "from ragsocket.settings import Settings\n"
        "assert 'llama_index' not in sys.modules\n"
        "ticks = 0\n"
        "async def tick():\n"
        "    global ticks\n"
        "    while True:\n"
        "        await anyio.sleep(0.005)\n"
        "        ticks += 1\n"
        "async def main():\n"
        "    async with anyio.create_task_group() as tasks:\n"
        "        tasks.start_soon(tick)\n"
        "        engine = await load_engine(Settings(state_dir=Path(sys.argv[1])))\n"
        "        await engine.aclose()\n"
        "        tasks.cancel_scope.cancel()\n"
        "anyio.run(main)\n"
        "assert 'llama_index.core' in sys.modules\n"
        "print(ticks)\n"
    )
    done = await anyio.run_process([sys.executable, "-c", code, str(tmp_path)])
    assert int(done.stdout) >= 5
