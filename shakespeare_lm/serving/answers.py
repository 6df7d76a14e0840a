"""a request -> its answer in the form of OpenAI's completions: in one go, or as server-sent events.

Prompts that are echoed with their likelihoods are scored beside the engine, in one thread.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import random_numbers
from shakespeare_lm.completion.scoring import Score
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.tokenizer import Unknown
from shakespeare_lm.errors import UserError
from shakespeare_lm.serving.engine import Likelihood, Piece, Stream
from shakespeare_lm.serving.request import CompletionRequest, RequestError

Json = dict[str, Any]


class Completion:
    """All texts of one request, and the answer that they add up to. `model` is the name that the
    answer gives; `scoring` runs what scores prompts.

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

    async def whole(self) -> Json:
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
                yield _event(self.answer.body([choice(index, text, logprobs, None)]))
            async for index, piece in self.pieces():
                logprobs = self._more(None, piece, offsets[index])
                offsets[index] += len(piece.text)
                yield _event(self.answer.body([choice(index, piece.text, logprobs, piece.finish)]))
            if self.asked.include_usage:
                yield _event(self.answer.body([], self._usage()))
            yield "data: [DONE]\n\n"
        except RuntimeError:
            yield _event(error_body("the server failed", "server_error", None, None))
        finally:
            self.cancel()

    async def _echoes(self) -> list[tuple[str, Json | None]]:
        """Return each prompt, if it is asked for, and how likely its characters were."""
        run, prompts = asyncio.get_running_loop().run_in_executor, range(len(self._ids))
        return [await run(self._scoring, self._echo, prompt) for prompt in prompts]

    def _echo(self, prompt: int) -> tuple[str, Json | None]:
        logprobs, tokenizer = self.asked.logprobs, self.completer.tokenizer
        if not self.asked.echo:
            return "", None if logprobs is None else logprobs_of([], 0)
        text = tokenizer.decode(self._ids[prompt])
        if logprobs is None or self.gone:
            return text, None
        top = min(logprobs, len(tokenizer.vocabulary))
        score = self.completer.score(text, top=top) if len(text) > 1 else None
        return text, logprobs_of_prompt(text, score)

    def _more(self, logprobs: Json | None, piece: Piece, offset: int) -> Json | None:
        """Return likelihoods with those of a piece appended; None if none were asked for."""
        if self.asked.logprobs is None:
            return None
        more = logprobs_of(piece.likelihoods, offset)
        return more if logprobs is None else joined_logprobs(logprobs, more)

    def _usage(self) -> dict[str, int]:
        return usage(sum(map(len, self._ids)), sum(stream.made for stream in self.streams))


def _event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"


class Answer:
    """The JSON of an answer, whole or in parts, all with the same id and time."""

    def __init__(self, model: str) -> None:
        self._common = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion",
            "created": int(time.time()), "model": model,
        }  # fmt: skip

    def body(self, choices: Iterable[Json], usage: dict[str, int] | None = None) -> Json:
        """Return the whole answer, or the part with these choices or the usage."""
        content = {**self._common, "choices": list(choices)}
        return content if usage is None else {**content, "usage": usage}


def choice(index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    """Return one text of an answer, or a part of it."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return what was read and made; a character is a token."""
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }  # fmt: skip


def logprobs_of(likelihoods: Sequence[Likelihood], offset: int) -> Json:
    """Return likelihoods of characters; `offset` is that of the first in the whole text."""
    return {
        "tokens": [likelihood.character for likelihood in likelihoods],
        "token_logprobs": [likelihood.log_probability for likelihood in likelihoods],
        "top_logprobs": [likelihood.top for likelihood in likelihoods],
        "text_offset": list(range(offset, offset + len(likelihoods))),
    }


def logprobs_of_prompt(prompt: str, score: Score | None) -> Json:
    """Return likelihoods of a prompt, whose first character has none."""
    values: list[float] = [] if score is None else score.log_probabilities
    alternatives = [] if score is None else score.alternatives
    tops = [dict(best) for best in alternatives] or [{}] * len(values)
    first = [None] if prompt else []
    return {
        "tokens": list(prompt),
        "token_logprobs": [*first, *values],
        "top_logprobs": [*first, *tops],
        "text_offset": list(range(len(prompt))),
    }


def joined_logprobs(first: Json, second: Json) -> Json:
    """Return those of a prompt and of what follows."""
    return {name: [*first[name], *second[name]] for name in first}


def error_body(message: str, kind: str, param: str | None, code: str | None) -> Json:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
