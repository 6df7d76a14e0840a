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
LOGITS_OF_MANY = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
UNIFORM = [random.Random(row).random() for row in range(20)]


def kept(logits: torch.Tensor, **options: float) -> list[bool]:
    """Return which characters of one row can be drawn."""
    probabilities = next_probabilities(logits[None], SamplingOptions(temperature=1.0, **options))
    assert probabilities.sum().item() == pytest.approx(1.0)
    return (probabilities[0] > 0).tolist()


@pytest.mark.parametrize(
    "options",
    [{"greedy": True}, {"temperature": 0.0}, {"temperature": 1e-30}, {"top_k": 1}, {"top_p": 1e-9},
     {"min_p": 1.0}],
)  # fmt: skip
def test_greedy_temperature_zero_top_k_one_and_tiny_fractions_agree(options):
    ids = next_ids(LOGITS_OF_MANY, SamplingOptions(**options), UNIFORM)
    assert torch.equal(ids, LOGITS_OF_MANY.argmax(dim=1))


def test_greedy_takes_the_lowest_id_on_ties_and_temperature_divides_the_logits():
    ties = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    assert next_ids(ties, SamplingOptions(greedy=True), [0.9, 0.9]).tolist() == [1, 0]
    probabilities = next_probabilities(LOGITS, SamplingOptions(temperature=2.0))
    torch.testing.assert_close(probabilities, (LOGITS.double() / 2).softmax(-1))


def test_top_k_keeps_exactly_k_on_ties():
    for k in (1, 2, 5, 6, 100):
        assert sum(kept(torch.zeros(6), top_k=k)) == min(k, 6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_p": 0.39}, [0, 1, 0, 0]),  # the fewest that reach it
        ({"top_p": 0.5}, [0, 1, 1, 0]),
        ({"top_p": 0.8}, [0, 1, 1, 1]),
        ({"top_p": 1.0}, [1, 1, 1, 1]),
        ({"min_p": 0.3}, [0, 1, 1, 1]),  # those as likely as a share of the likeliest
        ({"min_p": 0.6}, [0, 1, 1, 0]),
        ({"min_p": 0.9}, [0, 1, 0, 0]),
        # Of the first two, 0.4 and 0.3, the first alone has 4/7 = 0.571 of the probability.
        ({"top_k": 2, "top_p": 0.56}, [0, 1, 0, 0]),
        ({"top_k": 3, "min_p": 0.2}, [0, 1, 1, 1]),
    ],
)
def test_each_filter_keeps_the_likeliest_that_it_should(options, expected):
    assert kept(torch.tensor([0.1, 0.4, 0.3, 0.2]).log(), **options) == list(map(bool, expected))


def test_min_p_compares_probabilities_after_the_temperature():
    logits = torch.tensor([[0.8, 0.2]]).log()
    # At temperature 0.5 the ratio of 4 becomes 16.
    cold = next_probabilities(logits, SamplingOptions(temperature=0.5, min_p=0.1))
    assert cold.tolist() == [[1.0, 0.0]]
    assert kept(logits[0], min_p=0.1) == [True, True]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.1}])
def test_rows_do_not_change_each_other(options):
    logits, way = LOGITS_OF_MANY * 3, SamplingOptions(**options)
    together = next_ids(logits, way, UNIFORM).tolist()
    alone = [next_ids(logits[n : n + 1], way, UNIFORM[n : n + 1]) for n in range(20)]
    assert together == [int(one) for one in alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_not_modified(dtype):
    # In double precision there is no conversion that makes a copy by chance.
    logits = LOGITS.to(dtype, copy=True)
    next_ids(logits, SamplingOptions(top_k=2, top_p=0.5, min_p=0.1), [0.5])
    assert torch.equal(logits, LOGITS.to(dtype))


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.97}, {"min_p": 0.05}])
def test_frequencies_match_probabilities(options):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1: expected a value >= 0"),
        ({"temperature": math.nan}, "temperature is nan: expected a value >= 0"),
        ({"temperature": math.inf}, "temperature is inf: expected a value >= 0"),
        ({"top_k": 0}, "top_k is 0: expected a value >= 1"),
        ({"top_p": 0.0}, "top_p is 0.0: expected 0 < top_p <= 1"),
        ({"top_p": math.nan}, "top_p is nan: expected 0 < top_p <= 1"),
        ({"min_p": 2.0}, "min_p is 2.0: expected 0 < min_p <= 1"),
        ({"greedy": "yes"}, "greedy is 'yes': expected bool"),
        ({"temperature": None}, "temperature is None: expected float"),
        ({"top_k": 2.5}, "top_k is 2.5: expected int or None"),
        ({"top_p": "0.9"}, "top_p is '0.9': expected float or None"),
        ({"min_p": [0.1]}, "min_p is [0.1]: expected float or None"),
    ],
)
def test_invalid_values_are_refused_by_name(options, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        SamplingOptions(**options)


def test_the_keywords_are_the_options_and_of_their_types():
    assert get_type_hints(SamplingKeywords) == get_type_hints(SamplingOptions)
    assert list(SamplingKeywords.__annotations__) == list(SamplingOptions.__dataclass_fields__)
