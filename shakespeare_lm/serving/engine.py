"""Continuous batching: completes the texts of all requests together, in one thread. They share each
step of the network; one that arrives later joins at the next step.
"""

import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import ContinuousDecoder
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids, random_numbers
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.serving.request import CompletionRequest

# Texts that are completed at once; more wait.
STREAMS_TOGETHER = 64
# Pieces of a streamed text are emitted this often: sending each character by itself would take
# longer than making it.
_SECONDS_BETWEEN_PIECES = 0.05


class Likelihood(NamedTuple):
    """How likely a character was: natural logarithms, before temperature and filters; None for
    the first of a prompt.
    """

    character: str
    log_probability: float | None
    top: dict[str, float] | None  # of the likeliest characters


class Piece(NamedTuple):
    """The next characters of a stream."""

    text: str
    likelihoods: list[Likelihood]
    finish: str | None  # why the stream has ended: stop, length or error; None if it goes on


Emit = Callable[[Piece], None]


class Stream:
    """One text that grows from the `ids` of its prompt, the newest last. `emit` is called with its
    pieces, in the engine's thread.
    """

    def __init__(
        self, ids: deque[int], asked: CompletionRequest, seed: int | None, emit: Emit
    ) -> None:
        self.ids, self.asked, self.sampling = ids, asked, asked.sampling
        self.random = random_numbers(seed)  # as `Completer` draws
        self.cancelled = False  # is set from any thread when nobody wants the rest
        self.made = 0
        self.row: int | None = None  # in the decoder's cache
        self._emit, self._stop = emit, StopStrings(asked.stop)
        self._text: list[str] = []
        self._likelihoods: list[Likelihood] = []
        self._last = time.monotonic()

    @property
    def finish(self) -> str | None:
        """Why it has ended."""
        if self._stop.reached:
            return "stop"
        return "length" if self.made >= self.asked.max_tokens else None

    def add(self, number: int, character: str, likelihood: Likelihood | None) -> None:
        """Append the next character, and emit what is due."""
        self.ids.append(number)
        self.made += 1
        self._text.append(self._stop.add(character))
        if likelihood is not None:
            self._likelihoods.append(likelihood)
        if self.finish:
            self._text.append(self._stop.rest())
        elif not self.asked.stream or time.monotonic() < self._last + _SECONDS_BETWEEN_PIECES:
            return
        text, self._text, self._last = "".join(self._text), [], time.monotonic()
        if text or self.finish:
            # A character is a token: those of a stop string are not part of the text.
            self._emit(Piece(text, self._likelihoods[: len(text)], self.finish))
        del self._likelihoods[: len(text)]

    def fail(self) -> None:
        """End the text here, because of an error."""
        self.cancelled = True
        self._emit(Piece("", [], "error"))


class Engine:
    """Completes streams in its own thread until it is closed; up to `max_waiting` may wait."""

    def __init__(self, completer: Completer, max_waiting: int = 256) -> None:
        self.completer, self.max_waiting = completer, max_waiting
        self._vocabulary = completer.tokenizer.vocabulary
        self._decoder = ContinuousDecoder(completer.network)
        self._waiting: deque[Stream] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.active = 0  # streams that are being completed
        self._thread = threading.Thread(target=self._run, name="completions", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it accepts streams."""
        return not self._closed and self._thread.is_alive()

    def submit(self, streams: Sequence[Stream]) -> bool:
        """Queue these streams; return False, and queue none of them, if too many are waiting or the
        engine is closed.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(streams) > self.max_waiting:
                return False
            self._waiting.extend(streams)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Stop at the next character."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        active: list[Stream] = []
        while self._take(active):
            try:
                self._step(active)
            except Exception:  # a mistake in this program: these streams end, others begin anew
                traceback.print_exc()
                for stream in active:
                    stream.fail()
                self._decoder = ContinuousDecoder(self.completer.network)
        with self._changed:
            for stream in (*active, *self._waiting):
                stream.fail()
            self._waiting.clear()

    def _take(self, active: list[Stream]) -> bool:
        """Drop streams that have ended, admit waiting ones, and wait if there is nothing to do;
        return False when the engine is closed.
        """
        active[:] = [stream for stream in active if not (stream.finish or stream.cancelled)]
        with self._changed:
            while not (active or self._waiting or self._closed):
                self.active = 0
                self._changed.wait()
            while self._waiting and len(active) < STREAMS_TOGETHER:
                stream = self._waiting.popleft()
                if not stream.cancelled:
                    active.append(stream)
            self.active = len(active)
            return not self._closed

    def _step(self, streams: list[Stream]) -> None:
        """Add a character to each stream."""
        if not streams:  # those that waited were cancelled
            return
        texts, rows = [stream.ids for stream in streams], [stream.row for stream in streams]
        logits = self._decoder.logits(texts, rows)[:, : len(self._vocabulary)]
        numbers = self._choose(logits, streams)
        for row, (stream, number) in enumerate(zip(streams, numbers, strict=True)):
            stream.row = row
            likelihood = self._likelihood(logits[row], number, stream.asked.logprobs)
            stream.add(number, self._vocabulary[number], likelihood)

    def _choose(self, logits: Tensor, streams: Sequence[Stream]) -> list[int]:
        """Return the next id of each; those with the same options are chosen together."""
        alike: dict[SamplingOptions, list[int]] = defaultdict(list)
        for row, stream in enumerate(streams):
            alike[stream.sampling].append(row)
        numbers = [0] * len(streams)
        for sampling, rows in alike.items():
            uniform = [streams[row].random.random() for row in rows]
            chosen = next_ids(logits[rows], sampling, uniform).tolist()
            for row, number in zip(rows, chosen, strict=True):
                numbers[row] = number
        return numbers

    def _likelihood(self, logits: Tensor, number: int, top: int | None) -> Likelihood | None:
        if top is None:
            return None
        values = logits.float().log_softmax(-1)
        best = values.topk(min(top, len(values)))
        characters = (self._vocabulary[other] for other in best.indices.tolist())
        others = dict(zip(characters, best.values.tolist(), strict=True))
        return Likelihood(self._vocabulary[number], float(values[number]), others)
