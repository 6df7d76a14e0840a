"""a request -> its answer: in one go, or as server-sent events.

Enters: a checked request. Leaves: streams for the engine, and the answer that their pieces add up
to. Prompts that are echoed with their likelihoods are scored beside the engine, in one thread.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import random_numbers
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
from shakespeare_lm.serving.engine import Piece, Stream
from shakespeare_lm.serving.request import CompletionRequest, RequestError


class Completion:
    """All texts of one request, and the answer that they add up to.

    Args:
        completer: the model.
        asked: the request.
        model: the name that the answer gives.
        unknown: what to do with characters that the model never saw.
        scoring: runs what scores prompts.

    Raises:
        RequestError: for a character that the model cannot read.
    """

    def __init__(
        self,
        completer: Completer,
        asked: CompletionRequest,
        model: str,
        unknown: Unknown,
        scoring: Executor,
    ) -> None:
        self.completer, self.asked, self._scoring = completer, asked, scoring
        self.gone = False
        self.answer = Answer(model)
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        try:
            self._ids = [completer.tokenizer.encode(p, unknown) for p in asked.prompts]
        except UserError as error:
            raise RequestError(str(error), param="prompt") from None
        count = len(asked.prompts) * asked.n
        self.streams = [self._stream(index) for index in range(count)]

    def _stream(self, index: int) -> Stream:
        asked, tokenizer = self.asked, self.completer.tokenizer
        prompt, sample = divmod(index, asked.n)
        ids = self._ids[prompt] or tokenizer.encode_prompt("")
        seed = None if asked.seed is None else asked.seed + sample
        return Stream(
            ids=deque(ids, maxlen=self.completer.context_length),
            sampling=asked.sampling,
            random=random_numbers(seed),  # as `Completer` draws
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


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
