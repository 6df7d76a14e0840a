"""A request -> its answer in the form of OpenAI's completions or chats: in one go, or as
server-sent events.

Echoed prompts are scored outside the engine, in one thread of their own.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import UNKNOWN_HINT, CharTokenizer, Unknown
from shakespeare_lm.errors import UserError
from shakespeare_lm.serving.engine import Likelihood, Piece, Stream
from shakespeare_lm.serving.request import CompletionRequest, Json, RequestError, error_body

# Characters, or their logprobs, that are made in advance while a client does not read its stream.
_MAX_UNSENT = 8192
# Clients pass this field on, whose form OpenAI leaves open.
_NO_CHAT_MODEL = "not a chat model: it continues the text of the last message"


class Completion:
    """All texts of one request, and the answer that they add up to, as that of a chat if it is one;
    `scoring` scores prompts, and `name` is the model's.

    Raises:
        RequestError: for a character or a token id outside the vocabulary.
    """

    def __init__(
        self, completer: Completer, asked: CompletionRequest, unknown: Unknown, scoring: Executor,
        name: str, chat: bool = False,
    ) -> None:  # fmt: skip
        self.completer, self.asked, self._scoring, self._chat = completer, asked, scoring, chat
        self._cancelled = False
        self._common = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion",
            "created": int(time.time()), "model": name,
        }  # fmt: skip
        if chat:
            kind = "chat.completion.chunk" if asked.stream else "chat.completion"
            self._common |= {"object": kind, "system_fingerprint": _NO_CHAT_MODEL}
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._emitted = self._taken = 0  # characters: in the engine's thread, in this one
        self._loop = asyncio.get_running_loop()
        self._ids = [ids_of(prompt, completer.tokenizer, unknown) for prompt in asked.prompt]
        self.streams = [self._stream(index) for index in range(len(asked.prompt) * asked.n)]

    def _stream(self, index: int) -> Stream:
        prompt, sample = divmod(index, self.asked.n)
        ids = self._ids[prompt] or self.completer.tokenizer.encode_prompt("")
        window = deque(ids, maxlen=self.completer.context_length)
        seed = None if self.asked.seed is None else self.asked.seed + sample
        return Stream(window, self.asked, seed, partial(self._emit, index), self._lags)

    def _lags(self) -> bool:
        """Whether so much is unsent that the texts should pause; an answer in one go needs all."""
        unsent = (self._emitted - self._taken) * (1 + (self.asked.logprobs or 0))
        return self.asked.stream and unsent > _MAX_UNSENT

    def _emit(self, index: int, piece: Piece) -> None:
        self._emitted += len(piece.text)
        with suppress(RuntimeError):  # the event loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

    @property
    def made(self) -> int:
        """Characters of all texts so far, without the prompts."""
        return sum(stream.made for stream in self.streams)

    def end(self) -> int:
        """End the work, because the client has gone, or has everything; return what was made."""
        self._cancelled = True
        for stream in self.streams:
            stream.cancelled = True
        return self.made

    async def whole(self) -> Json:
        """Return the answer in one go."""
        choices = [self._choice(i, Piece("", [], None)) for i in range(len(self.streams))]
        async for part in self._parts():
            choice = choices[part["index"]]
            choice["text"] += part["text"]
            choice["finish_reason"] = part["finish_reason"]
            for name, values in (part["logprobs"] or {}).items():
                choice["logprobs"][name] += values
        for choice in choices:
            choice["finish_reason"] = choice["finish_reason"] or "length"  # if nothing was made
        formed = [self._formed(choice, "message") for choice in choices]
        return {**self._common, "choices": formed, "usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """Yield the answer as server-sent events."""
        try:
            async for part in self._parts():
                yield _event({**self._common, "choices": [self._formed(part, "delta")]})
            if self.asked.stream_options.get("include_usage") is True:
                yield _event({**self._common, "choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except UserError as error:
            yield _event(error_body(error))

    async def _parts(self) -> AsyncIterator[Json]:
        """Yield the prompts, if they are to be echoed, and all pieces until the last one."""
        offsets = [0] * len(self.streams)
        for index in range(len(self.streams)) if self.asked.echo else ():
            prompt, sample = divmod(index, self.asked.n)
            if sample == 0:
                echo = await self._loop.run_in_executor(self._scoring, self._echo, prompt)
            yield self._choice(index, echo)
            offsets[index] = len(echo.text)
        left = len(self.streams) if self.asked.max_tokens else 0
        while left:
            index, piece = await self._pieces.get()
            self._taken += len(piece.text)
            if piece.finish == "error":
                raise UserError(piece.text)
            left -= piece.finish is not None
            yield self._choice(index, piece, offsets[index])
            offsets[index] += len(piece.text)

    def _echo(self, prompt: int) -> Piece:
        """Return a prompt, with the likelihoods of its characters, of which the first has none."""
        logprobs, tokenizer = self.asked.logprobs, self.completer.tokenizer
        text = tokenizer.decode(self._ids[prompt])
        if logprobs is None or self._cancelled:
            return Piece(text, [], None)
        likelihoods = [Likelihood(character, None, None) for character in text[:1]]
        if len(text) > 1:
            score = self.completer.score(text, top=min(logprobs, len(tokenizer.vocabulary)))
            tops = [dict(best) for best in score.alternatives] or [{} for _ in text[1:]]
            likelihoods += map(Likelihood, text[1:], score.log_probabilities, tops)
        return Piece(text, likelihoods, None)

    def _choice(self, index: int, piece: Piece, offset: int = 0) -> Json:
        """Return one text of an answer, or a part of it that begins at character `offset`."""
        given = piece.likelihoods
        logprobs = {
            "tokens": [one.character for one in given],
            "token_logprobs": [one.log_probability for one in given],
            "top_logprobs": [one.top for one in given],
            "text_offset": list(range(offset, offset + len(given))),
        }
        return {
            "index": index, "text": piece.text, "finish_reason": piece.finish,
            "logprobs": None if self.asked.logprobs is None else logprobs,
        }  # fmt: skip

    def _formed(self, choice: Json, message: str) -> Json:
        """Return a choice as completions have it; in a chat, with a `message` instead of a text."""
        if not self._chat:
            return choice
        content = {"role": "assistant", "content": choice.pop("text")}
        return {**choice, message: content}

    def _usage(self) -> Json:
        """Return what was given and made, a character is a token; and how much of the prompts was
        not read, because the context ends before.
        """
        given, made = sum(map(len, self._ids)), self.made
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        usage: Json = dict(zip(names, (given, made, given + made), strict=True))
        if unread := sum(max(0, len(ids) - self.completer.context_length) for ids in self._ids):
            usage["prompt_tokens_details"] = {"truncated_tokens": unread}
        return usage


def ids_of(prompt: str | list[int], tokenizer: CharTokenizer, unknown: Unknown) -> list[int]:
    """Return a prompt's ids; a `RequestError` names what is outside the vocabulary."""
    try:
        if isinstance(prompt, str):
            return tokenizer.encode(prompt, unknown)
        return tokenizer.encode(tokenizer.decode(prompt))
    except UserError as error:
        message = f"prompt is invalid: {str(error).removesuffix(UNKNOWN_HINT)}"
        raise RequestError(message, param="prompt") from None


def _event(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"
