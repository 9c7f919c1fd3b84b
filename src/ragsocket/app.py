"""The whole assembly: `create_app` puts engine, history, runner and doors together."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from ragsocket import __version__
from ragsocket.engine.base import Engine
from ragsocket.engine.late import LateEngine
from ragsocket.engine.models.choice import local_model
from ragsocket.errors import RequestError
from ragsocket.protocol import specification
from ragsocket.protocol.errors import ErrorCode
from ragsocket.responses.asking import Defaults
from ragsocket.responses.event_log import Bounds
from ragsocket.responses.faults import our_fault
from ragsocket.responses.history import History
from ragsocket.responses.runner import Runner
from ragsocket.settings import Settings
from ragsocket.transports import (
    chat_completions,
    conversations,
    files,
    page,
    questions,
    responses,
    vector_stores,
    websocket,
)
from ragsocket.transports.guard import LOOPBACK_ORIGIN, Guard
from ragsocket.transports.stream import ERRORS, error_response

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import LLM

DESCRIPTION = """The HTTP doors. The sockets, `/ws` and `/v1/responses`, are described by
`/asyncapi.json`, and every frame of theirs by `/schema.json`.

An answer may be asked at one door, followed at another and stopped at a third. Every error has
the same shape: `error.code` for programs, `error.message` for people, `error.param` for the
field."""

OWNER = "local"
"""Who everything belongs to as long as nobody authenticates."""


def create_app(
    settings: Settings | None = None,
    *,
    llm: LLM | None = None,
    embed_model: BaseEmbedding | None = None,
    engine: Engine | None = None,
) -> FastAPI:
    """Assemble the application.

    Args:
        settings: the operator's choices; None reads environment and `ragsocket.toml`.
        llm: any LlamaIndex LLM to use in place of `settings.llm_url`.
        embed_model: any LlamaIndex embedding to use in place of `settings.embed_url`.
        engine: an engine of your own in place of everything that this package would load.

    Raises:
        ConfigError: the settings cannot work; the message names the fix.
    """
    settings = settings or Settings()
    settings.check()
    if engine is None and llm is None:
        # Refuses now what could only fail later.
        local_model(settings)
    guard = Guard.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        answering = engine or LateEngine(settings, llm=llm, embed_model=embed_model)
        async with (
            History.open(
                settings.history_url,
                lease=secrets.token_hex(8),
                timeout_s=settings.commit_timeout_s,
                pool_size=settings.database_pool_size,
                patience_s=settings.database_wait_s,
            ) as history,
            _background() as tasks,
            Runner.open(
                answering,
                history,
                commit_timeout_s=settings.commit_timeout_s,
                defaults=Defaults(
                    search=settings.search == "auto",
                    similarity_top_k=settings.similarity_top_k,
                    max_output_tokens=settings.max_output_tokens,
                ),
                bounds=Bounds(
                    events=settings.replay_events,
                    bytes=settings.replay_bytes,
                    ended_s=settings.replay_s,
                    ended=settings.replay_answers,
                    ended_bytes=settings.replay_total_bytes,
                ),
            ) as runner,
        ):
            app.state.runner = runner
            if isinstance(answering, LateEngine):
                app.state.documents = lambda: answering.documents
                # The port is open while the heavy imports and the first ingestion go on.
                tasks.start_soon(answering.load)
            yield

    app = FastAPI(
        title="ragsocket",
        summary="Ask your own documents, streamed token by token, and stop the answer at once.",
        description=DESCRIPTION,
        version=__version__,
        license_info={"name": "MIT"},
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.connections = websocket.Connections()

    async def let_in(request: Request) -> None:
        guard.check(request)

    doors = APIRouter(dependencies=[Depends(let_in)], responses=ERRORS)
    doors.include_router(_operations())
    doors.include_router(page.router())
    doors.include_router(questions.router(OWNER))
    doors.include_router(chat_completions.router(OWNER))
    doors.include_router(responses.router(OWNER))
    doors.include_router(conversations.router(OWNER))
    if engine is None:
        # Files are the composed engine's; another keeps its own in its own way.
        doors.include_router(files.router(OWNER))
        doors.include_router(vector_stores.router(OWNER))
    app.include_router(doors)
    _add_sockets(app, guard)
    _add_error_answers(app)
    if settings.allowed_origins or guard.loopback:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_origin_regex=LOOPBACK_ORIGIN if guard.loopback else None,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Response-Id"],
        )
    return app


@asynccontextmanager
async def _background() -> AsyncIterator[TaskGroup]:
    """Own the tasks that live as long as the application, and end them with it."""
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


def _add_sockets(app: FastAPI, guard: Guard) -> None:
    def endpoint(*, remembers: bool) -> Any:
        async def talk(socket: WebSocket) -> None:
            state = app.state
            await websocket.serve(
                socket,
                state.runner,
                state.settings,
                guard,
                state.connections,
                owner=OWNER,
                remembers=remembers,
            )

        return talk

    # Starlette's own routes: a socket's frames are decoded in one place, not by parameters.
    app.router.routes.append(WebSocketRoute("/ws", endpoint(remembers=True)))
    app.router.routes.append(WebSocketRoute("/v1/responses", endpoint(remembers=False)))


def _operations() -> APIRouter:
    """Return the probes and the documentation."""
    doors = APIRouter()

    @doors.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Tell that the process lives."""
        return {"status": "alive", "version": __version__}

    @doors.get(
        "/readyz",
        tags=["operations"],
        responses={503: {"description": "Not ready; `missing` says what is."}},
    )
    async def readyz(request: Request) -> Response:
        """Tell whether questions can be answered; 503 and what is missing if not."""
        runner: Runner = request.app.state.runner
        missing = {**runner.engine.readiness(), **await runner.history.readiness()}
        if runner.draining:
            missing["server"] = "shutting down"
        status = "not ready" if missing else "ready"
        body = {"status": status, "missing": missing, "models": list(runner.engine.models)}
        return JSONResponse(body, status_code=503 if missing else 200)

    # Not async: the documents take too long to make for the loop.
    @doors.get("/openapi.json", include_in_schema=False)
    def openapi(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    @doors.get("/asyncapi.json", include_in_schema=False)
    def asyncapi(request: Request) -> Response:
        return JSONResponse(specification.asyncapi(__version__, request.url.netloc))

    @doors.get("/schema.json", include_in_schema=False)
    def schema() -> Response:
        return JSONResponse(specification.json_schema(), media_type="application/schema+json")

    @doors.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="ragsocket")

    return doors


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_request: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        finding = error.errors()[0]
        param = str(finding["loc"][-1])
        missing = finding["type"] == "missing"
        message = f"{param} is missing." if missing else f"{param}: {finding['msg']}."
        return error_response(RequestError(ErrorCode.INVALID_EVENT, message, param=param))

    @app.exception_handler(HTTPException)
    async def no_door(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            code = ErrorCode.METHOD_NOT_ALLOWED
            message = f"{request.method[:16]} is not for this path; see /docs."
        else:
            code, message = ErrorCode.NOT_FOUND, "there is nothing at this path; see /docs."
        return error_response(
            RequestError(code, message, status=error.status_code), headers=error.headers
        )

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        return error_response(our_fault(error))
