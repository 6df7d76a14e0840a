"""Continuous batching: completes the texts of all requests together, in one thread. They share each
step of the network; one that arrives later joins at the next step. If there are more texts than
places, requests share the places equally.
"""

import sys
import threading
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import ContinuousDecoder, characters_kept
from shakespeare_lm.completion.sampling import SamplingOptions, next_ids, random_numbers
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.errors import UserError, one_line
from shakespeare_lm.serving.request import CompletionRequest

# Texts that are completed at once; more wait.
STREAMS_TOGETHER = 64
# Characters until a text gives its place to a waiting one of a request that has as many places:
# not fewer, because its window must be read again afterwards.
_CHARACTERS_PER_TURN = 128
_SECONDS_BETWEEN_CHECKS = 0.05  # whether a client that lags has caught up
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

    text: str  # or the reason of an error
    likelihoods: list[Likelihood]
    finish: str | None  # why the stream has ended: stop, length or error; None if it goes on


class Stream:
    """One text that grows from the `ids` of its prompt, the newest last. `emit` is called with its
    pieces, and `lags` tells whether it should pause until more of them are sent, both in the
    engine's thread.
    """

    def __init__(
        self, ids: deque[int], asked: CompletionRequest, seed: int | None,
        emit: Callable[[Piece], None], lags: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.ids, self.asked, self.sampling, self.lags = ids, asked, asked.sampling, lags
        self.random = random_numbers(seed)  # as `Completer` draws
        self.cancelled = False  # is set from any thread when nobody wants the rest
        self.made = 0
        self.row: int | None = None  # in the decoder's cache
        self.turn = 0  # characters made in its present place
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

    @property
    def ended(self) -> bool:
        return self.cancelled or self.finish is not None

    def add(self, number: int, character: str, likelihood: Likelihood | None) -> None:
        """Append the next character, and emit what is due."""
        if len(self.ids) == self.ids.maxlen:
            # Restart the window as the decoder does: after a pause it is read again as it was.
            while len(self.ids) >= characters_kept("stride", self.ids.maxlen):
                self.ids.popleft()
        self.ids.append(number)
        self.made += 1
        self.turn += 1
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

    def fail(self, reason: str) -> None:
        """End the text here, because of an error."""
        self.cancelled = True
        self._emit(Piece(reason, [], "error"))


class Engine:
    """Completes streams in its own thread until it is closed; up to `max_waiting` may wait, among
    them those whose clients lag.
    """

    def __init__(self, completer: Completer, max_waiting: int = 256) -> None:
        self.completer, self.max_waiting = completer, max_waiting
        self._vocabulary = completer.tokenizer.vocabulary
        self._decoder = ContinuousDecoder(completer.network)
        self._active: list[Stream] = []  # that are being completed
        self._waiting: list[Stream] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="completions", daemon=True)
        self._thread.start()

    @property
    def active(self) -> int:
        """How many streams are being completed."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many streams wait, or pause for a client that lags."""
        return len(self._waiting)

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
            self._waiting += streams
            self._changed.notify()
            return True

    def close(self) -> None:
        """Stop at the next character."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._choose_active():
            try:
                self._step(self._active)
            except UserError as error:  # of the model, such as non-finite logits
                print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
                self._fail(self._active, one_line(error))
            except Exception:  # a mistake in this program
                traceback.print_exc()
                self._fail(self._active, "the server failed")
        with self._changed:
            self._fail([*self._active, *self._waiting], "the server is stopping")
            self._active, self._waiting = [], []

    def _fail(self, streams: Sequence[Stream], reason: str) -> None:
        """End these streams; others begin anew."""
        for stream in streams:
            stream.fail(reason)
        self._decoder = ContinuousDecoder(self.completer.network)

    def _choose_active(self) -> bool:
        """Choose the active streams of the next step, and wait until there are some; return False
        when the engine is closed.
        """
        with self._changed:
            while not self._closed:
                self._share_places()
                if self._active:
                    return True
                self._changed.wait(_SECONDS_BETWEEN_CHECKS if self._waiting else None)
            return False

    def _share_places(self) -> None:
        """Share the places equally between the requests, without streams whose clients lag. Where
        places are too few for all requests, they take turns.
        """
        streams = [one for one in (*self._active, *self._waiting) if not one.ended]
        ranks: Counter[int] = Counter()  # of streams among those of their request
        order = {}
        for stream in [one for one in streams if not one.lags()]:
            turn_is_over = stream.turn >= _CHARACTERS_PER_TURN
            order[stream] = ranks[id(stream.asked)], turn_is_over, stream.row is None, stream.turn
            ranks[id(stream.asked)] += 1
        chosen = sorted(order, key=order.__getitem__)[:STREAMS_TOGETHER]
        places = set(chosen)
        others = [one for one in streams if one not in places]
        self._active = _in_their_rows(chosen)
        self._waiting = sorted(others, key=lambda one: one.row is not None)  # who pauses comes last
        for stream in others:
            stream.row, stream.turn = None, 0

    def _step(self, streams: list[Stream]) -> None:
        """Add a character to each stream."""
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


def _in_their_rows(streams: Sequence[Stream]) -> list[Stream]:
    """Order streams so that those that have a row of the cache keep it, where there is one."""
    kept = {one.row: one for one in streams if one.row is not None and one.row < len(streams)}
    others = iter([one for one in streams if one not in kept.values()])
    return [kept.get(row) or next(others) for row in range(len(streams))]
