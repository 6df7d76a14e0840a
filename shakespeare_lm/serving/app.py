"""requests over HTTP -> answers: the web application.

Enters: a model, its page, and limits. Leaves: an ASGI application with `POST /v1/completions`,
`GET /v1/models`, `GET /health` and the page at `/`.
"""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
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
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.errors import UserError
from shakespeare_lm.serving.answers import (
    Answer,
    choice,
    error_body,
    joined_logprobs,
    logprobs_of,
    logprobs_of_prompt,
    usage,
)
from shakespeare_lm.serving.engine import Engine, Piece, Stream, TooManyStreamsError
from shakespeare_lm.serving.request import CompletionRequest, RequestError, parse_request

_MAX_BODY_BYTES = 1 << 20
_SECONDS_FOR_A_BODY = 30.0
_EMPTY_PROMPT = "\n"


@dataclass(frozen=True)
class ServingConfig:
    """What the server does.

    Args:
        name: of the model, as clients ask for it.
        page: HTML for `/`; "" for none.
        max_tokens: the most characters of a completion.
        unknown: what to do with characters that the model never saw.
        hosts: the names that clients may reach it by; `*` for all.
    """

    name: str
    page: str = ""
    max_tokens: int = 4096
    unknown: Unknown = "error"
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")


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

    async def complete(self, request: Request) -> Response:
        asked = parse_request(await _body(request), self.config.max_tokens)
        self._check_model(asked.model)
        completion = _Completion(self.completer, asked, self.config, self._scoring)
        try:
            if asked.max_tokens:
                self.engine.submit(completion.streams)
        except TooManyStreamsError:
            raise RequestError(
                "too many requests wait: try again later", 429, None, "queue_full"
            ) from None
        if asked.stream:
            return StreamingResponse(
                completion.events(), media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )  # fmt: skip
        answer = await _unless_gone(request, completion)
        return Response(status_code=499) if answer is None else JSONResponse(answer)


async def _body(request: Request) -> bytes:
    """Return the body, if it is not too long and comes in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which pages of other sites cannot send unasked
        raise RequestError("Content-Type must be application/json")
    parts, size = [], 0
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_BODY):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > _MAX_BODY_BYTES:
                    raise RequestError(f"the body is longer than {_MAX_BODY_BYTES:,} bytes", 413)
    except (TimeoutError, ClientDisconnect):
        raise RequestError("the body did not come in time", 408) from None
    return b"".join(parts)


class _Completion:
    """All texts of one request."""

    def __init__(
        self,
        completer: Completer,
        asked: CompletionRequest,
        config: ServingConfig,
        scoring: Executor,
    ) -> None:
        self.completer, self.asked, self._scoring = completer, asked, scoring
        self.gone = False
        self.answer = Answer(config.name)
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        try:
            # What the model cannot read is dropped or replaced, as the server was told.
            self._ids = [completer.tokenizer.encode(p, config.unknown) for p in asked.prompts]
        except UserError as error:
            raise RequestError(str(error), param="prompt") from None
        count = len(asked.prompts) * asked.n
        self.streams = [self._stream(index) for index in range(count)]

    def _stream(self, index: int) -> Stream:
        asked, tokenizer = self.asked, self.completer.tokenizer
        prompt, sample = divmod(index, asked.n)
        ids = self._ids[prompt] or tokenizer.encode(_EMPTY_PROMPT, "skip") or [0]
        seed = None if asked.seed is None else asked.seed + sample
        return Stream(
            ids=deque(ids, maxlen=self.completer.context_length),
            sampling=asked.sampling,
            # The same numbers as `Completer` draws.
            random=random.Random() if seed is None else random.Random(f"completion {seed}"),
            ending=StopStrings(asked.stop),
            max_tokens=asked.max_tokens,
            top=asked.logprobs,
            streamed=asked.stream,
            give=lambda piece: self._give(index, piece),
        )

    def _give(self, index: int, piece: Piece) -> None:
        with suppress(RuntimeError):  # the server's loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

    def cancel(self) -> None:
        """Say that nobody wants the rest."""
        self.gone = True
        for stream in self.streams:
            stream.cancelled = True

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield the pieces of all streams until the last one has ended."""
        left = len(self.streams) if self.asked.max_tokens else 0
        while left:
            index, piece = await self._pieces.get()
            if piece.finish == "error":
                raise RuntimeError("the engine has stopped")
            left -= piece.finish is not None
            yield index, piece

    async def whole(self) -> dict[str, Any]:
        """Return the answer in one go."""
        echoes = await self._echoes()
        texts = [echoes[index // self.asked.n] for index in range(len(self.streams))]
        finishes = ["length"] * len(texts)
        async for index, piece in self.pieces():
            text, logprobs = texts[index]
            texts[index] = (text + piece.text, self._more(logprobs, piece, len(text)))
            finishes[index] = piece.finish or "length"
        choices = [
            choice(index, text, logprobs, finish)
            for index, ((text, logprobs), finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return self.answer.body(choices, self._usage())

    async def events(self) -> AsyncIterator[str]:
        """Yield the answer as server-sent events."""
        try:
            offsets = [0] * len(self.streams)
            echoes = await self._echoes() if self.asked.echo else []
            for index in range(len(self.streams)) if self.asked.echo else ():
                text, logprobs = echoes[index // self.asked.n]
                offsets[index] = len(text)
                yield _event(self.answer.chunk(choice(index, text, logprobs, None)))
            async for index, piece in self.pieces():
                logprobs = self._more(None, piece, offsets[index])
                offsets[index] += len(piece.text)
                yield _event(self.answer.chunk(choice(index, piece.text, logprobs, piece.finish)))
            if self.asked.include_usage:
                yield _event(self.answer.usage_chunk(self._usage()))
            yield "data: [DONE]\n\n"
        except RuntimeError:
            yield _event(error_body("the server failed", "server_error", None, None))
        finally:
            self.cancel()

    async def _echoes(self) -> list[tuple[str, dict[str, Any] | None]]:
        """Return each prompt, if it is asked for, and how likely its characters were."""
        loop = asyncio.get_running_loop()
        prompts = range(len(self._ids))
        return [await loop.run_in_executor(self._scoring, self._echo, one) for one in prompts]

    def _echo(self, prompt: int) -> tuple[str, dict[str, Any] | None]:
        asked = self.asked
        empty = None if asked.logprobs is None else logprobs_of([], 0)
        if not asked.echo:
            return "", empty
        text = self.completer.tokenizer.decode(self._ids[prompt])
        if asked.logprobs is None or self.gone:
            return text, None
        top = min(asked.logprobs, len(self.completer.tokenizer.vocabulary))
        score = self.completer.score(text, top=top) if len(text) > 1 else None
        return text, logprobs_of_prompt(text, score)

    def _more(
        self, logprobs: dict[str, Any] | None, piece: Piece, offset: int
    ) -> dict[str, Any] | None:
        if self.asked.logprobs is None:
            return None
        theirs = logprobs_of(piece.likelihoods, offset)
        return theirs if logprobs is None else joined_logprobs(logprobs, theirs)

    def _usage(self) -> dict[str, int]:
        return usage(sum(map(len, self._ids)), sum(stream.made for stream in self.streams))


async def _unless_gone(request: Request, completion: _Completion) -> dict[str, Any] | None:
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


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


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
