"""The engine: streams get what they would get alone, in turn and without waiting for each other."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.sampling import SamplingOptions
from shakespeare_lm.completion.stop_strings import StopStrings
from shakespeare_lm.data.tokenizer import CharTokenizer
from shakespeare_lm.model.transformer import CausalTransformer
from shakespeare_lm.serving.engine import (
    STREAMS_TOGETHER,
    Engine,
    Piece,
    Stream,
    TooManyStreamsError,
)

VOCABULARY = "abcdefghij"


class Collected:
    """A stream, and what it gave."""

    def __init__(self, prompt: str, max_tokens: int, seed: int = 0, **changes: Any) -> None:
        self.pieces: list[Piece] = []
        self.ended = threading.Event()
        settings = {
            "ids": deque(map(VOCABULARY.index, prompt), maxlen=8),
            "sampling": SamplingOptions(), "random": random.Random(f"completion {seed}"),
            "ending": StopStrings(), "max_tokens": max_tokens, "top": None, "streamed": False,
        }  # fmt: skip
        self.stream = Stream(**{**settings, **changes}, give=self._give)

    def _give(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.finish:
            self.ended.set()

    def text(self) -> str:
        assert self.ended.wait(20)
        return "".join(piece.text for piece in self.pieces)


@pytest.fixture
def completer(transformer: CausalTransformer) -> Completer:
    return Completer(transformer, CharTokenizer(VOCABULARY), 8)


@pytest.fixture
def engine(completer: Completer) -> Iterator[Engine]:
    started = Engine(completer, max_waiting=200)
    yield started
    started.close()


def test_streams_that_arrive_at_any_time_get_what_they_get_alone(
    engine: Engine, completer: Completer
) -> None:
    collected = []
    for seed in range(100):
        one = Collected(VOCABULARY[: 1 + seed % 7], 5 + seed % 40, seed)
        collected.append(one)
        engine.submit([one.stream])
        if seed % 10 == 0:
            time.sleep(0.01)
    for seed, one in enumerate(collected):
        prompt, length = VOCABULARY[: 1 + seed % 7], 5 + seed % 40
        assert one.text() == completer.complete(prompt, length, seed=seed)
        assert one.pieces[-1].finish == "length"
        assert len(one.pieces) == 1  # not streamed


def test_options_of_one_do_not_reach_another(engine: Engine, completer: Completer) -> None:
    greedy = Collected("abc", 30, sampling=SamplingOptions(temperature=0))
    wild = Collected("abc", 30, 5, sampling=SamplingOptions(temperature=2, top_k=4))
    engine.submit([greedy.stream, wild.stream])
    assert greedy.text() == completer.complete("abc", 30, greedy=True)
    assert wild.text() == completer.complete("abc", 30, seed=5, temperature=2, top_k=4)


def test_a_stop_string_ends_a_stream_and_its_likelihoods(
    engine: Engine, completer: Completer
) -> None:
    whole = completer.complete("abc", 60, seed=1)
    stop = whole[20:22]
    one = Collected("abc", 60, 1, ending=StopStrings([stop]), top=3, streamed=True)
    engine.submit([one.stream])
    assert one.text() == whole[: whole.index(stop)]
    assert one.pieces[-1].finish == "stop"
    likelihoods = [likelihood for piece in one.pieces for likelihood in piece.likelihoods]
    assert "".join(one.character for one in likelihoods) == one.text()
    expected = completer.score("abc" + one.text()).log_probabilities[2:]
    found = [one.log_probability for one in likelihoods]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-3, rtol=0)
    assert all(len(one.top) == 3 for one in likelihoods)


def test_a_cancelled_stream_makes_room(engine: Engine) -> None:
    endless = [Collected("a", 10**9) for _ in range(STREAMS_TOGETHER)]
    engine.submit([one.stream for one in endless])
    waiting = Collected("a", 3)
    engine.submit([waiting.stream])
    assert not waiting.ended.wait(0.2)
    for one in endless:
        one.stream.cancelled = True
    assert len(waiting.text()) == 3
    made = endless[0].stream.made
    time.sleep(0.1)
    assert endless[0].stream.made == made


def test_a_full_queue_refuses_all_of_a_request(engine: Engine) -> None:
    endless = [Collected("a", 10**9).stream for _ in range(STREAMS_TOGETHER + 150)]
    engine.submit(endless[:STREAMS_TOGETHER])
    while endless[0].made == 0:
        time.sleep(0.01)
    engine.submit(endless[STREAMS_TOGETHER:])
    with pytest.raises(TooManyStreamsError):
        engine.submit([Collected("a", 1).stream for _ in range(51)])
    for stream in endless:
        stream.cancelled = True
    last = Collected("a", 1)
    engine.submit([last.stream])
    assert len(last.text()) == 1


def test_closing_ends_streams_and_refuses_new_ones(completer: Completer) -> None:
    engine = Engine(completer)
    one = Collected("a", 10**9)
    engine.submit([one.stream])
    engine.close()
    assert one.ended.wait(5)
    assert one.pieces[-1].finish == "error"
    with pytest.raises(TooManyStreamsError):
        engine.submit([one.stream])


def test_after_a_mistake_of_the_program_others_are_served(
    completer: Completer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(completer)
    monkeypatch.setattr(engine._decoder, "logits", lambda *_: 1 / 0)
    one = Collected("a", 5)
    engine.submit([one.stream])
    assert one.ended.wait(5)
    assert one.pieces[-1].finish == "error"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert engine.is_running
    second = Collected("a", 5)
    engine.submit([second.stream])
    assert second.text() == completer.complete("a", 5, seed=0)
    engine.close()
    assert not engine.is_running
