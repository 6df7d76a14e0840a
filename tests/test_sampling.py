"""Choosing the next character: filters, ties, frequencies."""

import math

import pytest
import torch

from shakespeare_lm.errors import UserError
from shakespeare_lm.sampling import Decoding, next_id, next_probabilities

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.0, 0.5])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_temperature_zero_top_k_one_and_a_tiny_top_p_agree() -> None:
    ways = [
        Decoding(greedy=True),
        Decoding(temperature=0.0),
        Decoding(temperature=1e-30),
        Decoding(top_k=1),
        Decoding(top_p=1e-9),
    ]
    for seed in range(20):
        logits = torch.randn(9, generator=generator(seed))
        assert {next_id(logits, way, generator(seed)) for way in ways} == {int(logits.argmax())}


def test_temperature_divides_the_logits() -> None:
    probabilities = next_probabilities(LOGITS, Decoding(temperature=2.0))
    torch.testing.assert_close(probabilities, (LOGITS.double() / 2).softmax(0))


def test_top_k_keeps_exactly_k_on_ties() -> None:
    ties = torch.zeros(6)
    for k in (1, 2, 5, 6, 100):
        probabilities = next_probabilities(ties, Decoding(temperature=1.0, top_k=k))
        assert int((probabilities > 0).sum()) == min(k, 6)
        assert probabilities.sum().item() == pytest.approx(1.0)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = {
        p: (next_probabilities(logits, Decoding(temperature=1.0, top_p=p)) > 0).tolist()
        for p in (0.49, 0.6, 0.9, 1.0)
    }
    assert kept == {
        0.49: [True, False, False, False],
        0.6: [True, True, False, False],
        0.9: [True, True, True, False],
        1.0: [True, True, True, True],
    }


def test_top_p_counts_what_top_k_has_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the first two, 0.4 and 0.3, the first alone has 4/7 = 0.571 of the probability.
    probabilities = next_probabilities(logits, Decoding(temperature=1.0, top_k=2, top_p=0.56))
    assert (probabilities > 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_not_modified(dtype: torch.dtype) -> None:
    # In double precision there is no conversion that makes a copy by chance.
    logits = LOGITS.to(dtype, copy=True)
    next_id(logits, Decoding(top_k=2, top_p=0.5), generator())
    assert torch.equal(logits, LOGITS.to(dtype))


def test_frequencies_match_probabilities() -> None:
    decoding, draws = Decoding(temperature=1.0, top_k=4), 4000
    probabilities = next_probabilities(LOGITS, decoding)
    source = generator(1)
    counts = torch.zeros(5)
    for _ in range(draws):
        counts[next_id(LOGITS, decoding, source)] += 1
    assert counts[2] == 0
    kept = probabilities > 0
    expected = probabilities[kept] * draws
    chi_squared = ((counts[kept] - expected) ** 2 / expected).sum().item()
    # 3 degrees of freedom: a right sampler exceeds 21.1 for one seed in 10,000. The seed is fixed.
    assert chi_squared < 21.1


def test_one_seed_gives_one_sequence() -> None:
    def draw(seed: int) -> list[int]:
        source = generator(seed)
        return [next_id(LOGITS, Decoding(), source) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoding(**options)
