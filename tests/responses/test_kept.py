"""What is kept of conversations, driven at random against a model of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsocket.engine.base import EngineEvent, Question, TextDelta
from ragsocket.errors import RequestError
from ragsocket.protocol.client_events import ResponseCreate
from ragsocket.protocol.input_items import InputMessage
from ragsocket.protocol.listing import Message, Part
from ragsocket.responses.conversations import Conversations
from ragsocket.responses.history import History
from ragsocket.responses.kept import Kept
from ragsocket.responses.runner import Runner
from ragsocket.responses.running import Conversation


class Echo:
    """An engine that answers every question with its number, and remembers what it was told."""

    models: Sequence[str] = ("echo",)

    def __init__(self) -> None:
        self.told: list[str] = []

    async def answer(self, question: Question) -> AsyncGenerator[EngineEvent]:
        """Answer."""
        self.told = [turn.text for turn in question.turns]
        yield TextDelta(f"a{self.told[-1]}")

    def readiness(self) -> Mapping[str, str]:
        """Nothing is missing."""
        return {}


@dataclass
class Node:
    """A response as it should be."""

    id: str
    parent: Node | None
    conversation: int | None
    texts: list[str]
    forgotten: bool = False


@dataclass
class World:
    """Two conversations and every response, as they should be."""

    nodes: list[Node] = field(default_factory=list)
    heads: dict[int, Node | None] = field(default_factory=dict)

    def walk(self, node: Node | None) -> list[str]:
        """Return what was said up to and including a response."""
        texts: list[str] = []
        while node is not None:
            texts[:0] = node.texts
            node = node.parent
        return texts

    def standing(self, node: Node | None) -> Node | None:
        """Return the newest response from here back that is not forgotten."""
        while node is not None and node.forgotten:
            node = node.parent
        return node

    def forget(self, node: Node) -> None:
        """Forget a response."""
        node.forgotten, node.texts = True, []
        for conversation, head in self.heads.items():
            if head is node:
                self.heads[conversation] = self.standing(node.parent)


@dataclass
class Keeping:
    """The world beside the real thing; somebody holds the first conversation, as a lane does."""

    runner: Runner
    engine: Echo
    conversations: Conversations
    kept: Kept
    names: dict[int, str] = field(default_factory=dict)
    world: World = field(default_factory=World)
    numbers: count[int] = field(default_factory=count)
    held: Conversation | None = None

    async def begin(self, conversation: int) -> None:
        """Begin a conversation."""
        begun = await self.conversations.create(None, ())
        self.names[conversation], self.world.heads[conversation] = begun.id, None
        if conversation == 0:
            self.held = self.runner.lineage.conversation(begun.id, "local")

    async def ask(self, conversation: int | None, pick: int) -> None:
        """Ask in a conversation, outside of both, or after any response there is."""
        left = [node for node in self.world.nodes if not node.forgotten]
        # Sometimes after none of them, which is what most people do.
        after = dict(enumerate(left)).get(pick)
        number = str(next(self.numbers))
        run = self.runner.create(
            ResponseCreate(
                input=number,
                conversation=None if conversation is None else self.names[conversation],
                previous_response_id=after and after.id,
            ),
            owner="local",
            grace_s=30,
        )
        await run.done.wait()
        parent = after
        if after is None and conversation is not None:
            parent = self.world.heads[conversation]
        node = Node(run.id, parent, conversation, [number, f"a{number}"])
        assert self.engine.told == [*self.world.walk(parent), number]
        assert run.response.previous_response_id == (parent and parent.id)
        self.world.nodes.append(node)
        if conversation is not None:
            self.world.heads[conversation] = node

    async def add(self, conversation: int, pick: int) -> None:
        """Add one or two messages to a conversation."""
        texts = [str(next(self.numbers)) for _ in range(pick % 2 + 1)]
        items = [InputMessage(role="user", content=text) for text in texts]
        await self.conversations.add(self.names[conversation], items)
        head = (await self.conversations.get(self.names[conversation])).ragsocket.head
        assert head is not None
        node = Node(head, self.world.heads[conversation], conversation, texts)
        self.world.nodes.append(node)
        self.world.heads[conversation] = node

    async def forget(self, conversation: int, pick: int) -> None:
        """Forget one of the responses, whichever conversation it is of."""
        if self.world.nodes:
            node = self.world.nodes[pick % len(self.world.nodes)]
            try:
                await self.kept.forget(node.id)
            except RequestError as error:
                assert error.status == 404
                assert node.forgotten
            else:
                assert not node.forgotten
                self.world.forget(node)

    async def remove(self, conversation: int, pick: int) -> None:
        """Take one item out of a conversation, if it is its own."""
        name = self.names[conversation]
        items, _ = await self.conversations.items(name, Part(limit=100, descending=False))
        if not items:
            return
        item = items[pick % len(items)]
        assert isinstance(item, Message)
        assert item.id is not None
        text = item.content[0].text  # type: ignore[union-attr]
        [node] = [node for node in self.world.nodes if text in node.texts]
        try:
            await self.conversations.remove(name, item.id)
        except RequestError as error:
            assert error.code == "item_elsewhere"
            assert node.conversation != conversation
        else:
            assert node.conversation == conversation
            node.texts.remove(text)

    async def delete(self, conversation: int, pick: int) -> None:
        """Delete a conversation, and begin another in its place."""
        if pick:
            return
        await self.conversations.delete(self.names[conversation])
        for node in self.world.nodes:
            if node.conversation == conversation:
                self.world.forget(node)
        await self.begin(conversation)

    async def check(self) -> None:
        """Compare what is listed, from both ends and in parts, and what is found."""
        for conversation, name in self.names.items():
            head = self.world.heads[conversation]
            expected = self.world.walk(head)
            assert await self.texts(name, limit=3, descending=False) == expected
            assert await self.texts(name, limit=100, descending=True) == expected[::-1]
            found = await self.conversations.get(name)
            assert found.ragsocket.head == (head and head.id)
            its = [node for node in self.world.nodes if node.conversation == conversation]
            questions = [text for node in its for text in node.texts if not text.startswith("a")]
            assert found.ragsocket.title in [*questions, None]
            assert (found.ragsocket.title is None) == (not questions)

    async def texts(self, name: str, *, limit: int, descending: bool) -> list[str]:
        """Return the texts of a conversation, read in parts."""
        texts, page = [], Part(limit=limit, descending=descending)
        while True:
            items, more = await self.conversations.items(name, page)
            for item in items:
                assert isinstance(item, Message)
                texts += [part.text for part in item.content]  # type: ignore[union-attr]
            if not more:
                return texts
            page = Part(items[-1].id, limit, descending)


@pytest.fixture(scope="module")
def once(empty: Callable[[str], str]) -> Callable[[str], str]:
    """Gives one database of each kind."""
    return cache(empty)


STEPS = st.tuples(
    st.sampled_from(("ask", "ask", "ask", "outside", "add", "forget", "remove", "delete")),
    st.sampled_from((0, 1)),
    st.integers(0, 7),
)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@given(steps=st.lists(STEPS, max_size=14))
@settings(max_examples=15, deadline=None)
def test_what_is_kept_is_what_was_said_and_not_forgotten(
    kind: str, once: Callable[[str], str], steps: list[tuple[str, int, int]]
) -> None:
    """Every prompt and every list is the walk back from where it begins, without what went.

    Two conversations are asked in, branched from each other, added to, forgotten from, emptied
    item by item and deleted, in any order; before and after a restart it is the same.
    """

    async def scenario() -> None:
        # The same for every example: none knows the names of another.
        url = once(kind)
        engine = Echo()

        async def opened(stack: AsyncExitStack) -> Runner:
            history = await stack.enter_async_context(History.open(url, lease="one"))
            return await stack.enter_async_context(Runner.open(engine, history))

        async with AsyncExitStack() as stack:
            runner = await opened(stack)
            keeping = Keeping(
                runner,
                engine,
                Conversations(runner.lineage, "local", model=runner.model(None)),
                Kept(runner.lineage, "local"),
            )
            await keeping.begin(0)
            await keeping.begin(1)
            for name, conversation, pick in steps:
                if name == "outside":
                    await keeping.ask(None, pick)
                else:
                    await getattr(keeping, name)(conversation, pick)
            await keeping.check()
        async with AsyncExitStack() as stack:
            keeping.runner = runner = await opened(stack)
            keeping.conversations = Conversations(runner.lineage, "local", model=runner.model(None))
            keeping.kept = Kept(runner.lineage, "local")
            await keeping.check()
            await keeping.ask(0, 99)
            await keeping.check()

    anyio.run(scenario)


async def test_what_happens_at_once_is_one_after_the_other(database: str) -> None:
    """Asked in, added to and forgotten from by many at once, a conversation loses nothing else.

    Every response that was not forgotten is on the walk, once, and in the next prompt.
    """
    engine = Echo()
    async with (
        History.open(database, lease="one") as history,
        Runner.open(engine, history) as runner,
    ):
        conversations, kept = (
            Conversations(runner.lineage, "local", model=runner.model(None)),
            Kept(runner.lineage, "local"),
        )
        name = (await conversations.create(None, ())).id
        expected: set[str] = set()

        async def ask(number: int) -> None:
            text = f"{number}"
            request = ResponseCreate(input=text, conversation=name)
            run = runner.create(request, owner="local", grace_s=30)
            await run.done.wait()
            assert run.response.status == "completed"
            if number % 3:
                expected.update((text, f"a{text}"))
            else:
                await kept.forget(run.id)

        async def add(number: int) -> None:
            text = f"added {number}"
            await conversations.add(name, [InputMessage(role="user", content=text)])
            expected.add(text)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(ask, number)
                tasks.start_soon(add, number)
        items, more = await conversations.items(name, Part(limit=100, descending=False))
        texts = [part.text for item in items for part in item.content]  # type: ignore[union-attr]
        assert not more
        assert len(texts) == len(set(texts))
        assert set(texts) == expected
        for number in range(12):
            if number % 3:
                assert texts.index(f"a{number}") == texts.index(f"{number}") + 1
        await ask(100)
        assert engine.told == [*texts, "100"]
