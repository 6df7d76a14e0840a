"""How likely a text is, character by character."""

import math

import pytest
import torch

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.decoder import Window, characters_kept
from shakespeare_lm.errors import UserError


def by_hand(completer: Completer, text: str, window: Window) -> list[float]:
    """Score by reading each character's window by itself."""
    ids = completer.tokenizer.encode(text)
    length, scores = 0, []
    for position in range(1, len(ids)):
        length = characters_kept(window, 8) if length == 8 else length + 1
        with torch.no_grad():
            logits = completer.network(torch.tensor([ids[position - length : position]]))
        scores.append(logits[0, -1, :-1].log_softmax(-1)[ids[position]].item())
    return scores


@pytest.mark.parametrize("window", ["stride", "exact"])
@pytest.mark.parametrize("length", [2, 8, 9, 10, 13, 14, 40])
def test_characters_see_the_window_that_completion_would(completer, window, length, monkeypatch):
    text = ("abcdefghi\n" * 9)[3 : 3 + length]
    expected = by_hand(completer, text, window)
    for together in (8192, 8):  # all windows at once, and one at a time
        monkeypatch.setattr("shakespeare_lm.methods.sliding_window._CHARACTERS_TOGETHER", together)
        score = completer.score(text, window=window)
        assert score.text == text
        # Rounding of sums of a few terms of order ten.
        assert score.log_probabilities == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_sums_follow_from_the_characters_and_the_mode_stays(completer, training):
    completer.network.train(training)
    score = completer.score("abcabcZabcabcabc", unknown="skip")
    assert completer.network.training is training
    assert score == completer.score("abcabcabcabcabc")
    assert len(score.log_probabilities) == 14
    assert score.total_nats == pytest.approx(-sum(score.log_probabilities))
    mean = score.total_nats / 14
    assert score.bits_per_character == pytest.approx(mean / math.log(2))
    assert score.perplexity == pytest.approx(math.exp(mean))


def test_the_alternatives_are_the_likeliest_in_order(completer):
    score = completer.score("abcabc", top=10)
    for likelihood, best, character in zip(
        score.log_probabilities, score.alternatives, "bcabc", strict=True
    ):
        assert len(best) == 10
        assert sorted(best, key=lambda pair: -pair[1]) == best
        assert dict(best)[character] == likelihood
        assert sum(math.exp(value) for _, value in best) == pytest.approx(1.0)
    three = completer.score("abcabc", top=3).alternatives
    assert three == [best[:3] for best in score.alternatives]
    assert completer.score("abcabc").alternatives == []


def test_the_progress_counts_the_characters_scored(completer, monkeypatch):
    monkeypatch.setattr("shakespeare_lm.methods.sliding_window._CHARACTERS_TOGETHER", 8)
    calls: list[tuple[int, int]] = []
    score = completer.score("abc" * 7, progress=lambda *numbers: calls.append(numbers))
    assert score == completer.score("abc" * 7)
    # The first window predicts 8 characters, and each later one the 5 that are new in it.
    assert calls == [(8, 20), (13, 20), (18, 20), (20, 20)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the text has 0 known characters: expected at least 2"),
        ("a", {}, "the text has 1 known characters: expected at least 2"),
        ("ZZZ", {"unknown": "skip"}, "the text has 0 known characters: expected at least 2"),
        ("abZc", {}, "'Z'"),
        ("abc", {"top": -1}, "top is -1: expected 0 <= top <= 10"),
        ("abc", {"top": 11}, "top is 11: expected 0 <= top <= 10"),
        ("abc", {"window": "whole"}, "window is 'whole': choose from: stride, exact"),
    ],
)
def test_too_short_a_text_and_invalid_options_are_refused(completer, text, options, message):
    with pytest.raises(UserError, match=message):
        completer.score(text, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_no_score_is_made_of_non_finite_logits_and_a_large_one_is_a_number(completer, value):
    torch.nn.init.constant_(completer.network.head.weight, value)
    with pytest.raises(UserError, match="the network computes non-finite numbers"):
        completer.score("abc")
    torch.nn.init.normal_(completer.network.head.weight, std=1e30)
    assert 1e300 < completer.score("abc").perplexity < math.inf


def test_a_short_text_is_not_read_in_a_long_window(completer):
    seen = []
    completer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    completer.score("abc")
    assert seen == [(1, 2)]
