"""The web application (ASGI): `POST /v1/completions`, `GET /v1/models`, `GET /health`, and the
model's page at `/`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.errors import UserError
from shakespeare_lm.serving.answers import Completion
from shakespeare_lm.serving.connections import handle_loop_error
from shakespeare_lm.serving.engine import Engine
from shakespeare_lm.serving.request import RequestError, check_site, error_response, parse_request

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MAX_BODY_BYTES = 1 << 20


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
    hosts: Sequence[str] = LOOPBACK  # names that it is asked by; `*` for all
    origins: Sequence[str] = ()  # sites whose pages may use it
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
                Middleware(self._watched),
                Middleware(CORSMiddleware, self.origins, ["GET", "POST"], ["*"]),
            ],
            exception_handlers={HTTPException: _error, UserError: _error, Exception: _error},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(handle_loop_error)
        yield

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

    def _watched(self, app: ASGIApp) -> ASGIApp:
        """Return the application that refuses requests by pages of other sites, ends the work of
        each request with it, answered or not, and logs it in one line: method, path, status,
        milliseconds and characters made. The last two are missing in uvicorn's own log.
        """

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            start, status = time.monotonic(), 500

            async def noted(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            if scope["type"] != "http":
                return await app(scope, receive, send)
            try:
                check_site(Headers(scope=scope), self.hosts, self.origins)
                await app(scope, receive, noted)
            except asyncio.CancelledError:  # when stopping, after the time to finish
                pass
            except RequestError as error:
                await error_response(error)(scope, receive, noted)
            finally:
                path = scope["raw_path"][:200].decode()  # ASCII: still percent-encoded
                took = f"{1000 * (time.monotonic() - start):.0f} ms"
                completion: Completion | None = scope.get("state", {}).get("completion")
                made = f" {completion.end()} characters" if completion else ""
                self.log(f"{scope['method']} {path} {status} {took}{made}")

        return watched


async def _body(request: Request) -> bytes:
    """Return the body; refuse one that is too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which pages of other sites cannot send unasked
        raise RequestError("Content-Type must be application/json")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY_BYTES:
                raise RequestError(f"the body is longer than {_MAX_BODY_BYTES:,} bytes", 413)
    except ClientDisconnect:  # or it was too slow
        raise RequestError("the request did not arrive in time", 408) from None
    return bytes(body)


async def _unless_disconnected(request: Request, completion: Completion) -> dict[str, Any] | None:
    """Return the answer, or None if the client disconnects."""
    answer = asyncio.ensure_future(completion.whole())
    gone = asyncio.ensure_future(request.receive())  # after the body, nothing else is received
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.wait([answer, gone])


async def _error(request: Request, error: Exception) -> Response:
    return error_response(error)
