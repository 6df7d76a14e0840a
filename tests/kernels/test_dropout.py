"""Dropout: how many values it zeroes, which, what it does to the others, and its seed."""

from unittest.mock import Mock

import pytest
import torch

from shakespeare_lm.kernels import dropout
from shakespeare_lm.kernels.dropout import _random_bits, apply_dropout, seed_dropout


@pytest.mark.parametrize("plain", [[], ["dropout"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_asked_fraction_is_zero_and_the_mean_stays(
    fraction: float, dtype: torch.dtype, plain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = Mock(wraps=_random_bits)
    monkeypatch.setattr(dropout, "PLAIN", plain)
    monkeypatch.setattr(dropout, "_random_bits", bits)
    torch.manual_seed(0)
    dropped = apply_dropout(torch.ones(1000, 1003, dtype=dtype), fraction, training=True)
    assert dropped.dtype == dtype
    # The standard deviation of the fraction is at most 0.0005.
    assert (dropped == 0).double().mean().item() == pytest.approx(fraction, abs=0.0025)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - fraction)))
    assert bits.called is not bool(plain)


def test_each_value_is_dropped_by_itself() -> None:
    # Four values share a random number of 64 bits, and none of them may follow another.
    torch.manual_seed(0)
    zero = (apply_dropout(torch.ones(200_000, 8), 0.5, training=True) == 0).double()
    centred = zero - 0.5
    covariance = centred.T @ centred / len(zero)
    torch.testing.assert_close(covariance, torch.eye(8).double() / 4, rtol=0, atol=0.003)


def test_all_16_bits_are_random() -> None:
    torch.manual_seed(0)
    bits = _random_bits(torch.empty(100_003)).int() + 2**15
    set_bits = torch.stack([(bits >> place) & 1 for place in range(16)]).double().mean(dim=1)
    torch.testing.assert_close(set_bits, torch.full((16,), 0.5).double(), rtol=0, atol=0.01)


def test_any_shape_and_a_fraction_next_to_1_which_drops_nearly_everything() -> None:
    torch.manual_seed(0)
    for shape in ((), (1,), (3,), (5, 7), (0, 4)):
        assert apply_dropout(torch.ones(shape), 0.5, training=True).shape == shape
    assert apply_dropout(torch.ones(1000), 1 - 1e-9, training=True).count_nonzero() <= 1


def test_nothing_happens_in_evaluation_or_without_a_fraction() -> None:
    x = torch.randn(10)
    assert apply_dropout(x, 0.0, training=True) is x
    assert apply_dropout(x, 0.5, training=False) is x


def test_a_step_draws_the_same_numbers_whatever_was_drawn_before_and_no_other_step_does() -> None:
    def drawn(where: str) -> tuple[float, ...]:
        seed_dropout(where, torch.device("cpu"))
        return tuple(apply_dropout(torch.ones(100), 0.5, training=True).tolist())

    places = ["1 0 7 0", "1 0 8 0", "1 1 7 0", "2 0 7 0", "1 0 7 1"]
    first = [drawn(place) for place in places]
    torch.rand(3)
    assert [drawn(place) for place in places] == first
    assert len(set(first)) == len(places)
