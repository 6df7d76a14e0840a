"""The web application (ASGI): `POST /v1/completions` and its relatives, described at
`/openapi.json`, and the model's page at `/`.
"""

import asyncio
import time
from collections import defaultdict
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
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.errors import UserError
from shakespeare_lm.serving.answers import Completion, ids_of
from shakespeare_lm.serving.connections import handle_loop_error
from shakespeare_lm.serving.description import describe
from shakespeare_lm.serving.engine import Engine
from shakespeare_lm.serving.request import (
    ChatRequest,
    CompletionRequest,
    RequestError,
    TokenizeRequest,
    check_site,
    error_response,
    parse_request,
    validated,
)

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
        self._counts: dict[str, float] = defaultdict(int)  # by the name that Prometheus sees

    def build_app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._one_model),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/tokenizer_info", self._tokenizer_info),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
                Route("/openapi.json", self._openapi),
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
        """Whether requests are answered (200) or not (503)."""
        if not self.engine.is_running:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        """What was done since the start, and how many texts there are now, for Prometheus."""
        texts = {"active": self.engine.active, "waiting": self.engine.waiting}
        values = self._counts | {f'texts{{state="{state}"}}': n for state, n in texts.items()}
        lines = [f"shakespeare_lm_{name} {value}\n" for name, value in values.items()]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        """This description, OpenAPI 3.1."""
        return JSONResponse(describe(request.app.routes))

    async def _page(self, request: Request) -> Response:
        """A page for browsers, with the model inside."""
        if not self.page:
            raise HTTPException(404, self.no_page)
        return HTMLResponse(self.page)

    async def _models(self, request: Request) -> Response:
        """The model, in a list."""
        return JSONResponse({"object": "list", "data": [self._model]})

    async def _one_model(self, request: Request) -> Response:
        """The model."""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model)

    async def _tokenize(self, request: Request) -> Response:
        """The token ids of a text."""
        asked = validated(await _body(request), TokenizeRequest)
        ids = ids_of(asked.prompt, self.completer.tokenizer, self.unknown)
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def _tokenizer_info(self, request: Request) -> Response:
        """What a text begins with, and may end with: that of an empty prompt."""
        tokenizer = self.completer.tokenizer
        begin = tokenizer.decode(tokenizer.encode_prompt(""))
        return JSONResponse({"bos_token": begin, "eos_token": begin})

    async def _chat(self, request: Request) -> Response:
        """Continue the last message: the model does not chat."""
        return await self._answer(request, ChatRequest)

    async def _complete(self, request: Request) -> Response:
        """Continue texts."""
        return await self._answer(request, CompletionRequest)

    async def _answer(
        self, request: Request, kind: type[CompletionRequest | ChatRequest]
    ) -> Response:
        asked = parse_request(await _body(request), self.max_tokens, kind)
        self._check_model(asked.model or self.name)
        completion = Completion(
            self.completer, asked, self.unknown, self._scoring, self.name, kind is ChatRequest
        )
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

    def _count(self, status: int, seconds: float, characters: int) -> None:
        self._counts[f'requests_total{{status="{status}"}}'] += 1
        self._counts["request_seconds_total"] += seconds
        self._counts["characters_total"] += characters

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
                seconds = time.monotonic() - start
                completion: Completion | None = scope.get("state", {}).get("completion")
                made = completion.end() if completion else 0
                self._count(status, seconds, made)
                characters = f" {made} characters" if completion else ""
                self.log(f"{scope['method']} {path} {status} {1000 * seconds:.0f} ms{characters}")

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
