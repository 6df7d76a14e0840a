"""The engine: streams get what they would get alone, in turn and without waiting for each other."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.model.transformer import CausalTransformer
from tests.serving.conftest import NEEDS

serving = pytest.importorskip("shakespeare_lm.serving.engine", reason=NEEDS)
VOCABULARY = "abcdefghij"


class Collected:
    """A stream, and what it gave."""

    def __init__(self, prompt: str, max_tokens: int, seed: int = 0, **changes: Any) -> None:
        self.pieces: list[Any] = []
        self.ended = threading.Event()
        asked = {"max_tokens": max_tokens, "temperature": 0.8, **changes}
        ids = deque(map(VOCABULARY.index, prompt), maxlen=8)
        self.stream = serving.Stream(ids, serving.CompletionRequest(**asked), seed, self._emit)

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
    asked = [(VOCABULARY[: 1 + seed % 7], 5 + seed % 40, seed) for seed in range(100)]
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


def test_more_streams_than_places_wait_and_too_many_are_refused(engine: Any) -> None:
    endless = [Collected("a", 10**9).stream for _ in range(serving.STREAMS_TOGETHER + 150)]
    active = endless[: serving.STREAMS_TOGETHER]
    engine.submit(active)
    while engine.active == 0:
        time.sleep(0.01)
    engine.submit(endless[serving.STREAMS_TOGETHER :])
    assert not engine.submit([Collected("a", 1).stream for _ in range(51)])  # none of them
    waiting = Collected("a", 3)
    assert engine.submit([waiting.stream])
    assert not waiting.ended.wait(0.2)
    for stream in endless:
        stream.cancelled = True
    assert waiting.end()[1] == "length"
    made = [stream.made for stream in active]
    assert min(made) > 0
    last = Collected("a", 3)
    engine.submit([last.stream])
    assert last.end()[1] == "length"
    assert [stream.made for stream in active] == made  # cancelled ones cost nothing


def test_closing_ends_streams_and_refuses_new_ones(engine: Any) -> None:
    one = Collected("a", 10**9)
    engine.submit([one.stream])
    engine.close()
    assert one.end()[1] == "error"
    assert not engine.submit([one.stream])


def test_after_a_mistake_of_the_program_others_are_served(
    engine: Any,
    completer: Completer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine._decoder, "logits", lambda *_: 1 / 0)
    one, second = Collected("a", 5), Collected("a", 5)
    engine.submit([one.stream])
    assert one.end() == ("", "error")
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert engine.is_running
    engine.submit([second.stream])
    assert second.end()[0] == completer.complete("a", 5, seed=0)
