"""streams -> characters: completes the texts of all requests together, in one thread (continuous
batching). They share each step of the network; one that arrives later joins at the next step.
"""

import random
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import ContinuousDecoder
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids
from shakespeare_lm.completion.stop_strings import StopStrings

# Texts that are completed at once; more wait.
STREAMS_TOGETHER = 64
# Pieces of a text are handed over this often: each character by itself would cost more time than
# making it.
_SECONDS_BETWEEN_PIECES = 0.05


class TooManyStreamsError(Exception):
    """The queue is full, or the engine has stopped."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a character was: natural logarithms, before temperature and filters."""

    character: str
    log_probability: float
    top: dict[str, float]


@dataclass(frozen=True)
class Piece:
    """The next characters of a stream."""

    text: str
    likelihoods: list[Likelihood]
    finish: str | None  # why the stream has ended: stop, length or error; None if it goes on


@dataclass(eq=False)
class Stream:
    """One text that grows."""

    ids: deque[int]  # of the prompt, the newest last
    sampling: SamplingOptions
    random: random.Random  # one number per character
    ending: StopStrings
    max_tokens: int
    top: int | None  # how many likelihoods of other characters are wanted; None for no likelihoods
    streamed: bool  # whether pieces are wanted before the end
    give: Callable[[Piece], None]  # is called with the pieces, in the engine's thread
    cancelled: bool = False  # is set from any thread when nobody wants the rest
    made: int = 0
    row: int | None = None  # in the decoder's cache
    _text: list[str] = field(default_factory=list)
    _likelihoods: list[Likelihood] = field(default_factory=list)
    _last: float = field(default_factory=time.monotonic)

    @property
    def finish(self) -> str | None:
        """Why it has ended."""
        if self.ending.reached:
            return "stop"
        return "length" if self.made >= self.max_tokens else None

    def add(self, number: int, character: str, likelihood: Likelihood | None) -> None:
        """Append the next character, and hand over what is due."""
        self.ids.append(number)
        self.made += 1
        self._text.append(self.ending.add(character))
        if likelihood is not None:
            self._likelihoods.append(likelihood)
        now = time.monotonic()
        if self.finish:
            self._text.append(self.ending.rest())
            self._hand_over()
        elif self.streamed and now - self._last >= _SECONDS_BETWEEN_PIECES:
            self._last = now
            self._hand_over()

    def _hand_over(self) -> None:
        text, self._text = "".join(self._text), []
        if text or self.finish:
            # A character is a token: those of a stop string are not part of the text.
            self.give(Piece(text, self._likelihoods[: len(text)], self.finish))
        del self._likelihoods[: len(text)]


class Engine:
    """Completes streams in a thread of its own, until it is closed. Up to `max_waiting` streams may
    wait for a place.
    """

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
        """Whether it takes streams."""
        return not self._closed and self._thread.is_alive()

    def submit(self, streams: Sequence[Stream]) -> None:
        """Begin these streams as soon as there is a place for each.

        Raises:
            TooManyStreamsError: if too many wait, or the engine is closed; none of them is begun.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(streams) > self.max_waiting:
                raise TooManyStreamsError
            self._waiting.extend(streams)
            self._changed.notify()

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
                _fail(active)
                self._decoder = ContinuousDecoder(self.completer.network)
        with self._changed:
            _fail([*active, *self._waiting])
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
            likelihood = self._likelihood(logits[row], number, stream.top)
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


def _fail(streams: list[Stream]) -> None:
    for stream in streams:
        stream.cancelled = True
        stream.give(Piece("", [], "error"))
    streams.clear()
