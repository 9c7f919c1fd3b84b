"""`/v1/conversations`: begin, list and search, read, rename, add to, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response as HttpResponse

from ragsocket.protocol.conversations import (
    Conversation,
    ConversationCreate,
    ConversationDeleted,
    ConversationList,
    ConversationUpdate,
    ItemsCreate,
)
from ragsocket.protocol.listing import RESULTS, Item, ItemList
from ragsocket.responses.conversations import Conversations
from ragsocket.responses.runner import Runner
from ragsocket.transports.listing import Included, Paging
from ragsocket.transports.stream import as_json, described, read_model

ConversationId = Annotated[str, Path(description="The conversation, `conv_…`.")]
ItemId = Annotated[str, Path(description="The item, as it was listed.")]
Search = Annotated[
    str | None,
    Query(
        max_length=200,
        description="Words that each stand in the title, or in what was asked or answered.",
    ),
]


def router(owner: str) -> APIRouter:
    """Return the doors; the runner is taken from the application's state."""
    doors = APIRouter(
        prefix="/v1/conversations", tags=["conversations"], default_response_class=HttpResponse
    )
    one, items, item = (
        "/{conversation_id}",
        "/{conversation_id}/items",
        "/{conversation_id}/items/{item_id}",
    )

    def conversations(request: Request) -> Conversations:
        runner: Runner = request.app.state.runner
        return Conversations(runner.lineage, owner, model=runner.model(None))

    @doors.post(
        "",
        responses={200: {"model": Conversation}},
        openapi_extra=described(ConversationCreate),
    )
    async def create(request: Request) -> HttpResponse:
        """Begin a conversation, empty or with what was said before it."""
        asked = await read_model(request, ConversationCreate)
        return as_json(await conversations(request).create(asked.metadata, asked.items or ()))

    @doors.get("", responses={200: {"model": ConversationList}})
    async def search(request: Request, part: Paging, q: Search = None) -> HttpResponse:
        """List the conversations by the time of the last question or answer, or search them.

        A search also finds what an edit or a new answer has left behind.
        """
        some, more = await conversations(request).search(part, q)
        return as_json(ConversationList.of(some, has_more=more))

    @doors.get(one, responses={200: {"model": Conversation}})
    async def read(request: Request, conversation_id: ConversationId) -> HttpResponse:
        """Read a conversation: its title, its head, and the responses that are not finished.

        One that a socket was greeted with is there from its first question on.
        """
        return as_json(await conversations(request).get(conversation_id))

    @doors.post(
        one,
        responses={200: {"model": Conversation}},
        openapi_extra=described(ConversationUpdate),
    )
    async def update(request: Request, conversation_id: ConversationId) -> HttpResponse:
        """Rename a conversation, or keep something else with it."""
        asked = await read_model(request, ConversationUpdate)
        return as_json(await conversations(request).update(conversation_id, asked.metadata))

    @doors.delete(one, responses={200: {"model": ConversationDeleted}})
    async def delete(request: Request, conversation_id: ConversationId) -> HttpResponse:
        """Delete a conversation with everything that was said in it; what runs is stopped.

        Responses outside that go on from one of its keep their own words.
        """
        await conversations(request).delete(conversation_id)
        return as_json(ConversationDeleted(id=conversation_id))

    @doors.get(items, responses={200: {"model": ItemList}})
    async def list_items(
        request: Request, conversation_id: ConversationId, part: Paging, include: Included
    ) -> HttpResponse:
        """List the items of a conversation: the walk back from its head.

        What an edit or a new answer has left behind is not among them; look it up by response.
        """
        some, more = await conversations(request).items(
            conversation_id, part, with_results=RESULTS in include
        )
        return as_json(ItemList.of(some, has_more=more))

    @doors.post(items, responses={200: {"model": ItemList}}, openapi_extra=described(ItemsCreate))
    async def add_items(
        request: Request, conversation_id: ConversationId, include: Included
    ) -> HttpResponse:
        """Add items to the end of a conversation; this waits until no response runs in it."""
        asked = await read_model(request, ItemsCreate)
        added = await conversations(request).add(
            conversation_id, asked.items, with_results=RESULTS in include
        )
        return as_json(ItemList.of(added, has_more=False))

    @doors.get(item, responses={200: {"model": Item}})
    async def read_item(
        request: Request, conversation_id: ConversationId, item_id: ItemId, include: Included
    ) -> HttpResponse:
        """Read one item of a conversation."""
        found = await conversations(request).item(
            conversation_id, item_id, with_results=RESULTS in include
        )
        return as_json(found)

    @doors.delete(item, responses={200: {"model": Conversation}})
    async def delete_item(
        request: Request, conversation_id: ConversationId, item_id: ItemId
    ) -> HttpResponse:
        """Forget one item: it leaves the conversation and the response that it belongs to.

        Items from before the conversation, of a response that it goes on from, are refused.
        """
        return as_json(await conversations(request).remove(conversation_id, item_id))

    return doors
