"""Choosing the next character: filters, ties, frequencies."""

import math
import random
import re
from typing import get_type_hints

import pytest
import torch

from shakespeare_lm.completion.sampling import (
    SamplingKeywords,
    SamplingOptions,
    next_ids,
    next_probabilities,
)
from shakespeare_lm.errors import UserError

LOGITS = torch.tensor([[1.0, 3.0, -2.0, 2.0, 0.5]])


def kept(logits: torch.Tensor, **options: float) -> list[bool]:
    """Return which characters of one row can be drawn."""
    probabilities = next_probabilities(logits[None], SamplingOptions(temperature=1.0, **options))
    assert probabilities.sum().item() == pytest.approx(1.0)
    return (probabilities[0] > 0).tolist()


def test_greedy_temperature_zero_top_k_one_and_tiny_fractions_agree() -> None:
    ways = [
        SamplingOptions(greedy=True),
        SamplingOptions(temperature=0.0),
        SamplingOptions(temperature=1e-30),
        SamplingOptions(top_k=1),
        SamplingOptions(top_p=1e-9),
        SamplingOptions(min_p=1.0),
    ]
    logits = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    uniform = [random.Random(row).random() for row in range(20)]
    for way in ways:
        assert torch.equal(next_ids(logits, way, uniform), logits.argmax(dim=1))


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    ties = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    assert next_ids(ties, SamplingOptions(greedy=True), [0.9, 0.9]).tolist() == [1, 0]


def test_temperature_divides_the_logits() -> None:
    probabilities = next_probabilities(LOGITS, SamplingOptions(temperature=2.0))
    torch.testing.assert_close(probabilities, (LOGITS.double() / 2).softmax(-1))


def test_top_k_keeps_exactly_k_on_ties() -> None:
    for k in (1, 2, 5, 6, 100):
        assert sum(kept(torch.zeros(6), top_k=k)) == min(k, 6)


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    assert kept(logits, top_p=0.49) == [False, True, False, False]
    assert kept(logits, top_p=0.6) == [False, True, False, True]
    assert kept(logits, top_p=0.9) == [True, True, False, True]
    assert kept(logits, top_p=1.0) == [True, True, True, True]


def test_min_p_keeps_those_as_likely_as_a_share_of_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()
    assert kept(logits, min_p=0.3) == [False, True, True, True]
    assert kept(logits, min_p=0.6) == [False, True, True, False]
    assert kept(logits, min_p=0.9) == [False, True, False, False]


def test_min_p_compares_probabilities_after_the_temperature() -> None:
    logits = torch.tensor([[0.8, 0.2]]).log()
    # At temperature 0.5 the ratio of 4 becomes 16.
    cold = next_probabilities(logits, SamplingOptions(temperature=0.5, min_p=0.1))
    assert cold.tolist() == [[1.0, 0.0]]
    assert kept(logits[0], min_p=0.1) == [True, True]


def test_each_filter_works_on_what_the_filters_before_it_kept() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the first two, 0.4 and 0.3, the first alone has 4/7 = 0.571 of the probability.
    assert kept(logits, top_k=2, top_p=0.56) == [True, False, False, False]
    assert kept(logits, top_k=3, min_p=0.2) == [True, True, True, False]


def test_rows_do_not_change_each_other() -> None:
    logits = torch.randn(8, 12, generator=torch.Generator().manual_seed(1)) * 3
    uniform = [random.Random(row).random() for row in range(8)]
    for way in (
        SamplingOptions(),
        SamplingOptions(top_k=3),
        SamplingOptions(top_p=0.7),
        SamplingOptions(min_p=0.1),
    ):
        together = next_ids(logits, way, uniform).tolist()
        alone = [next_ids(logits[n : n + 1], way, uniform[n : n + 1]) for n in range(8)]
        assert together == [int(one) for one in alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_not_modified(dtype: torch.dtype) -> None:
    # In double precision there is no conversion that makes a copy by chance.
    logits = LOGITS.to(dtype, copy=True)
    next_ids(logits, SamplingOptions(top_k=2, top_p=0.5, min_p=0.1), [0.5])
    assert torch.equal(logits, LOGITS.to(dtype))


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.97}, {"min_p": 0.05}])
def test_frequencies_match_probabilities(options: dict[str, float]) -> None:
    way, draws = SamplingOptions(temperature=1.0, **options), 4000
    source = random.Random(1)
    uniform = [source.random() for _ in range(draws)]
    drawn = next_ids(LOGITS.expand(draws, -1), way, uniform)
    counts = drawn.bincount(minlength=5)
    probabilities = next_probabilities(LOGITS, way)[0]
    possible = probabilities > 0
    assert possible.sum() == 4
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * draws
    chi_squared = ((counts[possible] - expected) ** 2 / expected).sum().item()
    # 3 degrees of freedom: a correct sampler exceeds 21.1 for one seed in 10,000; ours is fixed.
    assert chi_squared < 21.1


def test_extreme_random_numbers_choose_an_id_of_positive_probability() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0, 0.0]])
    largest = 1.0 - 2.0**-53  # the largest that `random` returns
    for scale in (0.0, 1.0, 100.0, 1e4):
        for uniform in (0.0, largest):
            (number,) = next_ids(
                logits * scale, SamplingOptions(temperature=1.0, top_k=2), [uniform]
            )
            probabilities = next_probabilities(
                logits * scale, SamplingOptions(temperature=1.0, top_k=2)
            )
            assert probabilities[0, number] > 0


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
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 2.0}, "min_p is 2.0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"greedy": "yes"}, "greedy is 'yes': expected bool"),
        ({"temperature": "hot"}, "temperature is 'hot': expected float"),
        ({"temperature": None}, "temperature is None: expected float"),
        ({"top_k": 2.5}, "top_k is 2.5: expected int or None"),
        ({"top_k": True}, "top_k is True: expected int or None"),
        ({"top_p": "0.9"}, "top_p is '0.9': expected float or None"),
        ({"min_p": [0.1]}, "min_p is [0.1]: expected float or None"),
    ],
)
def test_values_of_other_types_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        SamplingOptions(**options)


def test_the_keywords_are_the_options_and_of_their_types() -> None:
    assert get_type_hints(SamplingKeywords) == get_type_hints(SamplingOptions)
    assert list(SamplingKeywords.__annotations__) == list(SamplingOptions.__dataclass_fields__)


def test_the_filters_are_the_options_that_default_to_none() -> None:
    assert not SamplingOptions(greedy=True, temperature=0.0).filters
    for name in ("top_k", "top_p", "min_p"):
        assert SamplingOptions(**{name: 1}).filters, name
