"""The web application (ASGI): `POST /v1/completions`, `GET /v1/models`, `GET /health`, and the
model's page at `/`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.serving.answers import Completion
from shakespeare_lm.serving.engine import Engine
from shakespeare_lm.serving.request import RequestError, error_body, parse_request

_MAX_BODY_BYTES = 1 << 20
_SECONDS_FOR_A_BODY = 30.0
_SECONDS_BETWEEN_CHECKS = 0.1  # whether the client is still connected
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass
class Server:
    """Answers requests to one model; `build_app` makes it an application."""

    completer: Completer
    engine: Engine
    name: str  # of the model, as clients ask for it
    page: str = ""  # HTML for `/`
    no_page: str = "this model has no page"  # the answer there without HTML
    max_tokens: int = 4096  # the most characters of a completion
    unknown: Unknown = "error"
    hosts: tuple[str, ...] = LOOPBACK  # names that it is asked by; `*` for all
    log: Callable[[str], None] = lambda line: None  # is called with a line about each request

    def __post_init__(self) -> None:
        # One prompt is scored at a time, however many ask.
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._model = {"id": self.name, "object": "model", "created": 0, "owned_by": "you"}

    def build_app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._one_model),
                Route("/health", self._health),
                Route("/", self._page),
            ],
            middleware=[
                Middleware(_logged, self.log),
                Middleware(TrustedHostMiddleware, allowed_hosts=list(self.hosts)),
            ],
            exception_handlers={HTTPException: _error, Exception: _error},
        )

    async def _health(self, request: Request) -> Response:
        if not self.engine.is_running:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def _page(self, request: Request) -> Response:
        if not self.page:
            raise HTTPException(404, self.no_page)
        return HTMLResponse(self.page)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model]})

    async def _one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model)

    async def _chat(self, request: Request) -> Response:
        message = (
            f"{self.name!r} is not a chat model: it continues a text. Use POST /v1/completions, "
            "client.completions.create(model=..., prompt=...)"
        )
        raise RequestError(message, 404, "model")

    async def _complete(self, request: Request) -> Response:
        asked = parse_request(await _body(request), self.max_tokens)
        self._check_model(asked.model)
        completion = Completion(self.completer, asked, self.unknown, self._scoring)
        request.state.completion = completion  # for the log
        if asked.max_tokens:
            self._submit(completion)
        if asked.stream:
            return StreamingResponse(
                completion.events(), media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        answer = await _unless_disconnected(request, completion)
        return Response(status_code=499) if answer is None else JSONResponse(answer)

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"the model {name[:80]!r} does not exist; there is {self.name!r}"
            raise RequestError(message, 404, "model", "model_not_found")

    def _submit(self, completion: Completion) -> None:
        texts, most = len(completion.streams), self.engine.max_waiting
        if texts > most:  # trying again later would not help
            message = f"prompt and n ask for {texts} texts: must be at most {most}"
            raise RequestError(message, param="prompt")
        if self.engine.submit(completion.streams):
            return
        if self.engine.is_running:
            raise RequestError(
                "too many requests are waiting: try again later", 429, None, "queue_full"
            )
        raise RequestError("the server is stopping", 503)


def _logged(app: ASGIApp, log: Callable[[str], None]) -> ASGIApp:
    """Return the application with one line in the log per answered request: method, path, status,
    milliseconds and characters made. The last two are missing in uvicorn's own log.
    """

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        start, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await app(scope, receive, watched)
        finally:
            if scope["type"] == "http":
                path = scope["raw_path"][:200].decode()  # ASCII: still percent-encoded
                took = f"{1000 * (time.monotonic() - start):.0f} ms"
                completion: Completion | None = scope.get("state", {}).get("completion")
                made = f" {completion.made} characters" if completion else ""
                log(f"{scope['method']} {path} {status} {took}{made}")

    return logged


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
        raise RequestError("the body did not arrive in time", 408) from None
    return bytes(body)


async def _unless_disconnected(request: Request, completion: Completion) -> dict[str, Any] | None:
    """Return the answer, or None if the client disconnects, which cancels the work."""
    answer = asyncio.ensure_future(completion.whole())
    try:
        while not (await asyncio.wait([answer], timeout=_SECONDS_BETWEEN_CHECKS))[0]:
            if await request.is_disconnected():
                return None
        return answer.result()
    finally:
        completion.cancel()
        answer.cancel()


async def _error(request: Request, error: Exception) -> Response:
    """Answer in OpenAI's form; an error that is not HTTP's is a mistake of this program."""
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    return JSONResponse(error_body(error), status, headers)
