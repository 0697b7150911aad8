"""The HTTP application: OpenAI's endpoints, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from szilard.server.access import Keys, check_host
from szilard.server.errors import RequestError, invalid_request
from szilard.server.jobs import Event, Failed, Finished, Job, Step
from szilard.server.limits import BodyLimit
from szilard.server.measures import Measures
from szilard.server.replies import Answer, Replies
from szilard.server.scheduler import Scheduler
from szilard.server.schemas import ChatRequest, CompletionRequest
from szilard.server.service import Service

if TYPE_CHECKING:
    from szilard.decoding.method import Method
    from szilard.engines.engine import Engine
    from szilard.server.methods import Presets
    from szilard.server.settings import ServerSettings

_LOG = logging.getLogger("szilard.server")
_PAGE = Path(__file__).parent / "playground"
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The reply, or with stream: true its chunks.", "content": {"text/event-stream": {}}},
    400: {"description": "What is asked cannot be done: the message says why."},
    401: {"description": "No valid API key."},
    404: {"description": "No such model or method."},
    413: {"description": "Too large."},
    422: {"description": "A field is missing, unknown, or of another type or range."},
    429: {"description": "The queue is full: ask again after Retry-After seconds."},
    500: {"description": "The server's fault."},
    503: {"description": "The server is shutting down."},
}
_PAGE_FILES = {  # path -> file and its type
    "/": ("index.html", "text/html"),
    "/playground.css": ("playground.css", "text/css"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("playground", "answers", "connection", "elements", "pickers")
    },
}
_OPEN = {"/healthz", *_PAGE_FILES}  # without a key: they tell nothing of anybody
_DRAIN_SECONDS = 30.0
_SLOW_SECONDS = 60.0  # for which a reader of a stream may take nothing: its tokens are kept meanwhile


class Server:
    """A service, its scheduler and its counters."""

    def __init__(self, service: Service) -> None:
        self.settings = service.settings
        self.service = service
        self.scheduler = Scheduler(service.engine, service.settings)
        self.measures = Measures(self.scheduler)
        self.started = int(time.time())

    def described(self, name: str) -> dict[str, Any]:
        """A model as OpenAI's API tells of it."""
        return {"id": name, "object": "model", "created": self.started, "owned_by": "szilard"}


def create_app(
    engine: Engine,
    settings: ServerSettings,
    *,
    default: Method | None = None,
    name: str | None = None,
    keys: Keys | None = None,
    presets: Presets | None = None,
) -> FastAPI:
    """The application on an engine.

    Args:
        engine: the model; one thread of the application's own decodes on it.
        settings: limits.
        default: the method of requests that name none; None: plain decoding.
        name: under which the model is asked for.
        keys: that open the server.
        presets: hyperparameters by method that requests find set.
    """
    server = Server(Service(engine, settings, default, name, presets))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.scheduler.close, _DRAIN_SECONDS)

    app = FastAPI(title="szilard", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    _add_errors(app, server)
    _add_routes(app, server, keys or Keys([]))
    if settings.cors_origins:  # added last, so outermost: preflights carry no key, and errors are for pages, too
        from fastapi.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients send their own; no cookies are read
            expose_headers=["Retry-After"],
        )
    _add_names(app, server.service)
    return app


def _add_names(app: FastAPI, service: Service) -> None:
    """Which models and methods there are, in the OpenAPI document, too."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        found = plain()
        schemas = found["components"]["schemas"]
        for name in ("ChatRequest", "CompletionRequest"):
            schemas[name]["properties"]["model"]["enum"] = service.names()
        return found

    app.openapi = described  # type: ignore[method-assign]


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(RequestError)
    async def told(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = invalid_request(error)
        return JSONResponse(said.body(), said.status)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        said = RequestError(error.status_code, f"{error.detail}: see /openapi.json for what there is.")
        return JSONResponse(said.body(), error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> JSONResponse:
        _LOG.exception("a request failed", exc_info=error)
        return JSONResponse(RequestError(500, "the server failed; its log says more.").body(), 500)


def _add_routes(app: FastAPI, server: Server, keys: Keys) -> None:
    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            check_host(request.headers.get("host"), server.settings.hosts)
            if request.scope["path"] not in _OPEN:  # not `request.url`, which older releases make of the Host header
                keys.check(request.headers.get("authorization"))
        except RequestError as error:
            return JSONResponse(error.body(), error.status, error.headers)
        reply = await go_on(request)
        known = request.scope.get("route")
        server.measures.requests.labels(getattr(known, "path", "other"), str(reply.status_code)).inc()
        return reply

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the server decodes."""
        alive = server.scheduler.is_alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    @app.head("/healthz", include_in_schema=False)
    async def healthz_head() -> Response:
        return Response(status_code=200 if server.scheduler.is_alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(generate_latest(server.measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """The model, alone and with every method that it can run."""
        return {"object": "list", "data": [server.described(name) for name in server.service.names()]}

    @app.get("/v1/models/{name:path}", responses={404: _REPLIES[404]})
    def model(name: str) -> dict[str, Any]:
        """The model, or the model with a method, by its name."""
        found = next((own for own in server.service.names() if own.lower() == name.lower()), None)
        if found is None:
            raise RequestError(
                404, f"there is no model {name[:200]!r} here: see /v1/models.", param="model", code="model_not_found"
            )
        return server.described(found)

    @app.get("/v1/szilard/methods")
    def methods() -> dict[str, Any]:
        """The methods with their hyperparameters, and what the model reads."""
        own = server.service
        default = None if own.offered.default is None else own.offered.default.slug
        return {
            "model": own.name,
            "vision": "vision" in own.engine.provides,
            "chat": own.engine.has_chat_template,
            "default": default,
            "max_new_tokens": server.settings.max_new_tokens,
            "methods": own.offered.described(),
        }

    @app.post("/v1/chat/completions", responses=_REPLIES)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """A chat goes on."""
        made = server.service.chat_jobs
        count = server.service.choices(body)
        logprobs = bool(body.logprobs)
        return await _answer(server, request, body, count, count, made, chat=True, logprobs=logprobs)

    @app.post("/v1/completions", responses=_REPLIES)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        """A text goes on."""
        made = server.service.completion_jobs
        count = server.service.choices(body)
        logprobs = body.logprobs is not None
        total = count * len(server.service.prompts_of(body))
        return await _answer(server, request, body, total, count, made, chat=False, logprobs=logprobs)

    for path, (name, kind) in _PAGE_FILES.items():
        app.get(path, include_in_schema=False)(_file(_PAGE / name, kind))


def _file(path: Path, kind: str) -> Callable[[], Awaitable[FileResponse]]:
    """A route's function that replies with a file; browsers ask every time whether it has changed."""

    async def told() -> FileResponse:
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})

    return told


async def _answer(
    server: Server,
    request: Request,
    body: Any,
    total: int,
    per_prompt: int,
    made: Callable[[Any, list[Any]], list[Job]],
    *,
    chat: bool,
    logprobs: bool,
) -> Any:
    """Submit the jobs of a request and reply, whole or as a stream."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def teller(index: int) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, (index, event))

        return tell

    jobs = await asyncio.to_thread(made, body, [teller(index) for index in range(total)])
    replies = Replies(
        chat=chat,
        model=body.model,
        word=server.service.word,
        trace=body.szilard.trace,
        logprobs=logprobs,
    )
    prompt_tokens = sum(len(job.ids) for job in jobs[::per_prompt])
    if server.settings.log_prompts:
        _LOG.info("asked: %s", json.dumps(body.model_dump(exclude_none=True)))
    server.scheduler.submit(jobs)
    watched = _watched(server, events, jobs)
    if body.stream:
        totals = body.stream_options is not None and body.stream_options.include_usage
        chunks = _stream(server, watched, replies, len(jobs), prompt_tokens, chat=chat, totals=totals)
        return EventSourceResponse(
            chunks,
            sep="\n",
            headers={"Cache-Control": "no-store"},
            send_timeout=_SLOW_SECONDS,
            shutdown_grace_period=_DRAIN_SECONDS,
            background=BackgroundTask(_give_up, jobs),  # a stream that never began has nothing else that ends them
        )
    return await _whole(server, request, watched, replies, jobs, prompt_tokens)


async def _watched(
    server: Server, events: asyncio.Queue[tuple[int, Event]], jobs: list[Job]
) -> AsyncIterator[tuple[int, Event]]:
    """Events until every job is over; jobs are cancelled when nobody listens any more."""
    left = set(range(len(jobs)))
    began, first = jobs[0].entered, True
    try:
        while left:
            index, event = await events.get()
            if index not in left:
                continue
            if first:
                server.measures.first.observe(time.monotonic() - began)
                first = False
            if not isinstance(event, Step):
                left.discard(index)
            yield index, event
        server.measures.whole.observe(time.monotonic() - began)
    finally:
        for index in left:
            jobs[index].cancelled = True


async def _stream(
    server: Server,
    events: AsyncIterator[tuple[int, Event]],
    replies: Replies,
    count: int,
    prompt_tokens: int,
    *,
    chat: bool,
    totals: bool,
) -> AsyncIterator[dict[str, str]]:
    tokens = 0
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        if chat:
            for index in range(count):
                yield _sse(replies.first(index))
        async for index, event in events:
            if isinstance(event, Step):
                chunk = replies.piece(index, event)
                if chunk is not None:
                    yield _sse(chunk)
            elif isinstance(event, Finished):
                tokens += event.tokens
                yield _sse(replies.last(index, event))
            else:
                yield _sse(_failure(event).body())
                return
        server.measures.tokens.labels("prompt").inc(prompt_tokens)
        server.measures.tokens.labels("completion").inc(tokens)
        if totals:
            yield _sse(replies.totals(prompt_tokens, tokens))
        yield {"data": "[DONE]"}


async def _whole(
    server: Server,
    request: Request,
    events: AsyncIterator[tuple[int, Event]],
    replies: Replies,
    jobs: list[Job],
    prompt_tokens: int,
) -> dict[str, Any]:
    answers = [Answer() for _ in jobs]
    gone = asyncio.create_task(_gone(request, jobs))
    try:
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for index, event in events:
                if isinstance(event, Step):
                    answers[index].text += event.text
                    if replies.keeps_steps:
                        answers[index].steps.append(event)
                elif isinstance(event, Finished):
                    answers[index].end(event)
                else:
                    raise _failure(event)
    finally:
        gone.cancel()
    tokens = sum(answer.tokens for answer in answers)
    server.measures.tokens.labels("prompt").inc(prompt_tokens)
    server.measures.tokens.labels("completion").inc(tokens)
    return await asyncio.to_thread(replies.whole, answers, prompt_tokens)


async def _give_up(jobs: list[Job]) -> None:
    """Nobody waits for these any more."""
    for job in jobs:
        job.cancelled = True


async def _gone(request: Request, jobs: list[Job]) -> None:
    """Cancel the jobs when the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":  # waits: polling `is_disconnected` can lose it
        pass
    await _give_up(jobs)


def _failure(event: Failed) -> RequestError:
    return RequestError(event.status, event.message)


def _sse(chunk: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))}
