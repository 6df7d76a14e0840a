"""The engine: streams get what they would get alone, in turn and without waiting for each other."""

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from unittest.mock import Mock

import pytest

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.errors import UserError
from shakespeare_lm.model.transformer import CausalTransformer
from tests.serving.conftest import NEEDS, until

serving = pytest.importorskip("shakespeare_lm.serving.engine", reason=NEEDS)
VOCABULARY = "abcdefghij"


class Collected:
    """A stream, and what it gave."""

    def __init__(
        self, prompt: str, max_tokens: int, seed: int = 0, lags: Any = bool, **changes: Any
    ) -> None:
        self.pieces: list[Any] = []
        self.ended = threading.Event()
        asked = {"max_tokens": max_tokens, "temperature": 0.8, **changes}
        ids = deque(map(VOCABULARY.index, prompt), maxlen=8)
        self.stream = serving.Stream(
            ids, serving.CompletionRequest(**asked), seed, self._emit, lags
        )

    def _emit(self, piece: Any) -> None:
        self.pieces.append(piece)
        if piece.finish:
            self.ended.set()

    def end(self) -> tuple[str, str]:
        """Wait for its end; return the text, and why it has ended."""
        assert self.ended.wait(60)
        return "".join(piece.text for piece in self.pieces), self.pieces[-1].finish


@pytest.fixture
def completer(transformer: CausalTransformer) -> Completer:
    return Completer(transformer, CharTokenizer(VOCABULARY), 8)


@pytest.fixture
def engine(completer: Completer) -> Iterator[Any]:
    with closing(serving.Engine(completer, max_waiting=200)) as started:
        yield started
    assert not started.is_running


def test_streams_that_arrive_at_any_time_get_what_they_get_alone(
    engine: Any, completer: Completer
) -> None:
    # More than there are places, and some longer than two turns.
    asked = [(VOCABULARY[: 1 + n % 7], 5 + n % 40 if n % 12 else 320, n) for n in range(100)]
    collected = [Collected(*one) for one in asked]
    for number, one in enumerate(collected):
        engine.submit([one.stream])
        if number % 10 == 0:
            time.sleep(0.01)
    for (prompt, length, seed), one in zip(asked, collected, strict=True):
        assert one.end() == (completer.complete(prompt, length, seed=seed), "length")
        assert len(one.pieces) == 1  # not streamed


def test_streams_share_each_step_of_the_network(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, logits = [], engine._decoder.logits
    monkeypatch.setattr(
        engine._decoder, "logits", lambda *texts: steps.append(len(texts[0])) or logits(*texts)
    )
    collected = [Collected("ab", 30, seed) for seed in range(serving.STREAMS_TOGETHER)]
    engine.submit([one.stream for one in collected])
    assert {len(one.end()[0]) for one in collected} == {30}
    assert steps == [serving.STREAMS_TOGETHER] * 30


def test_options_of_one_do_not_reach_another(engine: Any, completer: Completer) -> None:
    greedy = Collected("abc", 30, temperature=0)
    wild = Collected("abc", 30, 5, temperature=2, top_k=4)
    engine.submit([greedy.stream, wild.stream])
    assert greedy.end()[0] == completer.complete("abc", 30, greedy=True)
    assert wild.end()[0] == completer.complete("abc", 30, seed=5, temperature=2, top_k=4)


def test_a_stop_string_ends_a_stream_and_its_likelihoods(engine: Any, completer: Completer) -> None:
    whole = completer.complete("abc", 60, seed=1)
    stop = whole[20:22]
    one = Collected("abc", 60, 1, stop=[stop], logprobs=3, stream=True)
    engine.submit([one.stream])
    text, finish = one.end()
    assert (text, finish) == (whole[: whole.index(stop)], "stop")
    likelihoods = [likelihood for piece in one.pieces for likelihood in piece.likelihoods]
    assert "".join(one.character for one in likelihoods) == text
    expected = completer.score("abc" + text).log_probabilities[2:]
    assert [one.log_probability for one in likelihoods] == pytest.approx(expected, abs=1e-3)
    assert all(len(one.top) == 3 for one in likelihoods)


def test_a_short_request_passes_a_long_one_and_too_many_streams_are_refused(engine: Any) -> None:
    asked = serving.CompletionRequest(max_tokens=10**9)
    many = [
        serving.Stream(deque([0], maxlen=8), asked, 0, print, bool)
        for _ in range(serving.STREAMS_TOGETHER + 150)
    ]
    engine.submit(many[: serving.STREAMS_TOGETHER])
    until(lambda: engine.active)
    engine.submit(many[serving.STREAMS_TOGETHER :])
    assert not engine.submit([Collected("a", 1).stream for _ in range(51)])  # none of them
    made_meanwhile = []
    short = Collected("a", 3)
    short.stream.lags = lambda: made_meanwhile.append(sum(one.made for one in many))
    assert engine.submit([short.stream])
    assert short.end()[1] == "length"
    assert made_meanwhile[-1] - made_meanwhile[0] <= 4 * serving.STREAMS_TOGETHER
    for stream in many:
        stream.cancelled = True
    until(lambda: not engine.active)
    made = [stream.made for stream in many]
    last = Collected("a", 3)
    engine.submit([last.stream])
    assert last.end()[1] == "length"
    assert [stream.made for stream in many] == made  # cancelled ones cost nothing
    assert not engine._waiting


def test_a_stream_whose_client_lags_gives_its_place_to_others(
    engine: Any, completer: Completer
) -> None:
    caught_up = threading.Event()
    one = Collected("abc", 100, lags=lambda: one.stream.made >= 32 and not caught_up.is_set())
    others = [Collected("ab", 100, seed) for seed in range(serving.STREAMS_TOGETHER)]
    engine.submit([one.stream])
    engine.submit([other.stream for other in others])
    for seed, other in enumerate(others):
        assert other.end()[0] == completer.complete("ab", 100, seed=seed)
    assert (one.stream.made, engine.is_running) == (32, True)
    caught_up.set()
    assert one.end()[0] == completer.complete("abc", 100, seed=0)


def test_closing_ends_streams_and_refuses_new_ones(engine: Any) -> None:
    one = Collected("a", 10**9)
    engine.submit([one.stream])
    engine.close()
    assert one.end()[1] == "error"
    assert not engine.submit([one.stream])


@pytest.mark.parametrize(
    ("error", "said", "reason"),
    [
        (ZeroDivisionError, r"Traceback(?s:.*)ZeroDivisionError\n", "the server failed"),
        (UserError("non-finite logits"), "error: non-finite logits\n", "non-finite logits"),
    ],
)
def test_after_an_error_others_are_served(
    engine: Any,
    completer: Completer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Any,
    said: str,
    reason: str,
) -> None:
    monkeypatch.setattr(engine._decoder, "logits", Mock(side_effect=error))
    one, second = Collected("a", 5), Collected("a", 5)
    engine.submit([one.stream])
    assert one.end() == (reason, "error")
    assert re.fullmatch(said, capsys.readouterr().err)
    assert engine.is_running
    engine.submit([second.stream])
    assert second.end()[0] == completer.complete("a", 5, seed=0)
