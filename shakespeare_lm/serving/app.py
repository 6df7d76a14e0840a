"""The web application (ASGI): `POST /v1/completions`, `GET /v1/models`, `GET /health`, and the
model's page at `/`.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.serving.answers import Completion, error_body
from shakespeare_lm.serving.engine import Engine, TooManyStreamsError
from shakespeare_lm.serving.request import RequestError, parse_request

_MAX_BODY_BYTES = 1 << 20
_SECONDS_FOR_A_BODY = 30.0


@dataclass(frozen=True)
class ServingConfig:
    """What the server does."""

    name: str  # of the model, as clients ask for it
    page: str = ""  # HTML for `/`
    max_tokens: int = 4096  # the most characters of a completion
    unknown: Unknown = "error"
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")  # `*` for all


def build_app(completer: Completer, engine: Engine, config: ServingConfig) -> Starlette:
    """Return the application; it closes the engine when it ends."""
    server = _Server(completer, engine, config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    return Starlette(
        routes=[
            Route("/v1/completions", server.complete, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.model),
            Route("/health", server.health),
            Route("/", server.page),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(config.hosts))],
        exception_handlers={
            RequestError: _request_error, HTTPException: _http_error, Exception: _own_error
        },
        lifespan=lifespan,
    )  # fmt: skip


class _Server:
    def __init__(self, completer: Completer, engine: Engine, config: ServingConfig) -> None:
        self.completer, self.engine, self.config = completer, engine, config
        # One prompt is scored at a time, however many ask.
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._model = {"id": config.name, "object": "model", "created": 0, "owned_by": "you"}

    async def health(self, request: Request) -> Response:
        if not self.engine.is_running:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def page(self, request: Request) -> Response:
        if not self.config.page:
            raise HTTPException(404, "this model has no page")
        return HTMLResponse(self.config.page)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model)

    def _check_model(self, name: str) -> None:
        if name != self.config.name:
            message = f"the model {name[:80]!r} does not exist; there is {self.config.name!r}"
            raise RequestError(message, 404, "model", "model_not_found")

    def _submit(self, completion: Completion) -> None:
        texts, most = len(completion.streams), self.engine.max_waiting
        if texts > most:  # trying again later would not help
            message = f"prompt and n ask for {texts} texts: expected at most {most}"
            raise RequestError(message, param="prompt")
        try:
            self.engine.submit(completion.streams)
        except TooManyStreamsError:
            if not self.engine.is_running:
                raise RequestError("the server is stopping", 503) from None
            message = "too many requests wait: try again later"
            raise RequestError(message, 429, None, "queue_full") from None

    async def complete(self, request: Request) -> Response:
        asked = parse_request(await _body(request), self.config.max_tokens)
        self._check_model(asked.model)
        completion = Completion(
            self.completer, asked, self.config.name, self.config.unknown, self._scoring
        )
        if asked.max_tokens:
            self._submit(completion)
        if asked.stream:
            return StreamingResponse(
                completion.events(), media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        answer = await _unless_gone(request, completion)
        return Response(status_code=499) if answer is None else JSONResponse(answer)


async def _body(request: Request) -> bytes:
    """Return the body; refuse one that is too long or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which pages of other sites cannot send unasked
        raise RequestError("Content-Type must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_BODY):
            async for part in request.stream():
                body += part
                if len(body) > _MAX_BODY_BYTES:
                    raise RequestError(f"the body is longer than {_MAX_BODY_BYTES:,} bytes", 413)
    except (TimeoutError, ClientDisconnect):
        raise RequestError("the body did not come in time", 408) from None
    return bytes(body)


async def _unless_gone(request: Request, completion: Completion) -> dict[str, Any] | None:
    """Return the answer; None if the client goes away, which ends the work."""
    answer = asyncio.ensure_future(completion.whole())
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        completion.cancel()
        for future in (answer, gone):
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    # A lone surrogate, which JSON can name, cannot be sent back.
    message = error.message.encode("utf-8", "backslashreplace").decode()
    body = error_body(message, "invalid_request_error", error.param, error.code)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(body, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(error.detail, "invalid_request_error", None, None)
    return JSONResponse(body, error.status_code, error.headers)


async def _own_error(request: Request, error: Exception) -> Response:
    return JSONResponse(error_body("the server failed", "server_error", None, None), 500)
